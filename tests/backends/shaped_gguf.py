"""Write tiny GGUF files whose attention has a given shape, for llama.cpp to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from backends import starter
from benchmarks.random_gguf import read_vocabulary

WIDTH = 64
FEED_FORWARD = 64


@dataclass(frozen=True, slots=True)
class Attention:
    """`rank` and `rope`: of MLA; `split`: stored as one head that all heads are computed from."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_k: int
    head_v: int
    window: int = 0
    rank: int = 0
    rope: int = 0
    split: bool = False


def write(path: Path, shape: Attention, seed: int = 0) -> Path:
    """Write float32 weights of `shape` with the starter model's vocabulary."""
    words = read_vocabulary(starter.path())
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name("Shaped Coder")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_eos_token_id(words.ids()["<|endoftext|>"])
    _add_attention(writer, shape)
    rng = np.random.default_rng(seed)

    def tensor(name: str, *dimensions: int) -> None:
        data = rng.normal(0, 0.05, dimensions[::-1]) if len(dimensions) > 1 else np.ones(dimensions)
        writer.add_tensor(name + ".weight", data.astype(np.float32))

    tensor("token_embd", WIDTH, len(words.tokens))
    tensor("output_norm", WIDTH)
    for layer in range(shape.layers):
        for name, dimensions in _layer(shape).items():
            tensor(f"blk.{layer}.{name}", *dimensions)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_attention(writer: gguf.GGUFWriter, shape: Attention) -> None:
    if not shape.rank:
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_key_length(shape.head_k)
        writer.add_value_length(shape.head_v)
        if shape.window:
            writer.add_sliding_window(shape.window)
        return
    writer.add_kv_lora_rank(shape.rank)
    writer.add_rope_dimension_count(shape.rope)
    writer.add_leading_dense_block_count(shape.layers)
    writer.add_expert_feed_forward_length(FEED_FORWARD)
    writer.add_expert_shared_count(1)
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    if shape.split:
        writer.add_head_count_kv(1)
        writer.add_key_length(shape.rank + shape.rope)
        writer.add_value_length(shape.rank)
        writer.add_key_length_mla(shape.head_k)
        writer.add_value_length_mla(shape.head_v)
    else:
        writer.add_head_count_kv(shape.heads)
        writer.add_key_length(shape.head_k)
        writer.add_value_length(shape.head_v)


def _layer(shape: Attention) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (WIDTH, FEED_FORWARD),
        "ffn_up": (WIDTH, FEED_FORWARD),
        "ffn_down": (FEED_FORWARD, WIDTH),
        "attn_q": (WIDTH, shape.heads * shape.head_k),
        "attn_output": (shape.heads * shape.head_v, WIDTH),
    }
    if shape.rank:
        plain = shape.head_k - shape.rope
        tensors["attn_kv_a_mqa"] = (WIDTH, shape.rank + shape.rope)
        tensors["attn_kv_a_norm"] = (shape.rank,)
        if shape.split:
            tensors["attn_k_b"] = (plain, shape.rank, shape.heads)
            tensors["attn_v_b"] = (shape.rank, shape.head_v, shape.heads)
        else:
            tensors["attn_kv_b"] = (shape.rank, shape.heads * (plain + shape.head_v))
        return tensors
    tensors["attn_k"] = (WIDTH, shape.kv_heads * shape.head_k)
    tensors["attn_v"] = (WIDTH, shape.kv_heads * shape.head_v)
    if shape.architecture in ("gemma3", "qwen3"):
        tensors["attn_q_norm"] = tensors["attn_k_norm"] = (shape.head_k,)
    if shape.architecture == "gemma3":
        tensors["post_attention_norm"] = tensors["post_ffw_norm"] = (WIDTH,)
    return tensors
