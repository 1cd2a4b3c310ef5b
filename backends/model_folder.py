"""Read a model's folder (config.json, safetensors, tokenizer.json), trusting none of its numbers.

Rule: what an engine will read is checked here first: lengths and offsets against the files, names
of files against the folder. Pickled weights are refused and the folder's own code is never run.
Whatever is wrong is a `ModelFileError` that says what. Must not know engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from backends import safetensors_header
from backends.errors import ModelFileError
from backends.safetensors_header import SafetensorsHeader
from fim.catalogue import FAMILIES

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz")

MAX_JSON: Final = 64 * 1024 * 1024  # bytes; an index of many shards is the long one
MAX_TOKENIZER: Final = 256 * 1024 * 1024
MAX_TEMPLATE: Final = 4 * 1024 * 1024
MAX_SHARDS: Final = 4096
MAX_NUMBER: Final = 1 << 40  # of layers, heads, tokens: far above all, far below an overflow

# By the field of FolderHeader, the keys that architectures keep it under.
_KEYS: Final = {
    "context_length": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
    "block_count": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "head_count": ("num_attention_heads", "n_head", "n_heads"),
    "embedding_length": ("hidden_size", "n_embd", "d_model"),
    "vocabulary_size": ("vocab_size",),
    "sliding_window": ("sliding_window",),
}
_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
# Tokenizers call these "not special" now and then; in no text do they stand for themselves.
_FIM_TOKENS: Final = frozenset(
    space + token for row in FAMILIES for token in row.stop_tokens for space in ("", "\u2581")
)


@dataclass(frozen=True, slots=True)
class FolderHeader:
    """What a folder says of its model; 0 or empty where it says nothing."""

    path: Path
    config: dict[str, Any] = field(repr=False)  # config.json, without what names code
    weight_files: tuple[Path, ...]  # the ones that make up the model, checked
    architecture: str  # `model_type`, e.g. "qwen2"
    name: str
    context_length: int  # tokens it was trained for
    block_count: int  # layers
    head_count: int  # attention heads
    kv_head_count: int  # key and value heads
    key_length: int  # elements of one head's key
    value_length: int  # elements of one head's value
    embedding_length: int  # width of the hidden state
    vocabulary_size: int
    sliding_window: int  # tokens that windowed layers see; 0 where all layers see all
    layer_types: tuple[str, ...]  # e.g. "full_attention", "sliding_attention", by layer
    file_bytes: int  # of the weights
    tensor_count: int
    dtype: str  # that most of the weights have: "float32", "bfloat16", … or "U32" for packed ones
    quantization: dict[str, Any]  # the configuration's own description
    is_mlx: bool  # written by mlx-lm
    wants_own_code: bool  # the folder brings Python code, which is never run
    control_tokens: dict[str, int] = field(repr=False)  # text → id
    chat_template: str = field(repr=False)  # Jinja

    @property
    def format(self) -> str:
        """The kind of folder, as `Engine.suffixes` has it."""
        return "mlx" if self.is_mlx else "safetensors"


def read(path: Path) -> FolderHeader:
    """Read and check the model's folder at `path`. Raises ModelFileError."""
    if not path.is_dir():
        raise ModelFileError(f"{path} is not a folder.")
    config = read_json(path, CONFIG, dict[str, Any])
    if config is None:
        raise ModelFileError(f"{path} holds no model: {CONFIG} is missing.")
    headers = _weights(path)
    types: Counter[str] = Counter()
    for header in headers.values():
        types.update(header.type_bytes)
    main_type = max(types, key=lambda kind: types[kind])
    # Models with eyes or ears keep what concerns their text in a table of its own.
    text = config | _table(config, "text_config")
    sizes = {name: _number(text, keys) for name, keys in _KEYS.items()}
    if text.get("use_sliding_window") is False:
        sizes["sliding_window"] = 0
    key_length, value_length = _head_lengths(text, sizes)
    tokens = _tokens(path)
    return FolderHeader(
        path=path,
        config=_plain(config),
        weight_files=tuple(headers),
        architecture=_string(config, "model_type"),
        name=_name(path, _string(config, "_name_or_path")),
        kv_head_count=_kv_heads(text, sizes["head_count"]),
        key_length=key_length,
        value_length=value_length,
        layer_types=_layer_types(text),
        file_bytes=sum(header.file_bytes for header in headers.values()),
        tensor_count=sum(len(header.tensors) for header in headers.values()),
        dtype=_DTYPES.get(main_type, main_type),
        quantization=_table(config, "quantization") or _table(config, "quantization_config"),
        is_mlx=bool(_table(config, "quantization"))
        or any(header.metadata.get("format") == "mlx" for header in headers.values()),
        wants_own_code="auto_map" in config,
        control_tokens=tokens,
        chat_template=_chat_template(path),
        **sizes,
    )


