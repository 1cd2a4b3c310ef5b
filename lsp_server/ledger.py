"""The ledger: how many suggestions were offered, shown, accepted and kept, on this machine alone.

Counts per day, model and language, and how long answers took, in classes of 10 %. No text of a
document, no path, no time of day. SQLite in the user's state folder, mode 0600; nothing sends it
anywhere.

Rule: nobody waits for it. Counts are collected in memory and added to the file on a thread of its
own, every few seconds and at the end; where the file cannot be used they stay in memory, with one
line in the log. Several windows add to the same file: each adds, none overwrites. Knows no pygls.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsp_server.kept import Acceptance
    from lsp_server.ledger_file import LedgerFile

logger = logging.getLogger(__name__)

WRITE_AFTER_S = 3.0
RETRY_AFTER_S = 60.0  # where it could not be written
CLASS_STEP = 1.1  # from one class of latencies to the next


class Count(StrEnum):
    """What is counted, by its name in the file."""

    OFFERED = "offered"  # suggestions answered to the editor
    SHOWN = "shown"  # of these, shown; offered, where the editor does not tell
    ACCEPTED = "accepted"  # of these, accepted as a whole or in part
    WHOLE = "whole"  # how often all was accepted at once,
    LINE = "line"  # more than a word of it,
    WORD = "word"  # or a word
    CHARACTERS = "characters"  # accepted, so not typed
    CHECKED = "checked"  # acceptances looked at again 30 s later
    KEPT = "kept"  # of these, still in the document


@dataclass(frozen=True, slots=True)
class Key:
    """What counts are kept by, besides the day."""

    model: str
    language: str


@dataclass(frozen=True, slots=True)
class Row:
    """A count of one day, or the answers of one class of latencies (`what` is its number)."""

    day: str  # ISO date
    key: Key
    what: Count | int
    n: int


def latency_class(ms: float) -> int:
    """Return the number of the class that a latency is in; 0 is up to 1 ms."""
    return max(0, math.ceil(math.log(max(ms, 1.0), CLASS_STEP)))


def class_ms(number: int) -> float:
    """Return the middle of a class, in ms."""
    return CLASS_STEP ** (number - 0.5) if number else 1.0


class Ledger:
    """Collects counts; `path` is asked for the file's place in the writing thread, when needed.

    What happens while it is switched off is not counted, and what was not written yet by then,
    before the user's settings were read for one, is forgotten.
    """

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._file: LedgerFile | None = None
        self._pending: Counter[tuple[str, Key, Count | int]] = Counter()
        self._checks: list[tuple[Key, Acceptance]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._told = False
        self.enabled = True

    def switch(self, on: bool) -> None:
        """Count from now on, or count no more."""
        with self._changed:
            self.enabled = on
            if not on:
                self._pending.clear()
                self._checks.clear()

    def count(self, key: Key, what: Count, n: int = 1) -> None:
        """Add `n` to a count."""
        self._add(key, what, n)

    def latency(self, key: Key, ms: float) -> None:
        """Count an answer that took `ms`."""
        self._add(key, latency_class(ms), 1)

    def check_kept(self, key: Key, acceptance: Acceptance) -> None:
        """Count whether accepted text was kept; the comparison is done elsewhere."""
        if self.enabled:
            with self._changed:
                self._checks.append((key, acceptance))
                self._wake()

    def unwritten(self) -> tuple[Row, ...]:
        """Return what is in memory alone."""
        with self._changed:
            return tuple(Row(*where, n) for where, n in self._pending.items())

    def close(self, timeout: float = 1.0) -> None:
        """Write what is collected, for `timeout` seconds at most, and take nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _add(self, key: Key, what: Count | int, n: int) -> None:
        if self.enabled:
            with self._changed:
                self._pending[date.today().isoformat(), key, what] += n
                self._wake()

    def _wake(self) -> None:
        """Have what is collected written; called with the lock held."""
        if self._thread is None and not self._closing:
            # A daemon: an editor's exit never waits for a disk beyond `close`'s timeout.
            self._thread = threading.Thread(target=self._run, name="midspan-ledger", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait_s = WRITE_AFTER_S
        while True:
            with self._changed:
                if not self._closing:
                    self._changed.wait(wait_s)
                closing = self._closing
                checks, self._checks = self._checks, []
            self._look(checks)
            with self._changed:
                pending, self._pending = self._pending, Counter()
            written = self._write(Row(*where, n) for where, n in pending.items())
            wait_s = WRITE_AFTER_S if written else RETRY_AFTER_S
            if not written:
                with self._changed:
                    self._pending += pending
            with self._changed:
                if closing or not (self._pending or self._checks):
                    self._thread = None
                    return

    def _look(self, checks: list[tuple[Key, Acceptance]]) -> None:
        for key, acceptance in checks:
            self.count(key, Count.CHECKED)
            if acceptance.kept():
                self.count(key, Count.KEPT)

    def _write(self, rows: Iterable[Row]) -> bool:
        """Add rows to the file; False if it cannot be used, which the log hears of once."""
        from backends.errors import MidspanError
        from lsp_server.ledger_file import LedgerFile

        try:
            if self._file is None:
                self._file = LedgerFile(self._path())
            self._file.add(rows)
        except MidspanError as exc:
            if not self._told:
                self._told = True
                logger.warning("the ledger is not written, and counts in memory: %s", exc)
            return False
        except Exception as exc:  # a bug; counting must not end with it
            logger.error("%s in the ledger", type(exc).__name__)
            return False
        return True
