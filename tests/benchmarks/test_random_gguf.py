from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from backends import gguf_header
from benchmarks import random_gguf
from benchmarks.random_gguf import PRESETS, QWEN_CONTROL, Vocabulary, pad
from fim import templates

CONTROL, NORMAL = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)


def test_write_makes_a_whole_model_that_is_trusted_to_fill_in(tiny_model: Path) -> None:
    header = gguf_header.read(tiny_model)
    template = templates.detect(
        header.control_tokens, architecture=header.architecture, name=header.name
    )
    assert not isinstance(template, templates.NoFim)
    reader = gguf.GGUFReader(tiny_model)
    shapes = {tensor.name: list(tensor.shape) for tensor in reader.tensors}
    assert shapes["blk.1.ffn_down.weight"] == [128, 64]
    assert "blk.2.ffn_down.weight" not in shapes
    weights = gguf.dequantize(reader.tensors[0].data, gguf.GGMLQuantizationType.Q8_0)
    assert abs(weights).max() == pytest.approx(random_gguf.WEIGHT_RANGE, rel=0.01)
    assert weights.std() > 0.4 * random_gguf.WEIGHT_RANGE


def test_write_depends_on_the_seed_alone(tmp_path: Path, tiny_model: Path) -> None:
    again = random_gguf.write(tmp_path / "again.gguf", "tiny")
    other = random_gguf.write(tmp_path / "other.gguf", "tiny", seed=1)
    assert again.read_bytes() == tiny_model.read_bytes()
    assert other.read_bytes() != again.read_bytes()


@pytest.mark.parametrize(("preset", "millions"), [("0.5b", 494), ("1.5b", 1544)])
def test_presets_have_qwens_number_of_parameters(preset: str, millions: int) -> None:
    shape = PRESETS[preset]
    count = sum(max(rows, 1) * columns for _, rows, columns in shape.tensors(shape.vocabulary))
    assert round(count / 1e6) == millions


def test_pad_moves_control_tokens_to_qwens_ids() -> None:
    small = Vocabulary(
        ["<|endoftext|>", "<|fim_prefix|>", "a", "b"], [CONTROL] * 2 + [NORMAL] * 2, []
    )
    padded = pad(small, 151936)
    assert len(padded.tokens) == len(padded.types) == len(set(padded.tokens)) == 151936
    assert padded.ids() == QWEN_CONTROL
    assert padded.tokens[:2] == ["a", "b"]


def test_pad_refuses_a_vocabulary_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pad(Vocabulary(["x"] * 151650, [NORMAL] * 151650, []), 151936)
