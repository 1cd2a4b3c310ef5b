"""Build small GGUF files byte by byte, good and bad ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

FIM_TOKENS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
NORMAL, CONTROL = 1, 3


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def text_value(key: str, text: str) -> bytes:
    return string(key) + struct.pack("<I", 8) + string(text)


def u32_value(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def strings_value(key: str, texts: Sequence[str]) -> bytes:
    return string(key) + struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(string, texts))


def i32s_value(key: str, values: Sequence[int]) -> bytes:
    head = string(key) + struct.pack("<IIQ", 9, 5, len(values))
    return head + struct.pack(f"<{len(values)}i", *values)


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


def gguf(
    values: Sequence[bytes],
    tensors: Sequence[bytes],
    data: bytes,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_values = counts or (len(tensors), len(values))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_values)
    head += b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def values(tokens: Mapping[str, int] | None = None) -> list[bytes]:
    """Keys of a small Qwen2 model; `tokens` are text → type."""
    if tokens is None:
        tokens = dict.fromkeys(FIM_TOKENS, CONTROL) | {"a": NORMAL, "b": NORMAL}
    return [
        text_value("general.architecture", "qwen2"),
        text_value("general.name", "Qwen2.5-Coder-0.5B"),
        u32_value("qwen2.context_length", 2048),
        u32_value("qwen2.block_count", 6),
        u32_value("qwen2.attention.head_count", 4),
        u32_value("qwen2.attention.head_count_kv", 1),
        u32_value("general.file_type", 7),
        text_value("tokenizer.chat_template", "{{ messages }}"),
        strings_value("tokenizer.ggml.tokens", list(tokens)),
        i32s_value("tokenizer.ggml.token_type", list(tokens.values())),
    ]


def good() -> bytes:
    """A whole file: two tensors of 4 × 8 floats."""
    tensors = [tensor("one", (4, 8)), tensor("two", (4, 8), offset=128)]
    return gguf(values(), tensors, bytes(256))


def write(path: Path, data: bytes | None = None) -> Path:
    path.write_bytes(good() if data is None else data)
    return path
