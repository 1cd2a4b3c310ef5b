"""Read a GGUF file's header, trusting none of its numbers.

Rule: every length, count and offset is checked against the file before use, so that native code
only ever sees files that hold what they announce (tensor sizes that lie have been an attack:
CVE-2026-7482). Whatever is wrong is a `ModelFileError` that says what. Must not know engines.

Layout: magic, version, tensor count, key count; keys with typed values; tensor descriptions;
padding to the alignment; tensor data. Little-endian.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.errors import ModelFileError

MAX_KEYS: Final = 65_536
MAX_TENSORS: Final = 262_144
MAX_NAME: Final = 65_535  # bytes of a key or a tensor's name
MAX_STRING: Final = 16 * 1024 * 1024  # bytes; chat templates are the long ones
MAX_ARRAY: Final = 16 * 1024 * 1024  # elements; the largest vocabularies have 262,144
MAX_KEPT_ARRAY: Final = 1024  # elements; arrays with a number for each layer, no vocabularies
MAX_DIMENSIONS: Final = 4
MAX_ALIGNMENT: Final = 1024 * 1024
DEFAULT_ALIGNMENT: Final = 32

SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
STRING: Final = 8
ARRAY: Final = 9

# Tensor type → (elements per block, bytes per block); ggml's type_traits.
TENSOR_TYPES: Final = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
    42: (64, 18),
}

# Token types that never come out of plain text: control, and what some files call user-defined.
_CONTROL_TYPES: Final = frozenset({3, 4})

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What the header says; 0 or empty where it says nothing."""

    version: int
    tensor_count: int
    file_bytes: int
    metadata: dict[str, Value] = field(repr=False)  # scalars and strings
    control_tokens: dict[str, int] = field(repr=False)  # text → id
    vocabulary_size: int = 0
    # Short arrays of numbers: what differs from layer to layer. Others are left out.
    arrays: dict[str, tuple[int | float | bool, ...]] = field(default_factory=dict, repr=False)
    type_bytes: dict[int, int] = field(default_factory=dict, repr=False)  # by tensor type
    parameters: int = 0  # elements of all tensors

    @property
    def architecture(self) -> str:
        """The model's architecture, e.g. "qwen2"."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """The model's own name."""
        return str(self.metadata.get("general.name", ""))

    @property
    def file_type(self) -> int | None:
        """The number of the file's main quantisation (llama.cpp's llama_ftype)."""
        value = self.metadata.get("general.file_type")
        return value if isinstance(value, int) else None

    @property
    def context_length(self) -> int:
        """Tokens the model was trained for."""
        return self._own("context_length")

    def _own(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return value if isinstance(value, int) else 0


def read(path: Path) -> GGUFHeader:
    """Read and check the header of the file at `path`. Raises ModelFileError."""
    try:
        with path.open("rb") as file:
            if not path.is_file():
                raise ModelFileError(f"{path} is not a file.")
            # An empty file cannot be mapped.
            if path.stat().st_size == 0:
                raise ModelFileError(f"{path} is empty.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse(data)
    except ModelFileError as exc:
        message = str(exc)
        raise ModelFileError(message if str(path) in message else f"{path}: {message}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist.") from None
    except (OSError, ValueError) as exc:
        raise ModelFileError(f"{path} cannot be read: {exc}.") from exc


def parse(data: bytes | mmap.mmap) -> GGUFHeader:
    """Read the header at the start of a whole file's bytes. Raises ModelFileError."""
    reader = _Reader(data)
    version = _check_magic(reader)
    tensor_count = reader.count("tensors", MAX_TENSORS)
    key_count = reader.count("keys", MAX_KEYS)
    metadata: dict[str, Value] = {}
    vocabulary = _Vocabulary()
    for _ in range(key_count):
        key = reader.text(MAX_NAME, "a key")
        kind = reader.u32()
        if kind == ARRAY:
            vocabulary.take(key, reader)
        else:
            metadata[key] = reader.value(kind, key)
    weights = _check_tensors(reader, tensor_count, _alignment(metadata))
    return GGUFHeader(
        version=version,
        tensor_count=tensor_count,
        file_bytes=len(data),
        metadata=metadata,
        control_tokens=vocabulary.control_tokens(reader),
        vocabulary_size=len(vocabulary.offsets),
        arrays=vocabulary.arrays,
        type_bytes=weights.type_bytes,
        parameters=weights.elements,
    )


class _Reader:
    """A cursor over the file that never steps outside it."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0

    def need(self, n: int) -> None:
        if n > self.size - self.at:
            raise ModelFileError(
                f"the file is truncated: {n} bytes are announced at {self.at}, "
                f"{self.size - self.at} are there."
            )

    def skip(self, n: int) -> None:
        self.need(n)
        self.at += n

    def unpack(self, what: struct.Struct) -> Value:
        self.need(what.size)
        (value,) = what.unpack_from(self.data, self.at)
        self.at += what.size
        return value  # type: ignore[no-any-return]

    def u32(self) -> int:
        return int(self.unpack(SCALARS[4]))

    def u64(self) -> int:
        return int(self.unpack(SCALARS[10]))

    def count(self, what: str, most: int) -> int:
        n = self.u64()
        if n > most:
            raise ModelFileError(f"the file is corrupt: it announces {n} {what}.")
        return n

    def text(self, most: int, what: str) -> str:
        n = self.count(f"bytes for {what}", most)
        self.need(n)
        text = bytes(self.data[self.at : self.at + n]).decode(errors="replace")
        self.at += n
        return text

    def value(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self.text(MAX_STRING, f"the value of {key!r}")
        if kind not in SCALARS:
            raise ModelFileError(f"the file is corrupt: {key!r} has the unknown type {kind}.")
        return self.unpack(SCALARS[kind])

    def strings(self, n: int) -> array[int]:
        """Step over `n` strings and return where each begins. Tight: vocabularies are long."""
        starts: array[int] = array("Q")
        data, last, read_length, at = self.data, self.size - 8, SCALARS[10].unpack_from, self.at
        for _ in range(n):
            starts.append(at)
            # Past `last` the length itself is cut off; any length that is too long ends there too.
            at = at + 8 + read_length(data, at)[0] if at <= last else self.size + 1
            if at > self.size:
                raise ModelFileError(
                    "the file is truncated or corrupt: a string runs past its end."
                )
        self.at = at
        return starts


class _Vocabulary:
    """Picks the tokens' places and types out of the arrays as they pass, and short ones whole."""

    def __init__(self) -> None:
        self.arrays: dict[str, tuple[int | float | bool, ...]] = {}
        self.offsets: array[int] = array("Q")
        self.types: bytes = b""

    def take(self, key: str, reader: _Reader) -> None:
        """Step over the array `key`, keeping what is asked for later."""
        kind = reader.u32()
        n = reader.count(f"elements for {key!r}", MAX_ARRAY)
        if kind == STRING:
            reader.need(8 * n)  # each has at least its length
            offsets = reader.strings(n)
            if key == "tokenizer.ggml.tokens":
                self.offsets = offsets
            return
        if kind not in SCALARS:  # nested arrays are in no file that engines read
            raise ModelFileError(f"the file is corrupt: {key!r} is an array of type {kind}.")
        start = reader.at
        reader.skip(n * SCALARS[kind].size)
        if key == "tokenizer.ggml.token_type" and SCALARS[kind].size == 4:
            self.types = bytes(reader.data[start : reader.at])
        elif n <= MAX_KEPT_ARRAY:
            values = struct.unpack_from(f"<{n}{SCALARS[kind].format[-1]}", reader.data, start)
            self.arrays[key] = values

    def control_tokens(self, reader: _Reader) -> dict[str, int]:
        """Return text → id of the control tokens; only their texts are decoded."""
        if len(self.types) != 4 * len(self.offsets):
            return {}
        kinds = struct.unpack(f"<{len(self.offsets)}i", self.types)
        found: dict[str, int] = {}
        for token, kind in enumerate(kinds):
            if kind in _CONTROL_TYPES:
                reader.at = self.offsets[token]
                found.setdefault(reader.text(MAX_STRING, "a token"), token)
        return found


def _check_magic(reader: _Reader) -> int:
    if bytes(reader.data[:4]) != b"GGUF":
        raise ModelFileError("it is not a GGUF file (the magic is missing).")
    reader.at = 4
    version = reader.u32()
    if version in (0x02000000, 0x03000000):
        raise ModelFileError("it is a big-endian GGUF file, which is not supported.")
    if version not in (2, 3):
        raise ModelFileError(f"GGUF version {version} is not supported (2 and 3 are).")
    return version


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 8 <= value <= MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise ModelFileError(f"the file is corrupt: its alignment is {value!r}.")
    return value


@dataclass(slots=True)
class _Weights:
    """What the tensors add up to."""

    type_bytes: dict[int, int] = field(default_factory=dict)
    elements: int = 0


def _check_tensors(reader: _Reader, n: int, alignment: int) -> _Weights:
    """Check that every tensor lies inside the file and none shares a name."""
    weights = _Weights()
    ends: list[tuple[str, int]] = []
    names: set[str] = set()
    for _ in range(n):
        name = reader.text(MAX_NAME, "a tensor's name")
        if name in names:
            raise ModelFileError(f"the file is corrupt: two tensors are named {name!r}.")
        names.add(name)
        size = _tensor_bytes(reader, name, weights)
        offset = reader.u64()
        if offset % alignment:
            raise ModelFileError(f"the file is corrupt: tensor {name!r} is not aligned.")
        ends.append((name, offset + size))
    data_start = -(-reader.at // alignment) * alignment
    for name, end in ends:
        if data_start + end > reader.size:
            raise ModelFileError(
                f"the file is truncated or corrupt: tensor {name!r} ends at byte "
                f"{data_start + end}, the file at {reader.size}."
            )
    return weights


def _tensor_bytes(reader: _Reader, name: str, weights: _Weights) -> int:
    dimensions = reader.u32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ModelFileError(
            f"the file is corrupt: tensor {name!r} has {dimensions} dimensions, not 1 to 4."
        )
    shape = [reader.u64() for _ in range(dimensions)]
    kind = reader.u32()
    if kind not in TENSOR_TYPES:
        raise ModelFileError(f"tensor {name!r} has the unknown type {kind}.")
    block, block_bytes = TENSOR_TYPES[kind]
    elements = 1
    for length in shape:
        elements *= length  # Python integers do not wrap around
    if elements == 0 or shape[0] % block:
        raise ModelFileError(f"the file is corrupt: tensor {name!r} has the shape {shape}.")
    size = elements // block * block_bytes
    weights.elements += elements
    weights.type_bytes[kind] = weights.type_bytes.get(kind, 0) + size
    return size
