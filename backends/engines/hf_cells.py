"""KV cells of many sequences as torch tensors: own storage each, shared until they part.

Rule: knows positions, not tokens, models or attention. A fork refers to its source's tensors; the
first side that must write where the other reads copies the shared part then. Nothing is counted as
held before `commit`: a pass that was given up leaves only bytes that the next one overwrites.
Layers that attend through a window keep all their cells, so that every sequence can go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

STEP: Final = 256  # cells that storage grows by at least

Planes = tuple[Tensor, ...]  # each of shape (heads, tokens, width)


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence's tokens in a pass; logits are wanted of the last `wanted` of them."""

    sequence: int
    tokens: Sequence[int]
    wanted: int


class Codec(Protocol):
    """How keys and values are kept."""

    def encode(self, states: Tensor) -> Planes:
        """Take (heads, tokens, width) in the model's type."""
        ...

    def decode(self, planes: Planes) -> Tensor:
        """Return (heads, tokens, width) in the model's type."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Keys and values as they are, or in another floating-point type."""

    dtype: torch.dtype
    kept: torch.dtype

    def encode(self, states: Tensor) -> Planes:
        """Return one plane."""
        return (states.to(self.kept),)

    def decode(self, planes: Planes) -> Tensor:
        """Return the plane."""
        return planes[0].to(self.dtype)


