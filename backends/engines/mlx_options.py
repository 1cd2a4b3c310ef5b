"""The settings that mlx means, and a folder as one of mlx-lm's models; `mlx` runs it.

Rule: a setting is used or refused by name, and so is a model that mlx-lm would compute wrongly.
Must not know requests or sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import utils as mlx_lm

from backends import memory
from backends.config import ModelSettings
from backends.errors import LoadFailed, Unsupported
from backends.model_folder import FolderHeader

KV_BITS = {"q8_0": 8, "q4_0": 4}
KV_TYPES = {"f16": mx.float16, "f32": mx.float32}
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
DEVICES = {"cpu": mx.cpu, "mps": mx.gpu, "metal": mx.gpu, "cuda": mx.gpu}


def _chosen(name: str, value: str, table: Mapping[str, Any]) -> Any:
    """Return what a setting's value stands for; None where it is empty."""
    if value and value not in table:
        raise Unsupported(f"{name} = {value!r}: with mlx it is one of {', '.join(table)}.")
    return table.get(value)


def device(name: str) -> Any:
    """Return the device called `name`, mlx's own choice for "". Raises Unsupported."""
    kind = _chosen("device", name, DEVICES)
    found = mx.default_device() if kind is None else mx.Device(kind)
    if not mx.is_available(found):
        raise Unsupported(f"device = {name!r}: mlx finds none here; leave it empty.")
    return found


def read(header: FolderHeader, settings: ModelSettings) -> nn.Module:
    """Return the model with its weights in memory, as they are wanted."""
    if (own_code := header.config.get("model_file")) is not None:
        raise LoadFailed(
            f"{header.name} brings its own code ({own_code!r}), which is never run. Use a model "
            "of an architecture that mlx-lm knows by itself."
        )
    _, arguments = mlx_lm._get_classes(header.config)
    changes = rope_settings(header.config, inspect.signature(arguments).parameters)
    dtype = _chosen("dtype", settings.dtype, DTYPES)
    bits = _chosen("quantize", settings.quantize, memory.QUANTIZED_BITS)
    if header.quantization and (bits or dtype):
        wish = "quantize" if bits else "dtype"
        raise Unsupported(f"{wish}: {header.name} is quantised as it is; leave it empty.")
    # Lazily: what is read is converted at once, and never in memory twice.
    model, _ = mlx_lm.load_model(header.path, lazy=True, model_config=changes)
    if dtype is not None:
        model.set_dtype(dtype)
    if bits:
        nn.quantize(model, memory.MLX_GROUP, bits, class_predicate=_can_be_quantised)
    mx.eval(model.parameters())
    return model


def _can_be_quantised(_name: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % memory.MLX_GROUP == 0


def rope_settings(config: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """Return what to add to config.json so that mlx-lm computes the positions that it means.

    `read`: the keys that mlx-lm reads for this architecture. Raises LoadFailed where they leave no
    room for what is meant.
    """
    text = config.get("text_config")
    if isinstance(text, dict):
        # Which keys are read of it only its own class knows; one more does no harm.
        return {"text_config": text | rope_settings(text, {"rope_theta", *_ROPE_KEYS})}
    table = config.get("rope_parameters")
    if not isinstance(table, dict) or "rope_parameters" in read:
        return {}
    changes = {key: table[key] for key in _ROPE_KEYS if key in table}
    if table.get("rope_type", "default") != "default":
        changes["rope_scaling"] = {k: v for k, v in table.items() if k not in changes}
    differs_by_layer = any(isinstance(value, dict) for value in table.values())
    if differs_by_layer or not changes.keys() <= set(read):
        raise LoadFailed(
            "mlx-lm does not read the positions (rope_parameters) that this model's config.json "
            "has, and would complete with wrong text. Use a version of the model that was made "
            "for MLX, or another engine."
        )
    return changes


_ROPE_KEYS = ("rope_theta", "partial_rotary_factor")


def kv_bits(kv_type: str, weights: Sequence[mx.array]) -> int:
    """Return the bits of quantised KV cells, 0 for plain ones, which have the weights' type."""
    if kv_type in KV_TYPES and KV_TYPES[kv_type] not in {array.dtype for array in weights}:
        raise Unsupported(
            f"kv_type = {kv_type!r}: mlx keeps KV cells in the weights' type, or as "
            f"{' or '.join(KV_BITS)}. Leave it empty, or set dtype as well."
        )
    return KV_BITS.get(kv_type, 0)
