from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import gguf_header
from backends.errors import ModelFileError
from tests.backends import gguf_files as files
from tests.backends.gguf_files import gguf, tensor, text_value, u32_value

GOOD = files.good()


def test_read_returns_what_the_header_says(tmp_path: Path) -> None:
    header = gguf_header.read(files.write(tmp_path / "m.gguf"))
    assert (header.architecture, header.name, header.file_type) == (
        "qwen2",
        "Qwen2.5-Coder-0.5B",
        7,
    )
    assert header.context_length == 2048
    assert header.metadata["qwen2.attention.head_count_kv"] == 1
    assert header.parameters == 2 * 4 * 8
    assert header.type_bytes == {0: 256}
    assert header.vocabulary_size == 6
    assert header.control_tokens == {text: i for i, text in enumerate(files.FIM_TOKENS)}
    assert header.tensor_count == 2


def test_read_keeps_short_arrays_of_numbers(tmp_path: Path) -> None:
    values = [
        files.values()[0],
        files.i32s_value("qwen2.attention.head_count_kv", [1, 0, -1]),
        files.i32s_value("long", range(gguf_header.MAX_KEPT_ARRAY + 1)),
        files.strings_value("texts", ["a"]),
    ]
    header = gguf_header.read(files.write(tmp_path / "m.gguf", gguf(values, [], b"")))
    assert header.arrays == {"qwen2.attention.head_count_kv": (1, 0, -1)}


def test_tensor_types_agree_with_ggml() -> None:
    ours = gguf_header.TENSOR_TYPES
    theirs = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in ours if kind in theirs} == {
        kind: size for kind, size in ours.items() if kind in theirs
    }
    assert len(ours.keys() & theirs.keys()) > 25


def _with_tensors(*tensors: bytes, data: bytes = bytes(256)) -> bytes:
    return gguf(files.values(), tensors, data)


BAD = {
    "no magic": (b"NOPE" + GOOD[4:], "not a GGUF"),
    "version 1": (gguf([], [], b"", version=1), "version 1"),
    "big-endian": (gguf([], [], b"", version=0x03000000), "big-endian"),
    "cut in the magic": (GOOD[:3], "not a GGUF"),
    "cut in the counts": (GOOD[:12], "truncated"),
    "cut in the keys": (GOOD[:200], "truncated"),
    "cut in the data": (GOOD[:-1], "truncated"),
    "2^60 tensors": (gguf([], [], b"", counts=(2**60, 0)), "tensors"),
    "2^60 keys": (gguf([], [], b"", counts=(0, 2**60)), "keys"),
    "key of 2^40 bytes": (gguf([struct.pack("<Q", 2**40)], [], b""), "bytes for a key"),
    "unknown value type": (gguf([files.string("k") + struct.pack("<I", 99)], [], b""), "type 99"),
    "nested array": (
        gguf([files.string("k") + struct.pack("<IIQ", 9, 9, 1)], [], bytes(64)),
        "array of type 9",
    ),
    "array of 2^50": (
        gguf([files.string("k") + struct.pack("<IIQ", 9, 0, 2**50)], [], b""),
        "elements",
    ),
    "strings that are not there": (
        gguf([files.string("k") + struct.pack("<IIQ", 9, 8, 1000)], [], b""),
        "truncated",
    ),
    "string past the end": (
        gguf([files.string("k") + struct.pack("<IIQQ", 9, 8, 1, 2**63)], [], bytes(64)),
        "past its end",
    ),
    "5 dimensions": (_with_tensors(tensor("t", (1, 1, 1, 1, 1))), "5 dimensions"),
    "0 dimensions": (_with_tensors(tensor("t", ())), "0 dimensions"),
    "empty shape": (_with_tensors(tensor("t", (0, 4))), "shape"),
    "unknown tensor type": (_with_tensors(tensor("t", (4, 4), kind=5)), "unknown type 5"),
    "row of half a block": (_with_tensors(tensor("t", (16, 4), kind=8)), "shape"),
    "size that wraps around 2^64": (_with_tensors(tensor("t", (2**32, 2**32))), "ends at byte"),
    "offset past the end": (_with_tensors(tensor("t", (4, 4), offset=2**62)), "ends at byte"),
    "odd offset": (_with_tensors(tensor("t", (4, 4), offset=7)), "not aligned"),
    "two of one name": (_with_tensors(tensor("t", (4, 4)), tensor("t", (4, 4))), "two tensors"),
    "alignment 0": (gguf([u32_value("general.alignment", 0)], [], b""), "alignment"),
    "alignment 48": (gguf([u32_value("general.alignment", 48)], [], b""), "alignment"),
    "alignment text": (gguf([text_value("general.alignment", "8")], [], b""), "alignment"),
}


@pytest.mark.parametrize("case", BAD)
def test_read_refuses_with_the_reason(case: str, tmp_path: Path) -> None:
    data, reason = BAD[case]
    path = files.write(tmp_path / "bad.gguf", data)
    with pytest.raises(ModelFileError, match=reason) as caught:
        gguf_header.read(path)
    assert str(path) in str(caught.value)


def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        gguf_header.read(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError):
        gguf_header.read(tmp_path)
    with pytest.raises(ModelFileError, match="empty"):
        gguf_header.read(files.write(tmp_path / "empty.gguf", b""))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12),
    st.integers(0, len(GOOD)),
)
def test_parse_raises_nothing_else_for_mutations(edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD)
    for at, value in edits:
        data[at] = value
    for candidate in (bytes(data), bytes(data[:cut])):
        try:
            header = gguf_header.parse(candidate)
        except ModelFileError:
            continue
        assert header.tensor_count <= 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_parse_raises_nothing_else_for_noise(noise: bytes) -> None:
    with contextlib.suppress(ModelFileError):
        gguf_header.parse(b"GGUF\x03\x00\x00\x00" + noise)
