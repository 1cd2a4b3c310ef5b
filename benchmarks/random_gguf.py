"""Writes a GGUF of a given shape with random weights: for speed, memory and model switching.

What it writes loads and runs like the real model of that shape, and completes nonsense. The
tokenizer is the starter model's; larger presets pad it to Qwen's vocabulary size and move its
control tokens to Qwen's ids. Rule: a file and its metadata; knows the `gguf` package and no engine.

    python -m benchmarks.random_gguf PRESET OUT.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from backends import starter

CHUNK_ROWS = 8192  # rows of a tensor that are in memory at once
WEIGHT_RANGE = 0.05  # the largest absolute weight

# Qwen2.5-Coder's ids.
QWEN_CONTROL = {
    "<|endoftext|>": 151643,
    "<|fim_prefix|>": 151659,
    "<|fim_middle|>": 151660,
    "<|fim_suffix|>": 151661,
    "<|fim_pad|>": 151662,
    "<|repo_name|>": 151663,
    "<|file_sep|>": 151664,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 model's dimensions; embeddings are tied. `vocabulary` 0: the tokenizer's own."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    context: int
    vocabulary: int = 0

    def tensors(self, vocabulary: int) -> Iterator[tuple[str, int, int]]:
        """Yield (name, rows, columns); vectors have 0 rows."""
        kv = self.hidden // self.heads * self.kv_heads
        yield "token_embd.weight", vocabulary, self.hidden
        yield "output_norm.weight", 0, self.hidden
        for layer in range(self.layers):
            block = f"blk.{layer}."
            yield block + "attn_norm.weight", 0, self.hidden
            yield block + "ffn_norm.weight", 0, self.hidden
            for name, rows in (("q", self.hidden), ("k", kv), ("v", kv)):
                yield f"{block}attn_{name}.weight", rows, self.hidden
                yield f"{block}attn_{name}.bias", 0, rows
            yield block + "attn_output.weight", self.hidden, self.hidden
            yield block + "ffn_gate.weight", self.feed_forward, self.hidden
            yield block + "ffn_up.weight", self.feed_forward, self.hidden
            yield block + "ffn_down.weight", self.hidden, self.feed_forward


PRESETS = {
    "tiny": Shape(64, 2, 128, 2, 1, 2048),
    "0.5b": Shape(896, 24, 4864, 14, 2, 32768, 151936),
    "1.5b": Shape(1536, 28, 8960, 12, 2, 32768, 151936),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE: `tokens` by id with their GGUF types, and merges in order."""

    tokens: list[str]
    types: list[int]
    merges: list[str]

    def ids(self) -> dict[str, int]:
        """Return the id of every control token."""
        return {
            token: number
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind == gguf.TokenType.CONTROL
        }


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the tokenizer of a GGUF file."""
    fields = gguf.GGUFReader(path).fields

    def contents(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    return Vocabulary(contents("tokens"), contents("token_type"), contents("merges"))


def pad(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """Return `vocabulary` with `size` tokens, its control tokens moved to Qwen's ids."""
    normal = [
        (token, kind)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind != gguf.TokenType.CONTROL
    ]
    if len(normal) > min(QWEN_CONTROL.values()):
        raise ValueError(f"{len(normal)} tokens do not fit before the control tokens")
    filler = (f"<|unused_{number}|>" for number in range(size))
    tokens = [token for token, _ in normal] + [next(filler) for _ in range(size - len(normal))]
    types = [kind for _, kind in normal] + [int(gguf.TokenType.UNUSED)] * (size - len(normal))
    for token, number in QWEN_CONTROL.items():
        tokens[number], types[number] = token, int(gguf.TokenType.CONTROL)
    return Vocabulary(tokens, types, vocabulary.merges)


def write(path: Path, preset: str, *, tokenizer: Path | None = None, seed: int = 0) -> Path:
    """Write the GGUF of `preset` to `path`, Q8_0, and return `path`.

    `tokenizer` is a GGUF to take the tokenizer from, by default the starter model's. Tensors are
    written piece by piece: memory stays under 1 GiB for every preset. Raises OSError.
    """
    shape = PRESETS[preset]
    vocabulary = read_vocabulary(tokenizer or starter.path())
    if shape.vocabulary:
        vocabulary = pad(vocabulary, shape.vocabulary)
    writer = gguf.GGUFWriter(path, "qwen2")
    _add_metadata(writer, preset, shape, vocabulary)
    tensors = list(shape.tensors(len(vocabulary.tokens)))
    for name, rows, columns in tensors:
        if rows:
            size = rows * columns // 32 * 34
            writer.add_tensor_info(
                name,
                (rows, columns // 32 * 34),  # bytes of a row, as for data of type uint8
                np.dtype(np.uint8),
                size,
                raw_dtype=gguf.GGMLQuantizationType.Q8_0,
            )
        else:
            writer.add_tensor_info(name, (columns,), np.dtype(np.float32), columns * 4)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        rng = np.random.default_rng(seed)
        assert writer.fout is not None
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        for name, rows, columns in tensors:
            for piece in _data(rng, name, rows, columns):
                out.write(piece.tobytes())
            writer.write_padding(out, out.tell())
    finally:
        writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, preset: str, shape: Shape, words: Vocabulary) -> None:
    # "Coder": the catalogue trusts these tokens in coder models alone.
    writer.add_name(f"Random Coder {preset}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    ids = words.ids()
    writer.add_eos_token_id(ids["<|endoftext|>"])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    for key, token in (
        (gguf.Keys.Tokenizer.FIM_PRE_ID, "<|fim_prefix|>"),
        (gguf.Keys.Tokenizer.FIM_SUF_ID, "<|fim_suffix|>"),
        (gguf.Keys.Tokenizer.FIM_MID_ID, "<|fim_middle|>"),
        (gguf.Keys.Tokenizer.FIM_PAD_ID, "<|fim_pad|>"),
        (gguf.Keys.Tokenizer.FIM_REP_ID, "<|repo_name|>"),
        (gguf.Keys.Tokenizer.FIM_SEP_ID, "<|file_sep|>"),
    ):
        if token in ids:
            writer.add_uint32(key, ids[token])


def _data(
    rng: np.random.Generator, name: str, rows: int, columns: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield a tensor's data in pieces: Q8_0 blocks (a float16 scale, 32 int8) or float32."""
    if not rows:
        fill = np.ones if name.endswith("norm.weight") else np.zeros
        yield fill(columns, np.float32)
        return
    for start in range(0, rows, CHUNK_ROWS):
        blocks = (min(start + CHUNK_ROWS, rows) - start) * columns // 32
        data = np.empty((blocks, 34), np.uint8)
        data[:, :2] = np.array([WEIGHT_RANGE / 127], np.float16).view(np.uint8)
        data[:, 2:] = rng.integers(-127, 128, (blocks, 32), np.int8).view(np.uint8)
        yield data


def main() -> None:
    """Write a preset's file from the command line."""
    parser = argparse.ArgumentParser(description="Write a GGUF with random weights.")
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a GGUF; default: the starter model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.out, arguments.preset, tokenizer=arguments.tokenizer, seed=arguments.seed)


if __name__ == "__main__":
    main()
