"""What a model caches of each token, and the bytes that takes: from a GGUF header, from a
config.json, or from a model that is loaded.

Rule: bytes per token = layers × KV heads × (key width + value width) × bytes per element, scales of
quantised cells included; computed from the model's own numbers, and a number that is missing is
named, never guessed. Pure functions. Must not know files, memory limits or runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from backends.errors import BadRequest, ModelFileError, Unsupported
from backends.gguf_header import GGUFHeader
from backends.model_folder import FolderHeader

BLOCK_TOKENS: Final = 256  # of one block in `Blocks`
MAX_LAYERS: Final = 4096  # a number above it is no number of layers

# Type of the cells → elements of one block, and its bytes with scales; as ggml stores them.
KV_TYPES: Final = {"f16": (1, 2), "f32": (1, 4), "q8_0": (32, 34), "q4_0": (32, 18)}
DEFAULT_KV_TYPE: Final = "f16"


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """What one layer keeps of a token. Widths are elements of one head."""

    kv_heads: int  # 0 in a recurrent layer, which keeps no tokens
    head_dim_k: int
    head_dim_v: int
    window: int = 0  # the layer sees this many tokens back; 0 for all
    latent: int = 0  # MLA: elements that keys and values of all heads are computed from; 0: none

    def elements(self, *, latent: bool = True) -> tuple[int, int]:
        """Return the elements of a token's key row and value row.

        `latent`: the engine keeps what keys and values are computed from, where there is that.
        """
        if latent and self.latent:
            return self.latent, 0
        return self.kv_heads * self.head_dim_k, self.kv_heads * self.head_dim_v

    def token_bytes(self, kv_type: str = "", *, latent: bool = True) -> int:
        """Return the bytes of a token's key and value. Raises BadRequest, Unsupported."""
        block, block_bytes = kv_block(kv_type)
        latent = latent and bool(self.latent)
        for width in (self.latent,) if latent else (self.head_dim_k, self.head_dim_v):
            if width % block:  # engines refuse to let a block span two heads
                raise Unsupported(
                    f"KV cells of type {kv_type} come in blocks of {block} elements, and this "
                    f'model\'s heads have {width}: leave kv_type at "f16".'
                )
        return sum(self.elements(latent=latent)) // block * block_bytes


@dataclass(frozen=True, slots=True)
class ModelCacheSpec:
    """What a model caches: its layers in order."""

    architecture: str
    layers: tuple[CachedLayer, ...]

    def groups(self) -> list[tuple[int, CachedLayer]]:
        """Return (how many, what) of neighbouring layers that are alike."""
        return [(len(list(same)), layer) for layer, same in groupby(self.layers)]

    def token_bytes(self, kv_type: str = "", *, latent: bool = True) -> int:
        """Return the bytes that one token takes in all layers. Raises BadRequest, Unsupported."""
        return sum(layer.token_bytes(kv_type, latent=latent) for layer in self.layers)

    def cache_bytes(
        self, tokens: int, kv_type: str = "", *, latent: bool = True, windowed: bool = False
    ) -> int:
        """Return the bytes of a sequence of `tokens`.

        `windowed`: layers with a window drop what is behind it. llama.cpp is told to keep it, since
        a sequence could not be cut back otherwise. Raises BadRequest, Unsupported.
        """
        total = 0
        for layer in self.layers:
            kept = min(tokens, layer.window) if windowed and layer.window else tokens
            total += kept * layer.token_bytes(kv_type, latent=latent)
        return total


def kv_block(kv_type: str) -> tuple[int, int]:
    """Return elements and bytes of a block of cells. Raises BadRequest."""
    try:
        return KV_TYPES[kv_type or DEFAULT_KV_TYPE]
    except KeyError:
        raise BadRequest(f"kv_type {kv_type!r} is none of {', '.join(KV_TYPES)}.") from None


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a budget holds."""

    block_tokens: int
    block_bytes: int  # in all layers, keys and values
    blocks: int
    tokens: int


def blocks(
    budget: int, spec: ModelCacheSpec, kv_type: str = "", block_tokens: int = BLOCK_TOKENS
) -> Blocks:
    """Return how many whole blocks, and so tokens, `budget` bytes hold. Raises BadRequest."""
    block_bytes = block_tokens * spec.token_bytes(kv_type)
    if block_bytes == 0:
        raise Unsupported(f"{spec.architecture} keeps no tokens, so there are no blocks to count.")
    count = max(budget, 0) // block_bytes
    return Blocks(block_tokens, block_bytes, count, count * block_tokens)


# -- from a GGUF header -------------------------------------------------------------------------

# Architectures whose layers take turns, where the file itself does not say how: of every so many
# layers all but one have the window, and whether that one is the first of them (llama.cpp's own).
_TURNS: Final = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}


def from_header(header: GGUFHeader | FolderHeader) -> ModelCacheSpec:
    """Return what the model of a file or folder caches. Raises ModelFileError."""
    if isinstance(header, FolderHeader):
        return from_config(header.config)
    return from_gguf(header)


def from_gguf(header: GGUFHeader) -> ModelCacheSpec:
    """Return what a GGUF's model caches. Raises ModelFileError naming the keys it lacks."""
    return from_metadata({**header.metadata, **header.arrays})


