"""Writes the weights of one GGUF in float32 in each engine's own format: the same numbers for all.

What differs between engines' answers on these files is then the engines' doing, not the
quantisation's. Qwen2 models with a byte-level BPE only, which the starter model is. Rule: formats
and names; knows the `gguf` and `safetensors` packages, and no engine.

    python -m benchmarks.same_weights OUT
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from backends import starter

Weights = dict[str, npt.NDArray[np.float32]]

# GGUF's names to those of transformers and MLX; of a layer's tensors, what follows its number.
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Qwen2's split, which llama.cpp knows as pre-tokenizer "qwen2".
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class SameWeights:
    """Where each format lies: a GGUF file, and two folders of safetensors."""

    gguf: Path
    transformers: Path
    mlx: Path

    def by_engine(self) -> dict[str, Path]:
        """Return the path for each engine's name."""
        return {"llama-cpp": self.gguf, "transformers": self.transformers, "mlx": self.mlx}


def write(out: Path, source: Path | None = None) -> SameWeights:
    """Write the three formats of `source` (by default the starter model) into the folder `out`.

    Raises OSError, and ValueError for a model that is no Qwen2 with a byte-level BPE.
    """
    reader = gguf.GGUFReader(source or starter.path())
    if _value(reader, "general.architecture") != "qwen2":
        raise ValueError("only Qwen2 models can be written in all formats")
    if _value(reader, "tokenizer.ggml.pre") != "qwen2":
        raise ValueError("only Qwen2's tokenizer can be written in all formats")
    # By its name a model is known, and a folder has no other.
    name = Path(_value(reader, "general.name")).name
    paths = SameWeights(out / f"{name}-f32.gguf", out / f"{name}-transformers", out / f"{name}-mlx")
    weights = _weights(reader)
    out.mkdir(parents=True, exist_ok=True)
    _write_gguf(paths.gguf, reader, weights)
    config = _config(reader, tied="output.weight" not in weights)
    theta = float(_value(reader, "qwen2.rope.freq_base"))
    # transformers 5 keeps rope's base in a table; mlx-lm reads it at the top level only, and has
    # another one's place taken by its own default, without a word.
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    _write_folder(paths.transformers, reader, weights, config | rope, "pt")
    _write_folder(paths.mlx, reader, weights, config | {"rope_theta": theta}, "mlx")
    return paths


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"the file has no {key}")
    return field.contents()


def _weights(reader: gguf.GGUFReader) -> Weights:
    """Return all tensors in float32 under GGUF's names, in the shape (rows, columns)."""
    return {
        tensor.name: np.ascontiguousarray(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32
        )
        for tensor in reader.tensors
    }


def _write_gguf(path: Path, reader: gguf.GGUFReader, weights: Weights) -> None:
    """Write the same metadata, and the tensors in float32."""
    writer = gguf.GGUFWriter(path, "qwen2")
    own = {"general.architecture", "general.file_type", "general.quantization_version"}
    for key, field in reader.fields.items():
        if key in own or key.startswith("GGUF."):
            continue
        element = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], element)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(reader: gguf.GGUFReader, *, tied: bool) -> dict[str, Any]:
    """Return config.json but for rope's base."""

    def shape(key: str) -> Any:
        return _value(reader, f"qwen2.{key}")

    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "torch_dtype": "float32",
        "vocab_size": len(_value(reader, "tokenizer.ggml.tokens")),
        "hidden_size": shape("embedding_length"),
        "num_hidden_layers": shape("block_count"),
        "intermediate_size": shape("feed_forward_length"),
        "num_attention_heads": shape("attention.head_count"),
        "num_key_value_heads": shape("attention.head_count_kv"),
        "max_position_embeddings": shape("context_length"),
        "rms_norm_eps": float(shape("attention.layer_norm_rms_epsilon")),
        "hidden_act": "silu",
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
        "bos_token_id": None,
    }


def _write_folder(
    folder: Path, reader: gguf.GGUFReader, weights: Weights, config: dict[str, Any], kind: str
) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    renamed = {_renamed(name): values for name, values in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": kind})
    tokens: list[str] = _value(reader, "tokenizer.ggml.tokens")
    end = tokens[_value(reader, "tokenizer.ggml.eos_token_id")]
    texts = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": config["eos_token_id"], "do_sample": False},
        "tokenizer.json": _tokenizer(reader),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": end,
            "pad_token": tokens[_value(reader, "tokenizer.ggml.padding_token_id")],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in texts.items():
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


def _renamed(name: str) -> str:
    """Return GGUF's name of a tensor as transformers has it."""
    if name in NAMES:
        return NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def _tokenizer(reader: gguf.GGUFReader) -> dict[str, Any]:
    """Return tokenizer.json: the file's vocabulary and merges, with Qwen2's split."""
    tokens: list[str] = _value(reader, "tokenizer.ggml.tokens")
    merges: list[str] = _value(reader, "tokenizer.ggml.merges")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_control(reader, tokens)),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN2_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                byte_level | {"use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def _control(reader: gguf.GGUFReader, tokens: list[str]) -> Iterator[dict[str, Any]]:
    kinds: list[int] = _value(reader, "tokenizer.ggml.token_type")
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == gguf.TokenType.CONTROL:
            yield {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }


def main() -> None:
    """Write the three formats from the command line."""
    parser = argparse.ArgumentParser(description="Write the same weights for every engine.")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--source", type=Path, help="a Qwen2 GGUF; default: the starter model")
    arguments = parser.parse_args()
    for engine, path in write(arguments.out, arguments.source).by_engine().items():
        print(f"{engine}\t{path}")


if __name__ == "__main__":
    main()
