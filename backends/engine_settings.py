"""Which of a model's settings each local engine has, and which values they may take.

Rule: a setting that an engine has no such thing for is refused by name, and so is a number out of
its range: nothing a user wrote is dropped in silence or reaches native code unchecked. One table.
Must not know the engines themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from backends.cache_spec import KV_TYPES
from backends.config import ModelSettings
from backends.errors import BadRequest, Unsupported

# What is no engine's business, or every engine's.
_COMMON: Final = frozenset(
    {"path", "engine", "context_length", "threads", "batch", "kv_type", "device", "family"}
    | {"chat_template", "reasoning_effort", "verbose"}
)
_LLAMA: Final = frozenset({"gpu_layers", "low_vram", "mmap", "mlock"})
SETTINGS: Final = {
    "llama-cpp": _COMMON | _LLAMA,
    "llama-server": _COMMON | _LLAMA | {"binary"},
    "transformers": _COMMON | {"device_map", "dtype", "attention", "compile", "quantize"},
    "mlx": _COMMON - {"threads"} | {"dtype", "quantize"},
}

# (least, most) besides 0, which leaves the choice to the engine.
_RANGES: Final = {
    "context_length": (256, 1 << 24),
    "threads": (1, 512),
    "batch": (32, 8192),
    "gpu_layers": (-1, 4096),
}


def check(engine: str, settings: ModelSettings) -> None:
    """Refuse what `engine` cannot do. Raises Unsupported, BadRequest, naming the settings."""
    known = SETTINGS.get(engine)
    if known is None:
        return  # somebody else's engine, which knows its settings
    lacking = [name for name in _changed(settings) if name not in known]
    if lacking:
        others = sorted(e for e, names in SETTINGS.items() if names.issuperset(lacking))
        hint = f"; {' and '.join(others)} have" if others else ""
        raise Unsupported(
            f"{engine} has no setting {', '.join(lacking)}{hint}. Remove what it has not."
        )
    for name, (least, most) in _RANGES.items():
        value = getattr(settings, name)
        if value != 0 and not least <= value <= most:
            raise BadRequest(f"{name} = {value} is out of range: {least} to {most}, or 0.")
    if settings.kv_type and settings.kv_type not in KV_TYPES:
        raise BadRequest(f"kv_type {settings.kv_type!r} is none of {', '.join(KV_TYPES)}.")


def _changed(settings: ModelSettings) -> Iterator[str]:
    defaults = ModelSettings()
    for field in fields(settings):
        if getattr(settings, field.name) != getattr(defaults, field.name):
            yield field.name
