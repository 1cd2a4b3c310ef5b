"""Which place is asked next, and when: the hub, its mirrors in order, and round again.

Rule: the next place at once, a new round after a pause that doubles; a rate limit as long as it
says. What asking again cannot change ends it: but only once every place has said so. Must not know
what is asked for.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from backends.downloads.web import Cancel, Web
from backends.errors import (
    MidspanError,
    RemoteError,
    RemoteRateLimited,
    RemoteRefused,
    RemoteUnauthorized,
    UnknownModel,
)

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5  # seconds
LONGEST_PAUSE: Final = 30.0
LONGEST_ASKED: Final = 300.0  # that a hub may ask to wait


class Tries:
    """The tries of one thing: `place` is where to ask, `failed` says what came of it."""

    def __init__(
        self,
        places: Sequence[Web],
        retries: int,
        cancel: Cancel,
        waiting: Callable[[str], None],
    ) -> None:
        self._places = places
        self._retries = retries
        self._cancel = cancel
        self._waiting = waiting
        self._failures = 0  # in a row
        self._index = 0

    @property
    def place(self) -> Web:
        """The place to ask now."""
        return self._places[self._index]

    def failed(self, error: MidspanError, *, moved: bool = False) -> None:
        """Return when the next place may be asked; `moved`: something came of the try.

        Raises `error` where no try is left, Cancelled.
        """
        self._failures = 1 if moved else self._failures + 1
        self._index = (self._index + 1) % len(self._places)
        if self._failures >= limit(error, len(self._places), self._retries):
            raise error
        wait = pause(error, self._failures, len(self._places), random.random())
        logger.info("%s, asking again in %.1f s", error.kind, wait)
        if wait:
            self._waiting(f"{error} Trying again in {wait:.1f} s.")
        self._cancel.wait(wait)


def limit(error: MidspanError, places: int, retries: int) -> int:
    """Return the failures in a row after which to give up."""
    if isinstance(error, UnknownModel | RemoteUnauthorized | RemoteRefused):
        return places
    return (retries + 1) * places if isinstance(error, RemoteError) else 0


def pause(error: MidspanError, failures: int, places: int, jitter: float) -> float:
    """Return the seconds to wait; `jitter` is a random number from 0 to 1."""
    if failures % places:
        return 0.0  # there is a place that was not asked in this round
    if isinstance(error, RemoteRateLimited) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_ASKED)
    rounds = failures // places - 1
    return float(min(FIRST_PAUSE * 2.0**rounds, LONGEST_PAUSE) * (0.5 + jitter))
