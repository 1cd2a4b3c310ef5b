"""When an answer began, for engines that don't tell."""

from __future__ import annotations

import time

from backends.backend import Timings


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: float | None = None

    def began(self) -> None:
        """The first text is there; later calls change nothing."""
        self._first = self._first or time.monotonic()

    def timings(self) -> Timings:
        """Return the milliseconds before the first text, and since."""
        now = time.monotonic()
        first = self._first or now
        return Timings(0.0, (first - self._start) * 1000, (now - first) * 1000)
