"""Cells of models that were unloaded, in the manager's memory until the same model is loaded again.

Rule: what one model computed goes to no other: the key is everything that the numbers in a cell
depend on. Least recently unloaded go first, under a budget of bytes. Must not know workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.config import ModelSettings
from backends.frames import Snapshot

COMPUTED = ("kv_type", "device", "device_map", "dtype", "attention", "compile", "quantize")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a cell's numbers depend on."""

    path: Path
    version: tuple[int, int]  # of the file: size and time of its last change
    engine: str  # its build, and the processor
    safe_mode: bool  # the weights are laid out, and so summed up, differently
    gpu_layers: int
    computed: tuple[str, ...] = ()  # the settings that say where, how and how exactly
    sample: str = ""  # digest of blocks of the file: a copy may keep size and time


def computed(settings: ModelSettings) -> tuple[str, ...]:
    """Return what of a model's settings the numbers in its cells depend on."""
    return tuple(f"{name}={getattr(settings, name)}" for name in COMPUTED)


Kept = dict[Fingerprint, list[Snapshot]]


class Handovers:
    """Snapshots by the model they are of; each list most recently used first."""

    def __init__(self, budget: int) -> None:
        """Take the bytes that all may have together."""
        self.budget = budget
        self._kept: Kept = {}

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return sum(_size(snapshots) for snapshots in self._kept.values())

    def put(self, model: Fingerprint, snapshots: Sequence[Snapshot]) -> Kept:
        """Keep what `model` had cached when it was unloaded, instead of what it had before.

        Return what had to go, least recently unloaded first.
        """
        self._kept.pop(model, None)
        if snapshots:
            self._kept[model] = list(snapshots)
        dropped: Kept = {}
        if _size(snapshots) > self.budget:
            dropped[model] = self._kept.pop(model)
        while self.size > self.budget:
            oldest = next(iter(self._kept))
            dropped[oldest] = self._kept.pop(oldest)
        return dropped

    def holds(self, model: Fingerprint) -> bool:
        """Return whether anything of `model` is kept."""
        return model in self._kept

    def take(self, model: Fingerprint) -> list[Snapshot]:
        """Return what is kept of `model`, and forget it: its worker has it from now on."""
        return self._kept.pop(model, [])

    def take_all(self) -> Kept:
        """Return everything, least recently unloaded first, and forget it."""
        kept, self._kept = self._kept, {}
        return kept


def _size(snapshots: Sequence[Snapshot]) -> int:
    return sum(len(snapshot.data) for snapshot in snapshots)