def from_metadata(metadata: Mapping[str, Any]) -> ModelCacheSpec:
    """Return what the model of GGUF `metadata` caches, arrays of one number per layer included.

    Raises ModelFileError naming the keys that are missing.
    """
    keys = _Keys(metadata, "the GGUF header")
    architecture = str(metadata.get("general.architecture", ""))
    keys.prefix = f"{architecture}."
    count = keys.layers("block_count")
    heads = keys.per_layer(count, "attention.head_count")
    keys.check()
    kv_heads = keys.per_layer(count, "attention.head_count_kv", default=heads)
    return ModelCacheSpec(
        architecture, tuple(_gguf_layers(keys, architecture, count, heads, kv_heads))
    )


def _gguf_layers(
    keys: _Keys, architecture: str, count: int, heads: list[int], kv_heads: list[int]
) -> Iterable[CachedLayer]:
    head_dim = _gguf_head_dim(keys, heads)
    head_dim_k = keys.number("attention.key_length", default=head_dim)
    head_dim_v = keys.number("attention.value_length", default=head_dim)
    window = keys.number("attention.sliding_window", default=0)
    windowed = _gguf_windows(keys, architecture, count) if window else [False] * count
    interval = keys.number("full_attention_interval", default=0)
    mla_k = keys.number("attention.key_length_mla", default=0)
    mla_v = keys.number("attention.value_length_mla", default=0)
    for index in range(count):
        if interval and (index + 1) % interval:
            yield CachedLayer(0, 0, 0)
        elif mla_k and mla_v:
            # Stored as one head of what all heads are computed from; what is cached is its key.
            yield CachedLayer(heads[index], mla_k, mla_v, latent=head_dim_k * kv_heads[index])
        elif not kv_heads[index]:
            yield CachedLayer(0, 0, 0)
        elif windowed[index]:
            yield CachedLayer(
                kv_heads[index],
                keys.number("attention.key_length_swa", default=head_dim_k),
                keys.number("attention.value_length_swa", default=head_dim_v),
                window,
            )
        else:
            yield CachedLayer(kv_heads[index], head_dim_k, head_dim_v)


def _gguf_head_dim(keys: _Keys, heads: list[int]) -> int:
    """Return the width of a head where the header gives none of its own."""
    most = max(heads, default=0)
    if most == 0 or (keys.has("attention.key_length") and keys.has("attention.value_length")):
        return 0
    width = keys.number("embedding_length")
    keys.check()
    return width // (heads[0] or most)


def _gguf_windows(keys: _Keys, architecture: str, count: int) -> list[bool]:
    """Return which layers have the window, as llama.cpp reads it."""
    pattern = keys.metadata.get(f"{keys.prefix}attention.sliding_window_pattern")
    if isinstance(pattern, (tuple, list)):
        return [bool(x) for x in pattern[:count]] + [False] * (count - len(pattern))
    if architecture not in _TURNS:
        return [False] * count  # llama.cpp gives it the whole context
    every, first_is_full = _TURNS[architecture]
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        every = pattern
    return _turns(count, every, first_is_full=first_is_full)


def _turns(count: int, every: int, *, first_is_full: bool = False) -> list[bool]:
    if every == 0:
        return [True] * count
    full = 0 if first_is_full else every - 1
    return [index % every != full for index in range(count)]


# -- from a config.json -------------------------------------------------------------------------

_SLIDING: Final = frozenset({"sliding_attention", "chunked_attention"})
_ATTENTION: Final = _SLIDING | {"full_attention", "attention", "global_attention"}


