"""Cells on their way between a worker and the manager, and the copies that outlive a crash.

Rule: a large snapshot never holds up another frame. It goes in parts, from a thread of its own,
and a backup only while the worker has nothing else to do. Must not know models, engines or HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from backends import frames
from backends.decoding.snapshots import Snapshot, common_prefix

PART = 256 * 1024  # bytes: well under a millisecond in a pipe
LARGEST = 1024**3  # bytes of a snapshot: who sends more is out of order
BUSY_POLL = 0.01  # seconds


@runtime_checkable
class KeepsCells(Protocol):
    """A backend whose cells can be taken out and given to another of the very same model."""

    @property
    def backups(self) -> list[frames.Snapshot]:
        """What was cached of each document when it last rested, newest first."""
        ...

    async def unload(self, limit: int) -> list[frames.Snapshot]:
        """End it; return what it had cached, up to `limit` bytes, most recently used first."""
        ...

    async def give(self, snapshots: Sequence[frames.Snapshot]) -> None:
        """Take what `unload` or `backups` returned."""
        ...

    async def kill(self) -> None:
        """End it at once."""
        ...


def parts(snapshot: Snapshot | frames.Snapshot, owner: str = "") -> Iterator[frames.Snapshot]:
    """Yield the frames that `Joiner` makes `snapshot` of again."""
    data = memoryview(snapshot.data)
    for start in range(0, max(1, len(data)), PART):
        end = start + PART
        yield frames.Snapshot(
            tokens=list(snapshot.tokens) if start == 0 else [],
            data=bytes(data[start:end]),
            more=end < len(data),
            owner=owner,
        )


class Joiner:
    """Puts parts together. A first part ends whatever was not whole before it."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._data = bytearray()

    def add(self, part: frames.Snapshot) -> frames.Snapshot | None:
        """Return the snapshot that `part` completes. Raises FrameError if it is too large."""
        if part.tokens:
            self._tokens, self._data = part.tokens, bytearray()
        self._data += part.data
        if len(self._data) > LARGEST:
            raise frames.FrameError(f"a snapshot is larger than {LARGEST} bytes")
        if part.more or not self._tokens:
            return None
        whole = frames.Snapshot(self._tokens, bytes(self._data), owner=part.owner)
        self._tokens, self._data = [], bytearray()
        return whole


class BackupSender:
    """In the worker: sends copies of cells while nothing is under way."""

    def __init__(
        self, limit: int, send: Callable[[frames.Snapshot], None], busy: Callable[[], bool]
    ) -> None:
        """Take `send(part)`, called from a thread of its own, and whether requests are there."""
        self.limit = limit
        self._send = send
        self._busy = busy
        self._next: tuple[str, Snapshot] | None = None
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="backups", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the last copy was sent."""
        return self._next is None

    def put(self, owner: str, snapshot: Snapshot) -> None:
        """Send the latest copy of a document's cells, as soon as there is time."""
        with self._wake:
            self._next = owner, snapshot
            self._wake.notify()

    def stop(self) -> None:
        """Send nothing more; a copy that is not whole by now is given up."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._next is None and not self._stopped:
                    self._wake.wait()
                if self._next is None or self._stopped:
                    return
                owner, snapshot = self._next
            for part in parts(snapshot, owner):
                while self._busy() and not self._stopped:
                    time.sleep(BUSY_POLL)
                if self._stopped:
                    return
                try:
                    self._send(part)
                except OSError:  # the manager is gone, and this process soon
                    return
            self._next = None


class Backups:
    """In the manager: the latest copy of each document's cells, under a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, frames.Snapshot] = OrderedDict()

    def put(self, snapshot: frames.Snapshot) -> None:
        """Keep a copy in place of its owner's last, and of others that are beginnings of it."""
        self._kept.pop(snapshot.owner, None)
        if len(snapshot.data) > self._budget:
            return
        for owner, old in list(self._kept.items()):
            if common_prefix(old.tokens, snapshot.tokens) == len(old.tokens):
                del self._kept[owner]
        self._kept[snapshot.owner] = snapshot
        while sum(len(kept.data) for kept in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)

    def newest_first(self) -> list[frames.Snapshot]:
        """Return all copies as they are given to another worker."""
        return [frames.Snapshot(s.tokens, s.data) for s in reversed(self._kept.values())]
