"""Write small model folders byte by byte, good and bad ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

FIM_TOKENS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 300,
    "sliding_window": 1024,
    "use_sliding_window": False,
}
TOKENIZER: dict[str, Any] = {
    "added_tokens": [
        {"id": 0, "content": "<|endoftext|>", "special": True},
        # As Qwen2.5-Coder has them.
        *({"id": 1 + i, "content": t, "special": False} for i, t in enumerate(FIM_TOKENS)),
        {"id": 4, "content": "  ", "special": False},
        {"id": 5, "content": "<think>", "special": False},
    ],
    "model": {"type": "BPE", "vocab": {"a": 6}, "merges": []},
}


def safetensors(
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return a file of zeros."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        end = at + prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return with_header(header, bytes(at))


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD = safetensors({"embed": (300, 64), "norm": (64,)})


def write(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder; `config` and `tokenizer` add to the usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | dict(config or {})))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER | dict(tokenizer or {})))
    for name, data in ({"model.safetensors": GOOD} if files is None else files).items():
        (folder / name).write_bytes(data)
    return folder


def index(weight_map: Mapping[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": dict(weight_map)}).encode()