# They name code to load, in tables of any depth.
_CODE_KEYS: Final = frozenset(
    {"auto_map", "custom_pipelines", "_attn_implementation_internal", "_attn_implementation"}
)


def _plain(value: Any) -> Any:
    """Return a configuration without what names code, its floats that JSON lacks as floats."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
        return float(value["__float__"])
    return {key: _plain(one) for key, one in value.items() if key not in _CODE_KEYS}


# -- files ------------------------------------------------------------------------------------


def inside(folder: Path, name: str) -> Path:
    """Return the path of the folder's file `name`, which must not lead out of it.

    Links are followed within the folder, and into the `blobs` beside `snapshots` that a Hugging
    Face cache keeps its files in. Raises ModelFileError.
    """
    if not name or Path(name).name != name or "\\" in name or "\0" in name:
        raise ModelFileError(f"{folder}: {name!r} is no file of this folder.")
    file = folder / name
    real, home = file.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    if real.parent != home and not (home.parent.name == "snapshots" and real.parent == blobs):
        raise ModelFileError(
            f"{file} leads out of its folder, to {real}; use the folder that holds the files."
        )
    return file


_T = TypeVar("_T")


def read_json(folder: Path, name: str, kind: type[_T], limit: int = MAX_JSON) -> _T | None:
    """Return the folder's JSON file `name` as a `kind`; None where there is none.

    Raises ModelFileError.
    """
    data = _bytes(folder, name, limit)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    # Nesting too deep, bytes that are no UTF-8.
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise ModelFileError(f"{folder / name} is corrupt: {exc}.") from exc


def _bytes(folder: Path, name: str, limit: int) -> bytes | None:
    file = inside(folder, name)
    try:
        if not file.exists():
            return None
        if not file.is_file():
            raise ModelFileError(f"{file} is not a file.")
        with file.open("rb") as source:
            data = source.read(limit + 1)
    except OSError as exc:
        raise ModelFileError(f"{file} cannot be read: {exc.strerror}.") from exc
    if len(data) > limit:
        raise ModelFileError(f"{file} is larger than the {limit} bytes such files have at most.")
    return data


def _weights(folder: Path) -> dict[Path, SafetensorsHeader]:
    """Return the headers of the files that make up the model; check every safetensors file."""
    try:
        present = sorted(file.name for file in folder.iterdir())
    except OSError as exc:
        raise ModelFileError(f"{folder} cannot be read: {exc.strerror}.") from exc
    names = [name for name in present if name.endswith(".safetensors")]
    if len(names) > MAX_SHARDS:
        raise ModelFileError(f"{folder} holds {len(names)} safetensors files.")
    headers = {name: safetensors_header.read(inside(folder, name)) for name in names}
    chosen = [SINGLE] if SINGLE in headers else list(_indexed(folder, headers))
    if not chosen:
        raise ModelFileError(f"{folder} holds no {SINGLE}{_instead(present)}.")
    found = {folder / name: headers[name] for name in chosen}
    if not any(header.tensors for header in found.values()):
        raise ModelFileError(f"{folder} holds no weights: its safetensors files are empty.")
    return found


def _instead(present: list[str]) -> str:
    pickled = [name for name in present if Path(name).suffix in PICKLES]
    if not pickled:
        return ""
    return (
        f", only {pickled[0]}: such files can run any code when they are loaded, so they are "
        "refused. Use a safetensors version of the model"
    )


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _indexed(folder: Path, headers: dict[str, SafetensorsHeader]) -> Iterator[str]:
    """Yield the files that the index names, each once; each must hold what the index says."""
    index = read_json(folder, INDEX, _Index)
    by_file: dict[str, set[str]] = {}
    for tensor, name in index.weight_map.items() if index else ():
        by_file.setdefault(name, set()).add(tensor)
    for name, tensors in sorted(by_file.items()):
        file = inside(folder, name)
        if name not in headers:
            raise ModelFileError(f"{file} is missing: the download is not complete.")
        if missing := sorted(tensors - headers[name].tensors):
            raise ModelFileError(f"{file} lacks {missing[0]!r}, which {INDEX} says it holds.")
        yield name


# -- config.json ------------------------------------------------------------------------------


def _string(config: dict[str, Any], key: str) -> str:
    value = config.get(key)
    return value if isinstance(value, str) else ""


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _number(config: dict[str, Any], keys: tuple[str, ...]) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_NUMBER:
        raise ModelFileError(f"{CONFIG} is corrupt: {keys[0]!r} is {value!r}.")
    return value


def _kv_heads(config: dict[str, Any], heads: int) -> int:
    """Return the key and value heads; as many as heads where the configuration is silent."""
    if config.get("multi_query") is True:
        return 1
    return _number(config, ("num_key_value_heads", "num_kv_heads")) or heads


def _head_lengths(config: dict[str, Any], sizes: dict[str, int]) -> tuple[int, int]:
    """Return the elements of a head's key and of its value."""
    rotary = _number(config, ("qk_rope_head_dim",))
    plain = _number(config, ("qk_nope_head_dim",))
    if rotary and plain:  # multi-head latent attention
        return rotary + plain, _number(config, ("v_head_dim",))
    length = _number(config, ("head_dim",)) or sizes["embedding_length"] // (
        sizes["head_count"] or 1
    )
    return length, length


