"""The file of a steering vector: safetensors with one tensor, and what it is in the metadata.

Rule: bytes to values and back, trusting none of them; needs no runtime, so that vectors are listed
without torch. Must not know where files are kept.

The tensor `vector` is of float32 and of the model's hidden size. It is as long as that model's own
states are at its layer on average, so a coefficient means the same for every model: 0.25 adds a
quarter of what is there.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from backends import safetensors_header
from backends.errors import ModelFileError
from backends.safetensors_header import LENGTH

FORMAT: Final = "midspan-steering-1"
TENSOR: Final = "vector"
NORMALISED: Final = "mean length of the model's states at the layer"
MAX_FILE: Final = 4 * 1024 * 1024  # bytes
ALIGNMENT: Final = 8  # of the header, as the safetensors library has it


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model a vector is for: hidden states of another one mean something else."""

    name: str  # for people
    architecture: str
    hidden_size: int
    layers: int
    fingerprint: str  # digest of its files, wherever they lie


@dataclass(frozen=True, slots=True)
class Made:
    """How a vector was made."""

    pairs: str  # what the pairs are called
    trained_on: int  # their number
    position: str = ""  # "last" or "mean"
    seed: int = 0
    difference: float = 0.0  # the states' mean difference, as a part of their length
    midspan: str = ""  # version


@dataclass(frozen=True, slots=True)
class Shift:
    """The mean of a number before and after, and its change with a 95 % interval."""

    before: float
    after: float
    change: float
    low: float
    high: float
    count: int  # of prompts


@dataclass(frozen=True, slots=True)
class Effect:
    """What a vector shifts, beside random directions of the same length."""

    measure: str
    trained: Shift
    random: Shift


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a vector did to prompts it was not made from."""

    coefficient: float
    prompts: int
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Vector:
    """A direction to be added to what the layer `layer` (from 0) puts out."""

    name: str
    layer: int
    values: bytes = field(repr=False)  # float32, little-endian
    model: ModelIdentity
    made: Made
    held_out: HeldOut | None  # None where nothing was measured

    @property
    def length(self) -> float:
        """Return its Euclidean length."""
        return math.hypot(*_floats(self.values))


def encode(vector: Vector) -> bytes:
    """Return the file of `vector`."""
    metadata = {
        "format": FORMAT,
        "name": vector.name,
        "layer": str(vector.layer),
        "normalised": NORMALISED,
        "model": _json(vector.model),
        "made": _json(vector.made),
        "held_out": _json(vector.held_out),
    }
    size = len(vector.values)
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = msgspec.json.encode({"__metadata__": metadata, TENSOR: tensor})
    header += b" " * (-len(header) % ALIGNMENT)
    return LENGTH.pack(len(header)) + header + vector.values


def parse(data: bytes) -> Vector:
    """Return the vector of a file's bytes. Raises ModelFileError."""
    if len(data) < LENGTH.size:
        raise ModelFileError("the file is too short.")
    (length,) = LENGTH.unpack_from(data)
    if length > len(data) - LENGTH.size:
        raise ModelFileError("the file is truncated.")
    header = safetensors_header.parse(data[LENGTH.size : LENGTH.size + length], len(data))
    metadata = header.metadata
    if metadata.get("format") != FORMAT or header.tensors != {TENSOR}:
        raise ModelFileError("the file is no steering vector of this version of midspan.")
    model: ModelIdentity = _decode(metadata, "model", ModelIdentity)
    layer: int = _decode(metadata, "layer", int)
    values = data[LENGTH.size + length :]
    if set(header.type_bytes) != {"F32"} or len(values) != 4 * model.hidden_size:
        raise ModelFileError(f"the file holds other than {model.hidden_size} numbers of float32.")
    if not 0 <= layer < model.layers:
        raise ModelFileError(f"the file names layer {layer} of a model with {model.layers}.")
    if not all(map(math.isfinite, _floats(values))):
        raise ModelFileError("the file holds what are no numbers.")
    made = _decode(metadata, "made", Made)
    held_out = _decode(metadata, "held_out", HeldOut | None)
    return Vector(metadata.get("name", ""), layer, values, model, made, held_out)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _floats(values: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(values) // 4}f", values)


def _decode(metadata: dict[str, str], name: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(metadata.get(name, ""), type=kind)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ModelFileError(f"the file is corrupt: its {name!r} says nonsense ({exc}).") from exc
