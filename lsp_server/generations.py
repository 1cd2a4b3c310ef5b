"""One generation per document: a newer one cancels the older, unless that one matters more.

Rule: only who runs when is decided here. Knows neither documents nor what a generation does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, TypeVar

T = TypeVar("T")


class Rank(IntEnum):
    """How much a generation matters. None cancels one of a higher rank."""

    IDLE = 0  # made ready in case it is asked for
    TYPING = 1
    BY_HAND = 2


class Generations:
    """The generations under way, by document."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[asyncio.Task[Any], Rank]] = {}

    async def run(
        self, document: str, work: Coroutine[Any, Any, T], rank: Rank = Rank.TYPING
    ) -> T | None:
        """Run `work`; None if it gave way to a newer one, or to one of a higher rank.

        Cancelling the caller cancels `work`, and is raised as ever.
        """
        if document in self._running and self._running[document][1] > rank:
            work.close()
            return None
        self.cancel(document)
        task = asyncio.ensure_future(work)
        self._running[document] = (task, rank)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            return None
        finally:
            if document in self._running and self._running[document][0] is task:
                del self._running[document]

    def cancel(self, document: str, up_to: Rank = Rank.BY_HAND) -> None:
        """Cancel the generation of a document, if there is one and its rank is no higher."""
        if document in self._running and self._running[document][1] <= up_to:
            self._running.pop(document)[0].cancel()