def from_config(config: Mapping[str, Any]) -> ModelCacheSpec:
    """Return what the model of a Hugging Face `config.json` caches.

    Raises ModelFileError naming the keys it lacks.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {"model_type": config.get("model_type", ""), **text}
    keys = _Keys(config, "config.json")
    count = keys.layers("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = keys.per_layer(count, "num_attention_heads", "n_head", "n_heads")
    keys.check()
    kv_heads = _config_kv_heads(keys, count, heads)
    kinds = _config_kinds(keys, config, count)
    window = keys.number("sliding_window", "attention_chunk_size", default=0)
    attention = _config_attention(keys, heads[0])
    layers = [
        replace(
            attention,
            kv_heads=heads[index] if attention.latent else kv_heads[index],
            window=window if kinds[index] in _SLIDING else 0,
        )
        if kinds[index] in _ATTENTION and kv_heads[index]
        else CachedLayer(0, 0, 0)
        for index in range(count)
    ]
    return ModelCacheSpec(str(config.get("model_type", "")), tuple(layers))


def _config_attention(keys: _Keys, heads: int) -> CachedLayer:
    """Return one layer's widths; the number of heads is filled in for each."""
    rank = keys.number("kv_lora_rank", default=0)
    if rank:
        rope = keys.number("qk_rope_head_dim")
        plain = keys.number("qk_nope_head_dim")
        value = keys.number("v_head_dim")
        keys.check()
        return CachedLayer(0, plain + rope, value, latent=rank + rope)
    if keys.has("head_dim"):
        head_dim = keys.number("head_dim")
    else:
        width = keys.number("hidden_size", "n_embd", "d_model")
        keys.check()
        head_dim = width // max(heads, 1)
    return CachedLayer(0, head_dim, keys.number("v_head_dim", default=head_dim))


def _config_kv_heads(keys: _Keys, count: int, heads: list[int]) -> list[int]:
    if keys.metadata.get("multi_query") is True and not keys.metadata.get(
        "new_decoder_architecture"
    ):
        return [1] * count
    return keys.per_layer(count, "num_key_value_heads", "num_kv_heads", "n_head_kv", default=heads)


def _config_kinds(keys: _Keys, config: Mapping[str, Any], count: int) -> list[str]:
    """Return each layer's kind, in the words of `layer_types`."""
    kinds = config.get("layer_types")
    if isinstance(kinds, (list, tuple)) and len(kinds) == count:
        return [str(kind) for kind in kinds]
    interval = keys.number("full_attention_interval", default=0)
    if interval:
        linear = _turns(count, interval)
        return ["linear_attention" if is_linear else "full_attention" for is_linear in linear]
    if not keys.number("sliding_window", default=0) or config.get("use_sliding_window") is False:
        return ["full_attention"] * count
    named = str(config.get("model_type", "")).removesuffix("_text").replace("_", "-")
    every = keys.number("sliding_window_pattern", default=_TURNS.get(named, (0, False))[0])
    first = keys.number("max_window_layers", default=0)
    sliding = _turns(count, every) if every else [index >= first for index in range(count)]
    return ["sliding_attention" if slides else "full_attention" for slides in sliding]


# -- from a loaded model ------------------------------------------------------------------------


def from_live(model: object) -> ModelCacheSpec:
    """Return what a loaded `TokenModel` caches: its adapter's `cache_spec`. Raises Unsupported."""
    spec = getattr(model, "cache_spec", None)
    if not isinstance(spec, ModelCacheSpec):
        raise Unsupported(f"{type(model).__name__} does not say what it caches.")
    return spec


class _Keys:
    """Numbers by their key; missing ones are collected, so that one error names them all."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self.metadata = metadata
        self.prefix = ""
        self._source = source
        self._missing: list[str] = []

    def has(self, key: str) -> bool:
        return self.prefix + key in self.metadata

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of `names` that is there; `default`, else a note that it is missing."""
        value = self._find(names, lambda found: isinstance(found, int))
        if value is not None:
            return int(value)
        if default is None:
            self._missing.append(self.prefix + names[0])
        return default or 0

    def layers(self, *names: str) -> int:
        count = self.number(*names)
        if not 0 <= count <= MAX_LAYERS:
            raise ModelFileError(f"{self._source} says that there are {count} layers.")
        return count

    def per_layer(self, count: int, *names: str, default: list[int] | None = None) -> list[int]:
        """Return a number for each layer, whether the source gives one or a list."""
        value = self._find(names, lambda found: isinstance(found, (int, list, tuple)))
        if isinstance(value, (list, tuple)):
            if len(value) < count or not all(isinstance(one, int) for one in value):
                raise ModelFileError(
                    f"{self._source}: {names[0]} has {len(value)} entries for {count} layers."
                )
            return [max(int(one), 0) for one in value[:count]]
        if value is not None:
            return [max(int(value), 0)] * count
        if default is None:
            self._missing.append(self.prefix + names[0])
        return default or [0] * count

    def _find(self, names: tuple[str, ...], fits: Callable[[object], bool]) -> Any:
        for name in names:
            value = self.metadata.get(self.prefix + name)
            if value is not None and not isinstance(value, bool) and fits(value):
                return value
        return None

    def check(self) -> None:
        """Raise ModelFileError if something is missing."""
        if self._missing:
            raise ModelFileError(
                f"{self._source} lacks {', '.join(self._missing)}: what the model caches cannot "
                "be computed."
            )
