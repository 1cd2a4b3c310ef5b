"""The three formats hold the same numbers and the same tokenizer."""

from __future__ import annotations

import argparse
import inspect
import json
import random
from pathlib import Path

import numpy as np
import pytest

from backends import starter
from benchmarks import same_weights

gguf = pytest.importorskip("gguf")
safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")

# Where splits differ between implementations: apostrophes, marks, case folding, line ends, runs
# of blanks, control tokens' spellings, characters of one to four bytes.
AWKWARD = [*"aB3'sS \t\n\rſİ,.é中🙂\u0301\u200d\u00a0", "<|fim_prefix|>", "<|endoftext|>", "    "]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> same_weights.SameWeights:
    return same_weights.write(tmp_path_factory.mktemp("same"))


def texts() -> list[str]:
    rng = random.Random(0)
    sources = [inspect.getsource(module) for module in (argparse, inspect, json, random)]
    return sources + ["".join(rng.choices(AWKWARD, k=rng.randrange(40))) for _ in range(1000)]


def test_every_tensor_is_the_starter_s_dequantised(written: same_weights.SameWeights) -> None:
    reader = gguf.GGUFReader(starter.path())
    copied = {tensor.name: tensor.data for tensor in gguf.GGUFReader(written.gguf).tensors}
    folders = [
        safetensors.load_file(folder / "model.safetensors")
        for folder in (written.transformers, written.mlx)
    ]
    assert len(reader.tensors) == len(copied) == len(folders[0]) == len(folders[1])
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = same_weights._renamed(tensor.name)
        for values in (copied[tensor.name], folders[0][name], folders[1][name]):
            assert values.dtype == np.float32
            assert np.array_equal(values, expected)


def test_the_gguf_keeps_its_metadata_but_for_the_file_type(
    written: same_weights.SameWeights,
) -> None:
    def metadata(path: Path) -> dict[str, object]:
        fields = gguf.GGUFReader(path).fields.items()
        return {key: field.contents() for key, field in fields if not key.startswith("GGUF.")}

    old, new = metadata(starter.path()), metadata(written.gguf)
    assert new.pop("general.file_type") == gguf.LlamaFileType.ALL_F32
    old.pop("general.file_type")
    old.pop("general.quantization_version")
    assert new == old


def test_rope_s_base_stands_where_each_engine_reads_it(written: same_weights.SameWeights) -> None:
    configs = [
        json.loads((folder / "config.json").read_text())
        for folder in (written.transformers, written.mlx)
    ]
    assert configs[0]["rope_parameters"]["rope_theta"] == configs[1]["rope_theta"] == 10000.0
    assert all(config["tie_word_embeddings"] for config in configs)


@pytest.mark.engine
def test_the_tokenizer_gives_llama_cpp_s_ids(written: same_weights.SameWeights) -> None:
    from backends import engines
    from backends.frames import Load

    tokenizer = tokenizers.Tokenizer.from_file(str(written.mlx / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    model = engines.load(Load(engine="llama-cpp", path=str(written.gguf), name="same"))
    try:
        for text in texts():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert ids == model.tokenize(text), repr(text)
    finally:
        model.close()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="only Qwen2"):
        same_weights.write(tmp_path / "out", tmp_path / "other.gguf")
