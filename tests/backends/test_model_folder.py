from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import model_folder, safetensors_header
from backends.errors import ModelFileError
from tests.backends import model_folders as folders
from tests.backends.model_folders import GOOD, index, safetensors, with_header, write

TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_read_returns_what_the_folder_says(tmp_path: Path) -> None:
    header = model_folder.read(write(tmp_path / "Qwen2.5-Coder-0.5B"))
    assert (header.architecture, header.name) == ("qwen2", "Qwen2.5-Coder-0.5B")
    assert (header.context_length, header.block_count) == (2048, 2)
    assert (header.head_count, header.kv_head_count) == (4, 2)
    assert (header.key_length, header.value_length, header.embedding_length) == (16, 16, 64)
    assert header.sliding_window == 0, "the window is declared and switched off"
    assert (header.tensor_count, header.file_bytes) == (2, len(GOOD))
    assert (header.dtype, header.is_mlx, header.format) == ("float32", False, "safetensors")
    assert header.vocabulary_size == 300
    assert not header.wants_own_code


def test_control_tokens_are_the_special_ones_and_those_of_fill_in_the_middle(
    tmp_path: Path,
) -> None:
    header = model_folder.read(write(tmp_path))
    assert header.control_tokens == {
        "<|endoftext|>": 0,
        **{token: 1 + i for i, token in enumerate(folders.FIM_TOKENS)},
    }
    settings = {"added_tokens_decoder": {"5": {"content": "<think>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert model_folder.read(tmp_path).control_tokens["<think>"] == 5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"head_dim": 32}, (32, 32, 2)),
        ({"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}, (192, 128, 2)),
        ({"multi_query": True}, (16, 16, 1)),
        ({"num_key_value_heads": None}, (16, 16, 4)),
        ({"text_config": {"num_attention_heads": 8, "num_key_value_heads": 1}}, (8, 8, 1)),
    ],
)
def test_head_lengths_follow_the_kind_of_attention(
    tmp_path: Path, config: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    header = model_folder.read(write(tmp_path, config=config))
    assert (header.key_length, header.value_length, header.kv_head_count) == expected


def test_a_hugging_face_cache_gives_the_repository_s_name(tmp_path: Path) -> None:
    repository = tmp_path / "models--Qwen--Qwen2.5-Coder-1.5B"
    blobs = write(repository / "blobs")
    snapshot = repository / "snapshots" / "8123ea2e"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert model_folder.read(snapshot).name == "Qwen2.5-Coder-1.5B"


def test_mlx_folders_are_told_by_their_quantization_or_their_files(tmp_path: Path) -> None:
    bits = {"group_size": 64, "bits": 4}
    packed = model_folder.read(write(tmp_path / "a", config={"quantization": bits}))
    assert (packed.is_mlx, packed.quantization) == (True, bits)
    written = safetensors({"a": (2,)}, "BF16", {"format": "mlx"})
    plain = model_folder.read(write(tmp_path / "b", {"model.safetensors": written}))
    assert (plain.is_mlx, plain.dtype, plain.format) == (True, "bfloat16", "mlx")


def test_code_is_dropped_from_the_configuration(tmp_path: Path) -> None:
    wish = {"auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation_internal": "evil/kernel"}
    nested = {"text_config": {**wish, "a": [wish, {"__float__": "Infinity"}]}}
    header = model_folder.read(write(tmp_path, config=wish | nested))
    assert header.wants_own_code
    assert not wish.keys() & header.config.keys()
    assert header.config["text_config"] == {"a": [{}, float("inf")]}


def test_the_chat_template_is_the_file_s_or_the_tokenizer_s(tmp_path: Path) -> None:
    write(tmp_path)
    assert model_folder.read(tmp_path).chat_template == ""
    rag = {"name": "rag", "template": "R"}
    for template, expected in (
        ("A", "A"),
        ([rag, {"name": "default", "template": "D"}], "D"),
        ([rag], ""),
        (None, ""),
    ):
        settings = {"chat_template": template}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert model_folder.read(tmp_path).chat_template == expected
    (tmp_path / "chat_template.jinja").write_text("J")
    assert model_folder.read(tmp_path).chat_template == "J"


def test_shards_are_counted_together(tmp_path: Path) -> None:
    first, second = safetensors({"a": (4,)}), safetensors({"b": (8,)})
    files = {
        SHARDS[0]: first,
        SHARDS[1]: second,
        "model.safetensors.index.json": index({"a": SHARDS[0], "b": SHARDS[1]}),
        "consolidated.safetensors": safetensors({"other": (2,)}),
    }
    header = model_folder.read(write(tmp_path, files))
    assert header.weight_files == tuple(tmp_path / name for name in SHARDS)
    assert (header.tensor_count, header.file_bytes) == (2, len(first) + len(second))


SHARD = {SHARDS[0]: safetensors({"a": (4,)})}
INDEX = "model.safetensors.index.json"
BAD_FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "no weights": ({}, "holds no model.safetensors"),
    "pickled weights": ({"pytorch_model.bin": b"\x80"}, "can run any code"),
    "a shard is missing": (SHARD | {INDEX: index({"a": SHARDS[0], "b": SHARDS[1]})}, "download"),
    "a shard lacks a tensor": (SHARD | {INDEX: index({"z": SHARDS[0]})}, "lacks 'z'"),
    "a shard elsewhere": (SHARD | {INDEX: index({"a": "../x.safetensors"})}, "no file of this"),
    "an absolute shard": (SHARD | {INDEX: index({"a": "/etc/passwd"})}, "no file of this folder"),
    "a shard with a zero": (SHARD | {INDEX: index({"a": "a\0"})}, "no file of this folder"),
    "a broken index": (SHARD | {INDEX: b"{"}, "corrupt"),
    "an index of nothing": (SHARD | {INDEX: b"{}"}, "corrupt"),
    "empty weights": ({"model.safetensors": with_header({})}, "holds no weights"),
    "a broken file beside": (
        {"model.safetensors": GOOD, "b.safetensors": GOOD[:-1]},
        "truncated",
    ),
    "a broken configuration": ({"model.safetensors": GOOD, "config.json": b"[]"}, "corrupt"),
    "nested without end": ({"config.json": b'{"a":' + b"[" * 100_000}, "corrupt"),
    "not UTF-8": ({"config.json": b'{"a": "\xff"}'}, "corrupt"),
    "a negative number": ({"config.json": b'{"num_hidden_layers": -1}'}, "is -1"),
    "a number of 2^60": ({"config.json": b'{"hidden_size": 1152921504606846976}'}, "hidden_size"),
    "a number that is none": ({"config.json": b'{"num_attention_heads": "4"}'}, "is '4'"),
    "a broken tokenizer": (
        {"model.safetensors": GOOD, "tokenizer.json": b'{"added_tokens": 3}'},
        "tokenizer.json is corrupt",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_read_says_what_is_wrong(tmp_path: Path, case: str) -> None:
    files, message = BAD_FOLDERS[case]
    if "config.json" in files:
        files = {"model.safetensors": GOOD, **files}
    with pytest.raises(ModelFileError, match=message) as caught:
        model_folder.read(write(tmp_path, files))
    assert str(tmp_path) in str(caught.value) or "config.json" in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_what_engines_need_is_refused(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name}"):
        model_folder.read(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    for path in (write(tmp_path) / "config.json", tmp_path / "none"):
        with pytest.raises(ModelFileError, match="not a folder"):
            model_folder.read(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFileError, match="leads out"):
        model_folder.read(folder)


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    import os

    folder = write(tmp_path)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelFileError, match="not a file"):
        model_folder.read(folder)


BAD_FILES = {
    "empty": (b"", "too short"),
    "a header of 2^63": (struct.pack("<Q", 2**63) + b"{}", "announces a header"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "announces a header"),
    "no JSON": (with_header(b"{]"), "nonsense"),
    "a list": (with_header(b"[]"), "nonsense"),
    "nested without end": (with_header(b'{"a":' + b"[" * 100_000), "nonsense"),
    "not UTF-8": (with_header(b'{"\xff": 1}'), "nonsense"),
    "no offsets": (with_header({"a": {"dtype": "F32", "shape": [2]}}), "nonsense"),
    "offsets past the end": (with_header({"a": TENSOR}), "truncated"),
    "bytes that belong to none": (with_header({"a": TENSOR}, bytes(9)), "truncated"),
    "a gap": (
        with_header({"a": TENSOR, "b": TENSOR | {"data_offsets": [16, 24]}}, bytes(24)),
        "'b' begins at byte 16",
    ),
    "an overlap": (
        with_header({"a": TENSOR, "b": TENSOR | {"data_offsets": [4, 12]}}, bytes(12)),
        "'b' begins at byte 4",
    ),
    "a shape that does not fit": (
        with_header({"a": TENSOR | {"shape": [3]}}, bytes(8)),
        "has 8 bytes",
    ),
    "a size that wraps around 2^64": (
        with_header({"a": TENSOR | {"shape": [2**33, 2**31]}}, bytes(8)),
        "has 8 bytes",
    ),
    "a negative length": (with_header({"a": TENSOR | {"shape": [-2, -1]}}, bytes(8)), "shape"),
    "backwards": (with_header({"a": TENSOR | {"data_offsets": [8, 0]}}, bytes(8)), "bytes"),
    "an unknown type": (with_header({"a": TENSOR | {"dtype": "O"}}, bytes(8)), "unknown type"),
    "metadata that is no text": (with_header({"__metadata__": {"a": 1}}), "nonsense"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_safetensors_file_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    data, message = BAD_FILES[case]
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match=message):
        safetensors_header.read(tmp_path / "m.safetensors")


def test_sub_byte_and_scalar_tensors_are_measured() -> None:
    header = {
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "half": {"dtype": "F4", "shape": [3, 2], "data_offsets": [4, 7]},
        "none": {"dtype": "F32", "shape": [0, 4], "data_offsets": [7, 7]},
    }
    text = json.dumps(header).encode()
    parsed = safetensors_header.parse(text, 8 + len(text) + 7)
    assert parsed.type_bytes == {"F32": 4, "F4": 3}


@given(st.binary(max_size=400))
def test_any_header_is_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(ModelFileError):
        safetensors_header.parse(text, 8 + len(text) + 64)


@given(st.data())
def test_any_damage_to_a_good_file_is_read_or_refused(data: st.DataObject) -> None:
    good = safetensors({"a": (2, 2), "b": (3,)}, metadata={"format": "pt"})
    length = struct.unpack("<Q", good[:8])[0]
    text = bytearray(good[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = safetensors_header.parse(bytes(text), len(good))
    except ModelFileError:
        return
    assert sum(parsed.type_bytes.values()) == len(good) - 8 - length


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from([*folders.CONFIG, "head_dim", "text_config"]), json_values),
    st.dictionaries(st.sampled_from(["added_tokens", "model"]), json_values),
)
def test_any_configuration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], tokenizer: dict[str, Any]
) -> None:
    folder = write(tmp_path_factory.mktemp("m"), config=config, tokenizer=tokenizer)
    with contextlib.suppress(ModelFileError):
        header = model_folder.read(folder)
        assert all(isinstance(id, int) for id in header.control_tokens.values())
