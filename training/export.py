"""Writes a checkpoint as a Q8_0 GGUF that llama.cpp loads, reads one back, and writes the model
card.

Rule of this module: names and formats only. Every figure in the model card comes from a file that
another step measured (`evaluation.json`, the checkpoint, the manifest); none is typed here.

    python -m training.export --checkpoint RUN/checkpoint.pt --data DIR --out
    midspan-starter-q8_0.gguf … --evaluation evaluation.json    also writes MODEL_CARD.md beside it
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from training.card import model_card
from training.model import Config
from training.tokenizer import (
    CONTROL_TOKENS,
    END,
    FILE,
    MIDDLE,
    PAD,
    PREFIX,
    REPOSITORY,
    SUFFIX,
    from_vocabulary,
    load_tokenizer,
)

logger = logging.getLogger(__name__)

NAMES = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "attention_norm.weight": "attn_norm.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "attention.q.weight": "attn_q.weight",
    "attention.q.bias": "attn_q.bias",
    "attention.k.weight": "attn_k.weight",
    "attention.k.bias": "attn_k.bias",
    "attention.v.weight": "attn_v.weight",
    "attention.v.bias": "attn_v.bias",
    "attention.o.weight": "attn_output.weight",
    "gate.weight": "ffn_gate.weight",
    "up.weight": "ffn_up.weight",
    "down.weight": "ffn_down.weight",
}
"""Our parameter names (within a layer, or whole) to GGUF's."""

CONTROL_KEYS = {
    "tokenizer.ggml.eos_token_id": END,
    "tokenizer.ggml.eot_token_id": END,
    "tokenizer.ggml.bos_token_id": END,
    "tokenizer.ggml.padding_token_id": PAD,
    "tokenizer.ggml.fim_pre_token_id": PREFIX,
    "tokenizer.ggml.fim_suf_token_id": SUFFIX,
    "tokenizer.ggml.fim_mid_token_id": MIDDLE,
    "tokenizer.ggml.fim_pad_token_id": PAD,
    "tokenizer.ggml.fim_rep_token_id": REPOSITORY,
    "tokenizer.ggml.fim_sep_token_id": FILE,
}


def gguf_name(name: str) -> str:
    """A parameter's name in GGUF.

    >>> gguf_name("layers.3.attention.q.bias")
    'blk.3.attn_q.bias'
    """
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"blk.{layer}.{NAMES[rest]}"
    return NAMES[name]


def own_name(name: str) -> str:
    """`gguf_name` the other way round."""
    back = {theirs: ours for ours, theirs in NAMES.items()}
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        return f"layers.{layer}.{back[rest]}"
    return back[name]


def write_gguf(
    path: Path, weights: dict[str, Tensor], config: Config, tokenizer: Tokenizer, context: int
) -> None:
    """Writes the model: matrices in Q8_0, norms and biases in float32, all of Qwen2's metadata;
    whole or not at all.

    `weights` are float32 by our names; `context` is the longest row trained on, in tokens.
    """
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(temporary, "qwen2")
    writer.add_name("midspan-starter")
    writer.add_author("the midspan developers")
    writer.add_description(
        "Fill-in-the-middle completion of Python, trained from scratch; see MODEL_CARD.md"
    )
    writer.add_license("apache-2.0")
    writer.add_size_label(f"{sum(w.numel() for w in weights.values()) / 1e6:.0f}M")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.epsilon)
    writer.add_vocab_size(config.vocabulary)
    add_tokenizer(writer, tokenizer)
    for name, weight in weights.items():
        values: NDArray[np.float32] = weight.detach().float().cpu().numpy()
        if values.ndim == 2:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(gguf_name(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, path)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Adds vocabulary, merges and control ids; llama.cpp must add no token of its own."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(model["vocab"].items(), key=lambda item: item[1])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    kinds = [
        gguf.TokenType.CONTROL if i < len(CONTROL_TOKENS) else gguf.TokenType.NORMAL
        for i in range(len(by_id))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([token for token, _ in by_id])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    for key, token in CONTROL_KEYS.items():
        writer.add_uint32(key, token)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of an exported GGUF, dequantised to float32, by our names."""
    reader = gguf.GGUFReader(path)
    return {
        own_name(t.name): torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type)))
        for t in reader.tensors
    }


def read_config(path: Path) -> Config:
    """The shape of an exported GGUF; its context is the longest row it was trained on."""
    reader = gguf.GGUFReader(path)

    def value(key: str) -> Any:
        field = reader.get_field(f"qwen2.{key}")
        if field is None:
            raise KeyError(f"{path} has no qwen2.{key}")
        return field.contents()

    return Config(
        vocabulary=value("vocab_size"),
        hidden=value("embedding_length"),
        layers=value("block_count"),
        heads=value("attention.head_count"),
        kv_heads=value("attention.head_count_kv"),
        feed_forward=value("feed_forward_length"),
        context=max(2048, value("context_length")),
        rope_theta=value("rope.freq_base"),
        epsilon=value("attention.layer_norm_rms_epsilon"),
    )


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of an exported GGUF, to train on from it."""
    reader = gguf.GGUFReader(path)
    lists = [reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "merges")]
    tokens, merges = ([] if field is None else field.contents() for field in lists)
    return from_vocabulary(tokens, merges)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of tokenizer.json and manifest.json"
    )
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument(
        "--evaluation",
        type=Path,
        help="evaluation.json: with it, MODEL_CARD.md is written beside --out",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    state = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    config = Config(**state["config"])
    write_gguf(
        arguments.out,
        state["model"],
        config,
        load_tokenizer(arguments.data / "tokenizer.json"),
        state.get("longest", 512),
    )
    logger.info("%s: %d bytes", arguments.out, arguments.out.stat().st_size)
    if arguments.evaluation:
        evaluation = json.loads(arguments.evaluation.read_text(encoding="utf-8"))
        manifest = json.loads((arguments.data / "manifest.json").read_text(encoding="utf-8"))
        card = model_card(state, manifest, evaluation, arguments.out.stat().st_size)
        arguments.out.with_name("MODEL_CARD.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
