"""The file format of steering vectors and the folder of them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BadRequest, Conflict, ModelFileError, Unsupported
from backends.steering import vector_file
from backends.steering.library import Library, check_model
from backends.steering.vector_file import Effect, HeldOut, Made, Shift
from tests.backends.steering.vectors import MODEL, vector

MADE = Made("docstrings", 40, "last", 1, 0.1, "1.0")
SHIFT = Shift(0.0, 0.9, 0.9, 0.8, 1.0, 20)
HELD_OUT = HeldOut(0.4, 20, (Effect("functions", SHIFT, SHIFT),))


def test_encode_and_parse_give_the_vector_back() -> None:
    whole = replace(vector(), made=MADE, held_out=HELD_OUT)
    assert vector_file.parse(vector_file.encode(whole)) == whole


def test_the_file_is_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = Library(tmp_path).save(vector())
    with safetensors.safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["vector"]
        values = file.get_tensor("vector")
        assert file.metadata()["layer"] == "1"
    assert values.tobytes() == vector().values
    assert values.shape == (MODEL.hidden_size,)


@given(st.data())
def test_parse_survives_any_damage(data: st.DataObject) -> None:
    whole = bytearray(vector_file.encode(vector()))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        parsed = vector_file.parse(bytes(whole[:cut]))
    except ModelFileError:
        return
    assert cut == len(whole)
    assert len(parsed.values) == 4 * parsed.model.hidden_size


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 3}, "layer 3"),
        ({"layer": -1}, "layer -1"),
        ({"values": struct.pack("<8f", *[float("nan")] * 8)}, "no numbers"),
        ({"values": bytes(4 * 7)}, "other than 8"),
    ],
)
def test_parse_refuses_what_could_not_be_added(change: dict[str, object], said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        vector_file.parse(vector_file.encode(replace(vector(), **change)))


def test_parse_refuses_other_safetensors() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(ModelFileError, match="no steering vector"):
        vector_file.parse(struct.pack("<Q", len(header)) + header + bytes(4))


def test_rows_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    library = Library(tmp_path / "none")
    assert list(library.rows()) == []
    library.save(vector("b"))
    path = library.save(vector("a"))
    path.with_name("torn.safetensors").write_bytes(path.read_bytes()[:100])
    os.mkfifo(path.with_name("pipe.safetensors"))
    (path.parent / "not a name.safetensors").touch()
    rows = {row.name: row for row in library.rows()}
    assert list(rows) == ["a", "b", "pipe", "torn"]
    assert [name for name, row in rows.items() if row.problem] == ["pipe", "torn"]
    path.rename(path.with_name("renamed.safetensors"))
    assert library.load("renamed")[0] == vector("renamed")


def test_save_replaces_only_when_told_and_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path)
    path = library.save(vector())
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="--overwrite"):
        library.save(vector(seed=1))
    first = library.load("v")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(OSError, match="No space"):
            library.save(vector(seed=1), overwrite=True)
    assert library.load("v") == first
    assert [file.name for file in tmp_path.iterdir()] == ["v.safetensors"]
    library.save(vector(seed=1), overwrite=True)
    assert library.load("v")[1] != first[1], "versions tell the two apart"


def test_remove_and_load_name_what_there_is(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.save(vector("kept"))
    for act in (library.remove, library.load):
        with pytest.raises(BadRequest, match=r"'gone'.*kept"):
            act("gone")
        with pytest.raises(BadRequest, match="cannot name"):
            act("../kept")
    library.remove("kept")
    with pytest.raises(BadRequest, match="steer train"):
        library.load("kept")


@pytest.mark.parametrize(
    "change",
    [{"architecture": "llama"}, {"hidden_size": 9}, {"layers": 4}, {"fingerprint": "f"}],
    ids=str,
)
def test_check_model_names_both(change: dict[str, object]) -> None:
    check_model(vector(), replace(MODEL, name="the same, elsewhere"))
    other = replace(MODEL, name="CoderX", **change)
    with pytest.raises(Unsupported, match=r"small.*CoderX"):
        check_model(vector(), other)


def test_listing_imports_no_runtime() -> None:
    code = (
        "import sys; from backends.steering.library import Library; list(Library().rows());"
        "assert not {'torch', 'numpy', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_length_is_that_of_the_values() -> None:
    one = vector()
    expected = np.linalg.norm(np.frombuffer(one.values, "<f4"))
    assert one.length == pytest.approx(float(expected))
