from __future__ import annotations

from pathlib import Path

import pytest

from backends import gguf_header, gguf_parts
from backends.errors import ModelFileError
from tests.backends import gguf_files


@pytest.mark.parametrize(
    ("name", "count", "later"),
    [
        ("m.gguf", 1, False),
        ("m-00001-of-00003.gguf", 3, False),
        ("m-00002-of-00003.gguf", 1, True),
        ("m-00001-of-99999.gguf", 1, False),  # no model has so many
        ("m-1-of-3.gguf", 1, False),
    ],
)
def test_files_of_a_model(name: str, count: int, later: bool) -> None:
    path = Path("/models") / name
    found = gguf_parts.files(path)
    assert (len(found), found[0]) == (count, path)
    assert gguf_parts.is_later_part(path) is later


def test_read_of_a_whole_file_is_its_header(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    assert gguf_parts.read(path) == gguf_header.read(path)


def test_read_adds_up_the_parts(tmp_path: Path) -> None:
    vocabulary = gguf_files.gguf(gguf_files.values(), [], b"")  # the first may hold no weights
    first = gguf_files.write(tmp_path / "m-00001-of-00002.gguf", vocabulary)
    second = gguf_files.write(tmp_path / "m-00002-of-00002.gguf")
    header = gguf_parts.read(first)
    assert header.tensor_count == 2
    assert header.file_bytes == first.stat().st_size + second.stat().st_size
    assert header.parameters == 64
    assert header.architecture == "qwen2"


def test_read_refuses_a_missing_or_bad_part(tmp_path: Path) -> None:
    first = gguf_files.write(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(ModelFileError, match=r"00002-of-00002\.gguf is missing"):
        gguf_parts.read(first)
    gguf_files.write(tmp_path / "m-00002-of-00002.gguf", gguf_files.good()[:-8])
    with pytest.raises(ModelFileError, match="truncated"):
        gguf_parts.read(first)