@dataclass(frozen=True, slots=True)
class Quantised:
    """Whole numbers of 8 or 4 bits, and a 16-bit scale for each 32 elements, as ggml has them."""

    dtype: torch.dtype
    bits: int
    block: int = 32

    def encode(self, states: Tensor) -> Planes:
        """Return the numbers, two to a byte where they have 4 bits, and the scales."""
        blocks = states.float().unflatten(-1, (-1, self.block))
        most = 2 ** (self.bits - 1) - 1
        # The scale is rounded first, so that both directions use the same number.
        scales = (blocks.abs().amax(-1, keepdim=True) / most).half()
        numbers = (blocks / scales.float().clamp_min(1e-12)).round().clamp(-most, most)
        whole = numbers.to(torch.int8).flatten(-2)
        if self.bits == 4:
            low, high = (whole + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
            whole = low | (high << 4)
        return whole, scales.squeeze(-1)

    def decode(self, planes: Planes) -> Tensor:
        """Undo it, but for the rounding."""
        whole, scales = planes
        if self.bits == 4:
            whole = torch.stack((whole & 15, whole >> 4), -1).flatten(-2).to(torch.int8) - 8
        blocks = whole.to(self.dtype).unflatten(-1, (-1, self.block))
        return (blocks * scales.to(self.dtype).unsqueeze(-1)).flatten(-2)


@dataclass(slots=True)
class Storage:
    """The tensors of one sequence or, up to where they part, of several.

    `layers`: by layer, the planes of its keys and then those of its values. Cells before
    `claimed` belong to somebody: to write there, a sharer needs a copy.
    """

    layers: dict[int, list[Tensor]] = field(default_factory=dict)
    claimed: int = 0
    room: int = 0  # cells that tensors get when they are next written to
    users: int = 1

    def copy(self, n: int) -> Storage:
        """Return storage of its own for the first `n` cells."""
        copied = {
            layer: [plane[:, :n].clone() for plane in planes]
            for layer, planes in self.layers.items()
        }
        return Storage(copied, claimed=n)

    def write(self, layer: int, start: int, planes: Sequence[Tensor]) -> None:
        """Put the planes of new cells after the first `start`."""
        held = self.layers.get(layer)
        if held is None:
            held = self.layers[layer] = [_empty(plane, 0) for plane in planes]
        for i, plane in enumerate(planes):
            if held[i].shape[1] < start + plane.shape[1]:
                grown = _empty(plane, self.room)
                grown[:, :start] = held[i][:, :start]
                held[i] = grown
            held[i][:, start : start + plane.shape[1]] = plane

    def read(self, layer: int, begin: int, end: int) -> tuple[Planes, Planes]:
        """Return views of the planes of keys and of values."""
        planes = [plane[:, begin:end] for plane in self.layers[layer]]
        half = len(planes) // 2
        return tuple(planes[:half]), tuple(planes[half:])


def _empty(like: Tensor, cells: int) -> Tensor:
    return like.new_empty((like.shape[0], cells, like.shape[2]))


@dataclass(slots=True)
class _Held:
    storage: Storage
    length: int = 0


class Sequences:
    """Which cells each sequence holds."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._shape: dict[str, Tensor] = {}  # of a snapshot: each plane, with no cells

    @property
    def used(self) -> int:
        """Return the cells in use, counting shared ones for each sharer."""
        return sum(held.length for held in self._held.values())

    def length(self, sequence: int) -> int:
        """Return the cells of a sequence."""
        held = self._held.get(sequence)
        return held.length if held else 0

    def begin(self, sequence: int, n: int) -> Storage:
        """Return where `n` more cells of a sequence may be written."""
        held = self._held.setdefault(sequence, _Held(Storage()))
        if held.storage.users > 1 and held.storage.claimed != held.length:
            held.storage.users -= 1
            held.storage = held.storage.copy(held.length)
        held.storage.claimed = held.length + n
        held.storage.room = -(-(held.length + n + STEP // 2) // STEP) * STEP
        return held.storage

    def commit(self, sequence: int, n: int) -> None:
        """Count `n` cells that were written since `begin`."""
        self._held[sequence].length += n

    def end(self, sequence: int) -> None:
        """Give back what was claimed and not committed."""
        held = self._held[sequence]
        held.storage.claimed = held.length

    def trim(self, sequence: int, n: int) -> bool:
        """Keep the first `n` cells."""
        held = self._held.get(sequence)
        if held is None or n > held.length:
            return n == self.length(sequence)
        held.length = n
        return True

    def fork(self, source: int, target: int, n: int) -> bool:
        """Let `target` share the first `n` cells of `source`."""
        if n > self.length(source) or source == target:
            return False
        self.free(target)
        if n:
            storage = self._held[source].storage
            storage.users += 1
            self._held[target] = _Held(storage, n)
        return True

    def free(self, sequence: int) -> None:
        """Forget a sequence."""
        held = self._held.pop(sequence, None)
        if held is not None:
            held.storage.users -= 1

    def learn(self, sequence: int) -> tuple[int, int]:
        """Take a sequence as the pattern of all; return the bytes of a cell, and 0 for the rest."""
        self._shape = {name: plane[:, :0] for name, plane in self._planes(sequence).items()}
        row = (plane.shape[0] * plane.shape[2] * plane.itemsize for plane in self._shape.values())
        return sum(row), 0

    def snapshot(self, sequence: int) -> bytes:
        """Copy a sequence's cells out, in the safetensors format."""
        planes = self._planes(sequence)
        return bytes(safetensors.torch.save({n: p.contiguous() for n, p in planes.items()}))

    def restore(self, sequence: int, data: bytes, room: int) -> bool:
        """Replace a sequence by a snapshot of at most `room` cells; False if it fits no other."""
        self.free(sequence)
        try:
            planes = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError):
            return False  # torn, or no snapshot at all
        lengths = {plane.shape[1] if plane.dim() == 3 else -1 for plane in planes.values()}
        if planes.keys() != self._shape.keys() or len(lengths) != 1:
            return False
        (n,) = lengths
        if not 0 < n <= room or not all(map(_fits, planes.values(), map(self._shape.get, planes))):
            return False
        layers: dict[int, list[Tensor]] = {}
        for name, pattern in self._shape.items():
            layers.setdefault(_layer(name), []).append(planes[name].to(pattern.device))
        self._held[sequence] = _Held(Storage(layers, claimed=n), n)
        return True

    def _planes(self, sequence: int) -> dict[str, Tensor]:
        held = self._held.get(sequence)
        if held is None:
            return {}
        return {
            f"{layer}.{i}": plane[:, : held.length]
            for layer, planes in sorted(held.storage.layers.items())
            for i, plane in enumerate(planes)
        }


def _layer(name: str) -> int:
    return int(name.partition(".")[0])


def _fits(plane: Tensor, pattern: Tensor | None) -> bool:
    return (
        pattern is not None
        and plane.dtype == pattern.dtype
        and plane.shape[::2] == pattern.shape[::2]
    )
