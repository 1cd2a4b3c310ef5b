"""Read a safetensors file's header, trusting none of its numbers.

Rule: every length and offset is checked against the file before use, so that native code only ever
sees files that hold what they announce. Whatever is wrong is a `ModelFileError` that says what.
Must not know models or engines.

Layout: length of the header (8 bytes, little-endian); header (JSON: tensor name → type, shape, and
its first and last byte in the data; `__metadata__` → strings); data, without gaps.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final

import msgspec

from backends.errors import ModelFileError

MAX_HEADER: Final = 100_000_000  # bytes, as in the safetensors library itself
MAX_TENSORS: Final = 262_144
MAX_DIMENSIONS: Final = 8
LENGTH: Final = struct.Struct("<Q")

# Type → bits of an element.
TYPES: Final = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What the header says. `type_bytes`: how much of the data each element type takes."""

    file_bytes: int
    tensors: frozenset[str] = field(repr=False)
    type_bytes: dict[str, int]
    metadata: dict[str, str]


_header: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw], strict=True
)
_tensor = msgspec.json.Decoder(_Tensor)
_metadata: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


def read(path: Path) -> SafetensorsHeader:
    """Read and check the header of the file at `path`. Raises ModelFileError."""
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise ModelFileError(f"{path} is not a file.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH.size)
            if len(start) < LENGTH.size:
                raise ModelFileError(f"{path} is no safetensors file: it is too short.")
            (length,) = LENGTH.unpack(start)
            if length > min(MAX_HEADER, size - LENGTH.size):
                raise ModelFileError(
                    f"{path} is truncated or no safetensors file: it announces a header of "
                    f"{length} bytes, the file has {size}."
                )
            text = file.read(length)
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    try:
        return parse(text, size)
    except ModelFileError as exc:
        raise ModelFileError(f"{path}: {exc}") from None


def parse(text: bytes, file_bytes: int) -> SafetensorsHeader:
    """Check a header against the size of its file. Raises ModelFileError."""
    try:
        raw = _header.decode(text)
        metadata = _metadata.decode(raw.pop("__metadata__", msgspec.Raw(b"{}")))
        tensors = {name: _tensor.decode(entry) for name, entry in raw.items()}
    # Nesting too deep, bytes that are no UTF-8.
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise ModelFileError(f"the file is corrupt: its header says nonsense ({exc}).") from exc
    if len(tensors) > MAX_TENSORS:
        raise ModelFileError(f"the file is corrupt: it announces {len(tensors)} tensors.")
    type_bytes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        type_bytes[tensor.dtype] += _bytes(name, tensor)
    _check_places(tensors, file_bytes - LENGTH.size - len(text))
    return SafetensorsHeader(file_bytes, frozenset(tensors), dict(type_bytes), metadata)


def _bytes(name: str, tensor: _Tensor) -> int:
    """Return the bytes of a tensor, by its shape and by its offsets alike."""
    if tensor.dtype not in TYPES:
        raise ModelFileError(f"tensor {name!r} has the unknown type {tensor.dtype!r}.")
    begin, end = tensor.data_offsets
    if len(tensor.shape) > MAX_DIMENSIONS or any(length < 0 for length in tensor.shape):
        raise ModelFileError(f"the file is corrupt: tensor {name!r} has the shape {tensor.shape}.")
    bits = prod(tensor.shape) * TYPES[tensor.dtype]  # Python integers do not wrap around
    if bits != 8 * (end - begin):
        raise ModelFileError(
            f"the file is corrupt: tensor {name!r} of shape {tensor.shape} has {end - begin} bytes."
        )
    return end - begin


def _check_places(tensors: dict[str, _Tensor], data_bytes: int) -> None:
    """Check that the tensors follow each other from the data's first byte to its last."""
    places = sorted((tensor.data_offsets, name) for name, tensor in tensors.items())
    ends = [((0, 0), ""), *places, ((data_bytes, data_bytes), "")]
    for ((_, end), _name), ((begin, _), name) in pairwise(ends):
        if begin != end:
            what = f"tensor {name!r}" if name else "the data"
            place = "begins" if name else "ends"
            raise ModelFileError(
                f"the file is truncated or corrupt: {what} {place} at byte {begin}, "
                f"the tensor before it ends at {end}."
            )
