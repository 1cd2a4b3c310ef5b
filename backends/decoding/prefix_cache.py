"""Which tokens each KV sequence holds, and which sequence a prompt continues.

One entry per document and anchor. A prompt takes its own entry, trimmed to the common prefix; a
new one begins as a fork of whatever entry shares most with it. Least recently used entries make
room, by sequences and by cells. Before that, while nothing else is done, their cells are copied
out (`save`), and put back where a prompt shares more with such a snapshot than with any entry.
Rule: knows tokens, not text; `cached` never counts a token that was not computed at this position
in this very prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from backends import memory
from backends.backend import SteeringUse
from backends.decoding.known import KnownLogits
from backends.decoding.snapshots import Snapshot, SnapshotStore, common_prefix
from backends.decoding.token_model import Logits, TokenModel

logger = logging.getLogger(__name__)

# Below this, sharing cells saves less than it complicates.
MIN_FORK = 16
# Tokens that a snapshot must spare. On a CPU, one token takes as long to evaluate as the cells of
# hundreds take to copy.
MIN_SNAPSHOT = 64
MIN_USE = 0.5  # of a snapshot's tokens: what is put back and not of use takes time and room
RESERVE = 0.25  # entries are saved when fewer sequences or cells than this share are left
BACKUP_GAIN = 8  # a backup is made again once this part of the entry, as 1/n, is not in it

Steering = tuple[SteeringUse, ...]


@dataclass(slots=True)
class Entry:
    """A sequence and the tokens it holds; `busy` while a generation feeds it.

    `previous` are the last tokens that were generated here: drafts are taken from them. The first
    `saved` tokens were in a snapshot when it was last made. `mark` is where a model that can't be
    trimmed can be put back to. `owner` is whose it is, and `backed_up` how many of its first
    tokens are safe from a crash of this process. What was computed under one `steering` is of no
    use under another: such an entry shares with its like alone, and no copy of it is made.
    """

    key: Hashable
    sequence: int
    tokens: list[int] = field(default_factory=list)
    used: int = 0
    busy: bool = False
    previous: list[int] = field(default_factory=list)
    saved: int = 0
    mark: Snapshot | None = None
    owner: str | None = None
    backed_up: int = 0
    steering: Steering = ()


class PrefixCache:
    """The sequences of one TokenModel."""

    def __init__(
        self,
        model: TokenModel,
        snapshots: SnapshotStore | None = None,
        known_bytes: int = memory.KNOWN_BYTES,
    ) -> None:
        self._model = model
        self._snapshots = snapshots or SnapshotStore(0)
        self._known = KnownLogits(known_bytes if model.can_rewind else 0)
        self._entries: dict[Hashable, Entry] = {}
        self._free = list(range(model.max_sequences - 1, -1, -1))
        self._clock = count(1)

    def acquire(
        self,
        key: Hashable,
        tokens: Sequence[int],
        owner: str | None = None,
        steering: Steering = (),
    ) -> Entry | None:
        """Return the entry that `tokens` are to be evaluated on, holding a true prefix of them.

        With an `owner` (a document) it can be backed up. All but the last of `tokens` are held at
        most, since its logits are needed; where they are `known`, all of them and what came after
        them. None when every sequence is busy: try again when one is released.
        """
        key = (key, steering) if steering else key
        entry = self._entries.get(key)
        if entry is not None and entry.busy:
            return None
        if entry is None:
            entry = self._new(key, tokens, steering)
            if entry is None:
                return None
        entry.owner = None if steering else owner
        self._restore(entry, tokens)
        shared = common_prefix(entry.tokens, tokens)
        if shared < len(tokens):
            self._trim(entry, shared)
        elif not self.known(entry, shared):
            self._trim(entry, shared - 1)
        self._known.begin(entry.sequence, len(tokens))
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

    def note(self, entry: Entry, n: int, logits: Logits) -> None:
        """Keep what the model said after the first `n` tokens of `entry`."""
        self._known.note(entry.sequence, n, logits)

    def known(self, entry: Entry, n: int) -> list[Logits]:
        """Return what the model said after the first `n` tokens that `entry` holds, and on."""
        return self._known.after(entry.sequence, n)

    def rewind(self, entry: Entry, n: int) -> None:
        """Forget what `entry` holds after its first `n` tokens: a draft that did not hold."""
        self._trim(entry, n)

    def mark(self, entry: Entry) -> None:
        """Remember the state of now: for models that can't be trimmed (recurrent layers)."""
        entry.mark = Snapshot(list(entry.tokens), self._model.snapshot(entry.sequence))

    def reclaim(self) -> bool:
        """Free the least recently used idle entry; False when there is none."""
        idle = [entry for entry in self._entries.values() if not entry.busy]
        if not idle:
            return False
        self._drop(min(idle, key=lambda entry: entry.used))
        return True

    def to_save(self) -> Entry | None:
        """Return the entry that `save` would copy out: one that may soon have to make room."""
        sequences, cells = self._model.max_sequences, self._model.cache_cells
        if len(self._free) >= RESERVE * sequences and self.cells() <= (1 - RESERVE) * cells:
            return None
        idle = [entry for entry in self._entries.values() if not entry.busy]
        idle.sort(key=lambda entry: entry.used)
        next_to_go = idle[: max(1, int(RESERVE * len(idle)))]
        unsaved = (
            e for e in next_to_go if len(e.tokens) - e.saved >= MIN_SNAPSHOT and not e.steering
        )
        return next(unsaved, None)

    def save(self) -> None:
        """Copy out the cells of `to_save()`, when nobody waits; takes as long as a restore."""
        entry = self.to_save()
        if entry is not None:
            entry.saved = len(entry.tokens)
            self._snapshots.put(entry.tokens, self._model.snapshot(entry.sequence))

    def to_back_up(self, limit: int) -> Entry | None:
        """Return the entry that `back_up` would copy out: its owner's latest, with much new in it.

        None larger than `limit` bytes.
        """
        latest: dict[str, Entry] = {}
        for entry in sorted(self._entries.values(), key=lambda entry: entry.used):
            if entry.owner is not None:
                latest.pop(entry.owner, None)
                latest[entry.owner] = entry
        per_token = self._model.cache_bytes / max(1, self._model.cache_cells)
        for entry in reversed(latest.values()):
            held = len(entry.tokens)
            gain = held - entry.backed_up
            wanted = gain >= max(MIN_SNAPSHOT, held // BACKUP_GAIN)
            if wanted and not entry.busy and held * per_token <= limit:
                return entry
        return None

    def back_up(self, entry: Entry) -> Snapshot:
        """Copy out an entry of `to_back_up`: where a prompt can go on from it, its mark if not."""
        entry.backed_up = len(entry.tokens)
        if not self._model.can_rewind and entry.mark is not None:
            return entry.mark
        return Snapshot(list(entry.tokens), self._model.snapshot(entry.sequence))

    def give(self, snapshot: Snapshot) -> None:
        """Take a snapshot that this very model made before it was last unloaded."""
        self._snapshots.put(snapshot.tokens, snapshot.data)

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield everything that is held and worth keeping, most recently used first."""
        for entry in sorted(self._entries.values(), key=lambda entry: -entry.used):
            held = self._model.length(entry.sequence)
            if held == len(entry.tokens) >= MIN_SNAPSHOT and not entry.steering:
                yield Snapshot(entry.tokens, self._model.snapshot(entry.sequence))
        yield from self._snapshots.newest_first()

    def cells(self) -> int:
        """Return the KV cells in use, counting shared ones for each sharer."""
        return sum(len(entry.tokens) for entry in self._entries.values())

    def _new(self, key: Hashable, tokens: Sequence[int], steering: Steering) -> Entry | None:
        relative, shared = self._closest(tokens, steering)
        if not self._free:
            self.reclaim()
        if not self._free:
            return None
        entry = Entry(key, self._free.pop(), used=next(self._clock), steering=steering)
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

    def _restore(self, entry: Entry, tokens: Sequence[int]) -> None:
        """Put a snapshot in place of what `entry` holds, if it has much more of `tokens`."""
        snapshot, shared = self._snapshots.closest(tokens)
        if snapshot is None or entry.steering:
            return
        length = len(snapshot.tokens)
        gain = shared - common_prefix(entry.tokens, tokens)
        # A model that can't go back can only go on from a snapshot's end.
        usable = self._model.can_rewind or shared == length < len(tokens)
        if not usable or gain < max(MIN_SNAPSHOT, MIN_USE * length):
            return
        self._make_room(length, keep=entry)
        entry.tokens, entry.saved, entry.backed_up = [], 0, 0
        self._known.cut(entry.sequence, 0)
        restored = self._model.restore(entry.sequence, snapshot.data)
        if restored and self._model.length(entry.sequence) == length:
            self._snapshots.used(snapshot)
            entry.tokens, entry.saved = list(snapshot.tokens), length
            return
        # Torn, of another model, or there is no room: the prompt is evaluated, nothing guessed.
        logger.warning("a snapshot of %d tokens could not be restored", length)
        self._snapshots.drop(snapshot)
        self._model.free(entry.sequence)

    def _closest(self, tokens: Sequence[int], steering: Steering) -> tuple[Entry | None, int]:
        shared = {
            key: common_prefix(entry.tokens, tokens)
            for key, entry in self._entries.items()
            if entry.steering == steering
        }
        if not shared:
            return None, 0
        best = max(shared, key=lambda key: shared[key])
        return self._entries[best], shared[best]

    def _trim(self, entry: Entry, n: int) -> None:
        if n == len(entry.tokens):
            return
        if not self._model.trim(entry.sequence, n):
            n = self._return_to_mark(entry, n)
        del entry.tokens[n:]
        self._known.cut(entry.sequence, n)
        entry.saved = min(entry.saved, n)
        entry.backed_up = min(entry.backed_up, n)

    def _return_to_mark(self, entry: Entry, n: int) -> int:
        """Put back the last state before token `n`, or else nothing; return how much it holds.

        What a recurrent layer holds is the sum of all its tokens: it can't be cut, and is never
        guessed.
        """
        mark = entry.mark
        if mark is not None and mark.tokens == entry.tokens[: min(n, len(mark.tokens))]:
            restored = self._model.restore(entry.sequence, mark.data)
            if restored and self._model.length(entry.sequence) == len(mark.tokens):
                return len(mark.tokens)
        self._model.free(entry.sequence)
        return 0

    def _make_room(self, needed: int, *, keep: Entry) -> None:
        keep.busy, was_busy = True, keep.busy
        while self.cells() + needed > self._model.cache_cells and self.reclaim():
            pass
        keep.busy = was_busy

    def _drop(self, entry: Entry) -> None:
        self._model.free(entry.sequence)
        self._known.cut(entry.sequence, 0)
        del self._entries[entry.key]
        self._free.append(entry.sequence)
