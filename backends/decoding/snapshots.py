"""Cells of sequences that may have to go, kept as bytes until a prompt needs them again.

Rule: found by exact tokens, never by a hash of part of them, and of one loaded model only: the
store lives and ends with it. Least recently used go first, under a budget of bytes. Knows nothing
of sequences; whether a snapshot still fits is the model's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A sequence's cells, as `TokenModel.snapshot` gave them, and the tokens they are of."""

    tokens: list[int]
    data: bytes


class SnapshotStore:
    """The snapshots of one TokenModel, least recently used first."""

    def __init__(self, budget: int) -> None:
        """Take the bytes that all snapshots may have together; 0: none are kept."""
        self._budget = budget
        self._kept: list[Snapshot] = []

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return sum(len(snapshot.data) for snapshot in self._kept)

    def put(self, tokens: Sequence[int], data: bytes) -> None:
        """Keep a snapshot; it replaces those of its own beginnings. Too large a one is not kept."""
        if len(data) > self._budget:
            return
        new = Snapshot(list(tokens), data)
        self._kept = [
            old for old in self._kept if common_prefix(old.tokens, tokens) < len(old.tokens)
        ]
        self._kept.append(new)
        while self.size > self._budget:
            del self._kept[0]

    def closest(self, tokens: Sequence[int]) -> tuple[Snapshot | None, int]:
        """Return the snapshot that shares most leading tokens with `tokens`, and how many."""
        best, most = None, 0
        for snapshot in self._kept:
            shared = common_prefix(snapshot.tokens, tokens)
            if shared > most:
                best, most = snapshot, shared
        return best, most

    def newest_first(self) -> list[Snapshot]:
        """Return all snapshots, most recently used first."""
        return self._kept[::-1]

    def used(self, snapshot: Snapshot) -> None:
        """Note that `snapshot` was of use."""
        self._kept.remove(snapshot)
        self._kept.append(snapshot)

    def drop(self, snapshot: Snapshot) -> None:
        """Forget `snapshot`."""
        self._kept.remove(snapshot)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading elements are equal. Compares in blocks: C speed, not Python's."""
    limit = min(len(left), len(right))
    start, block = 0, 256
    while start < limit:
        end = min(start + block, limit)
        if left[start:end] != right[start:end]:
            return next(i for i in range(start, end) if left[i] != right[i])
        start = end
    return limit
