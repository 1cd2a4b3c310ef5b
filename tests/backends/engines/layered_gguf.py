"""Small random GGUFs of models whose layers are not all plain attention, with Qwen's tokenizer.

LFM2 alternates short convolutions (a recurrent state) with attention; Gemma 3 has sliding windows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from backends import starter
from benchmarks.random_gguf import read_vocabulary

HIDDEN, FEED_FORWARD, HEADS, HEAD, CONTEXT, LAYERS = 64, 96, 2, 32, 2048, 4
KERNEL = 3  # tokens of a short convolution
WINDOW = 32  # tokens
PLAIN_WEIGHTS = 0.2  # large enough that every token before matters


def write_hybrid(path: Path) -> Path:
    """Write an LFM2: convolution, attention, convolution, attention."""
    heads_kv = [0, 1, 0, 1]

    def tensors(layer: int) -> dict[str, tuple[int, ...]]:
        if heads_kv[layer]:
            return attention() | {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
        return {
            "shortconv.conv": (HIDDEN, KERNEL),
            "shortconv.in_proj": (3 * HIDDEN, HIDDEN),
            "shortconv.out_proj": (HIDDEN, HIDDEN),
        }

    writer = _writer(path, "lfm2")
    writer.add_head_count_kv(heads_kv)
    writer.add_uint32("lfm2.shortconv.l_cache", KERNEL)
    return _write(writer, path, "token_embd_norm", tensors)


def write_sliding(path: Path) -> Path:
    """Write a Gemma 3 whose layers, but for one in six, see the last `WINDOW` tokens."""
    norms = {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
    more = {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
    writer = _writer(path, "gemma3")
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_sliding_window(WINDOW)
    return _write(writer, path, "output_norm", lambda _: attention() | norms | more)


def attention() -> dict[str, tuple[int, ...]]:
    """Return an attention layer's own tensors, with one KV head."""
    return {
        "attn_q": (HEADS * HEAD, HIDDEN),
        "attn_k": (HEAD, HIDDEN),
        "attn_v": (HEAD, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD),
    }


def _writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Random Coder")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    words = read_vocabulary(starter.path())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_vocab_size(len(words.tokens))
    end = words.ids()["<|endoftext|>"]
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(end)
    writer.add_add_bos_token(False)
    return writer


def _write(
    writer: gguf.GGUFWriter,
    path: Path,
    output_norm: str,
    layer_tensors: Callable[[int], dict[str, tuple[int, ...]]],
) -> Path:
    rng = np.random.default_rng(0)

    def add(name: str, shape: tuple[int, ...]) -> None:
        data = (
            np.ones(shape, np.float32)
            if len(shape) == 1
            else rng.normal(0, PLAIN_WEIGHTS, shape).astype(np.float32)
        )
        writer.add_tensor(f"{name}.weight", data)

    add("token_embd", (len(read_vocabulary(starter.path()).tokens), HIDDEN))
    add(output_norm, (HIDDEN,))
    for layer in range(LAYERS):
        common = {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
        }
        for name, shape in (common | layer_tensors(layer)).items():
            add(f"blk.{layer}.{name}", shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