def _layer_types(config: dict[str, Any]) -> tuple[str, ...]:
    value = config.get("layer_types")
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _name(folder: Path, given: str) -> str:
    """Return what the model is called: by its configuration, and by where it lies.

    >>> _name(Path("/c/models--Qwen--Qwen2.5-Coder-1.5B/snapshots/8123ea2e"), "")
    'Qwen2.5-Coder-1.5B'
    """
    own = Path(given).name
    if folder.parent.name == "snapshots" and "--" in folder.parent.parent.name:
        place = folder.parent.parent.name.rpartition("--")[2]
    else:
        place = folder.name
    return f"{own} {place}" if own and own != place else place


# -- the tokenizer ----------------------------------------------------------------------------


class _AddedToken(msgspec.Struct):
    content: str
    id: int = -1
    special: bool = False


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


class _TokenizerConfig(msgspec.Struct):
    added_tokens_decoder: dict[str, _AddedToken] = {}
    chat_template: str | list[dict[str, str]] | None = None


def _tokens(folder: Path) -> dict[str, int]:
    """Return text → id of the control tokens."""
    tokenizer = read_json(folder, TOKENIZER, _Tokenizer, MAX_TOKENIZER)
    if tokenizer is None:
        raise ModelFileError(f"{folder} holds no {TOKENIZER}, which the engines need.")
    config = read_json(folder, "tokenizer_config.json", _TokenizerConfig) or _TokenizerConfig()
    also = {token.content for token in config.added_tokens_decoder.values() if token.special}
    return {
        token.content: token.id
        for token in tokenizer.added_tokens
        if token.id >= 0 and (token.special or token.content in also | _FIM_TOKENS)
    }


def _chat_template(folder: Path) -> str:
    data = _bytes(folder, "chat_template.jinja", MAX_TEMPLATE)
    if data is not None:
        return data.decode("utf-8", "replace")
    config = read_json(folder, "tokenizer_config.json", _TokenizerConfig) or _TokenizerConfig()
    template = config.chat_template
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template", "") for entry in template}
        return named.get("default", "")
    return template or ""
