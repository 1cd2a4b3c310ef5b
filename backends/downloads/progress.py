"""What is known of a download while it runs: its state, its bytes, how fast they come.

Rule: a `Row` is what goes out, whole and unchanging; a `Meter` makes rows, and its bytes never go
back. Must not know threads or clients.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

WINDOW_S: Final = 5.0  # over which the rate is taken


class State(StrEnum):
    """Where a download stands."""

    RESOLVING = "resolving"  # asking what there is
    WAITING = "waiting"  # for another download, or before asking again
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"  # what was received stays


FINAL: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, slots=True)
class Row:
    """A download as it stands. `reason` is for people: why it waits or failed, what is odd."""

    name: str
    state: State
    file: str = ""
    received_bytes: int = 0
    total_bytes: int = 0
    rate: float = 0.0  # bytes per second
    eta_s: float | None = None
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing more comes."""
        return self.state in FINAL

    def as_json(self) -> dict[str, Any]:
        """Return it as the API has it."""
        return {
            "name": self.name,
            "state": self.state.value,
            "file": self.file,
            "received_bytes": self.received_bytes,
            "total_bytes": self.total_bytes,
            "rate": round(self.rate, 1),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "reason": self.reason,
        }


@dataclass
class Meter:
    """Makes the rows of one download."""

    row: Row
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list)  # what is odd, until the end
    _before: int = 0  # bytes of the files that are finished
    _recent: deque[tuple[float, int]] = field(default_factory=deque)  # (when, new bytes)

    def enter(self, state: State, reason: str = "", **changes: Any) -> Row:
        """Go to another state."""
        if state is not State.DOWNLOADING:
            self._recent.clear()
            changes |= {"rate": 0.0, "eta_s": None}
        if state is State.DONE:
            changes["received_bytes"] = self.row.total_bytes
        said = " ".join([*self.notes, reason]).strip()
        self.row = replace(self.row, state=state, reason=said, **changes)
        return self.row

    def file_done(self, size: int) -> None:
        """Count a file of `size` bytes as finished."""
        self._before += size

    def count(self, there: int, last: int, fresh: bool) -> Row:
        """Take that `there` bytes of the current file are there, `last` before; return the row.

        `fresh`: they came just now, and were not there from an earlier run.
        """
        now = self.clock()
        if fresh and there > last:
            self._recent.append((now, there - last))
        while self._recent and now - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()
        received = max(self.row.received_bytes, min(self._before + there, self.row.total_bytes))
        rate = self._rate(now)
        left = self.row.total_bytes - received
        self.row = replace(
            self.row,
            state=State.DOWNLOADING,
            reason=" ".join(self.notes),
            received_bytes=received,
            rate=rate,
            eta_s=left / rate if rate else None,
        )
        return self.row

    def _rate(self, now: float) -> float:
        if len(self._recent) < 2:
            return 0.0
        first, first_size = self._recent[0]
        size = sum(row[1] for row in self._recent) - first_size
        return size / max(now - first, 1e-3)
