"""Which tokens each KV sequence holds, and which sequence a prompt continues.

One entry per document and anchor. A prompt takes its own entry, trimmed to the common prefix; a
new one begins as a fork of whatever entry shares most with it. Least recently used entries make
room, by sequences and by cells. Rule: knows tokens, not text; `cached` never counts a token that
was not computed at this position in this very prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

from backends.decoding.token_model import TokenModel

# Below this, sharing cells saves less than it complicates.
MIN_FORK = 16


@dataclass(slots=True)
class Entry:
    """A sequence and the tokens it holds; `busy` while a generation feeds it.

    `previous` are the last tokens that were generated here: drafts are taken from them.
    """

    key: Hashable
    sequence: int
    tokens: list[int] = field(default_factory=list)
    used: int = 0
    busy: bool = False
    previous: list[int] = field(default_factory=list)


class PrefixCache:
    """The sequences of one TokenModel."""

    def __init__(self, model: TokenModel) -> None:
        self._model = model
        self._entries: dict[Hashable, Entry] = {}
        self._free = list(range(model.max_sequences - 1, -1, -1))
        self._clock = count(1)

    def acquire(self, key: Hashable, tokens: Sequence[int]) -> Entry | None:
        """Return the entry that `tokens` are to be evaluated on, holding a true prefix of them.

        At most all but the last of `tokens` are held, since its logits are needed. None when
        every sequence is busy: try again when one is released.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.busy:
            return None
        if entry is None:
            entry = self._new(key, tokens)
            if entry is None:
                return None
        self._trim(entry, min(common_prefix(entry.tokens, tokens), len(tokens) - 1))
        self._make_room(len(tokens) - len(entry.tokens), keep=entry)
        entry.busy = True
        entry.used = next(self._clock)
        return entry

    def release(self, entry: Entry, *, keep: bool) -> None:
        """End the use of `entry`; without `keep` its sequence is freed."""
        entry.busy = False
        if not keep:
            self._drop(entry)

    def appended(self, entry: Entry, tokens: Sequence[int]) -> None:
        """Note that `tokens` were evaluated after what `entry` holds."""
        entry.tokens.extend(tokens)

    def rewind(self, entry: Entry, n: int) -> None:
        """Forget what `entry` holds after its first `n` tokens: a draft that did not hold."""
        self._trim(entry, n)

    def reclaim(self) -> bool:
        """Free the least recently used idle entry; False when there is none."""
        idle = [entry for entry in self._entries.values() if not entry.busy]
        if not idle:
            return False
        self._drop(min(idle, key=lambda entry: entry.used))
        return True

    def cells(self) -> int:
        """Return the KV cells in use, counting shared ones for each sharer."""
        return sum(len(entry.tokens) for entry in self._entries.values())

    def _new(self, key: Hashable, tokens: Sequence[int]) -> Entry | None:
        relative, shared = self._closest(tokens)
        if not self._free:
            self.reclaim()
        if not self._free:
            return None
        entry = Entry(key, self._free.pop(), used=next(self._clock))
        # The relative may itself have been reclaimed just now.
        alive = relative is not None and self._entries.get(relative.key) is relative
        if (
            relative is not None
            and alive
            and shared >= MIN_FORK
            and self._model.fork(relative.sequence, entry.sequence, shared)
        ):
            entry.tokens = relative.tokens[:shared]
        self._entries[key] = entry
        return entry

    def _closest(self, tokens: Sequence[int]) -> tuple[Entry | None, int]:
        shared = {key: common_prefix(entry.tokens, tokens) for key, entry in self._entries.items()}
        if not shared:
            return None, 0
        best = max(shared, key=lambda key: shared[key])
        return self._entries[best], shared[best]

    def _trim(self, entry: Entry, n: int) -> None:
        if n == len(entry.tokens):
            return
        if not self._model.trim(entry.sequence, n):
            # This model (recurrent, sliding window) can't go back: begin again, never guess.
            self._model.free(entry.sequence)
            n = 0
        del entry.tokens[n:]

    def _make_room(self, needed: int, *, keep: Entry) -> None:
        keep.busy, was_busy = True, keep.busy
        while self.cells() + needed > self._model.cache_cells and self.reclaim():
            pass
        keep.busy = was_busy

    def _drop(self, entry: Entry) -> None:
        self._model.free(entry.sequence)
        del self._entries[entry.key]
        self._free.append(entry.sequence)


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
