"""What a model's settings should be on this machine, each value with its reason.

Rule: a value that the user set wins, and that is its reason. Pure functions over what `hardware`
found and what the model's header says. Must not know how an engine takes the values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from backends import hardware, memory
from backends.cache_spec import DEFAULT_KV_TYPE, ModelCacheSpec
from backends.config import ModelSettings
from backends.errors import MidspanError
from backends.hardware import Device, Hardware

USED_SHARE: Final = 0.9  # of a GPU's free memory; drivers and graphs take the rest
SMALLEST_CONTEXT: Final = 2048  # tokens; less shows a completion too little of a file
CONTEXT_STEP: Final = 256
GPU_BATCH: Final = 2048  # tokens; a GPU is idle with fewer
CPU_BATCH: Final = 512
SPARE_KV_TYPE: Final = "q8_0"  # about half the bytes, and hardly any change of answers

# Writing a token reads all weights once. Two cores were measured to read 10 GiB/s; a dozen reach
# what ordinary memory gives. Below 8 tokens a second ghost text comes too late.
CORE_BYTES_PER_S: Final = 5 * 2**30
MOST_BYTES_PER_S: Final = 40 * 2**30
GPU_BYTES_PER_S: Final = 300 * 2**30
LEAST_TOKENS_PER_S: Final = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting's value, and why."""

    name: str
    value: int | str
    reason: str
    is_users: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides its settings."""

    weight_bytes: int
    trained_context: int  # tokens
    spec: ModelCacheSpec | None = None  # None: unknown


def configure(
    machine: Hardware, shape: Shape, settings: ModelSettings, *, offload: bool = True
) -> list[Choice]:
    """Return the device, threads, layers on the GPU, cells' type, context and batch for a model.

    `offload`: the engine's build can use a GPU. Raises Unsupported where the user wants a device
    that is not there.
    """
    wish = hardware.wished_device(settings.device)
    device, why = hardware.choose(machine, wish)
    if device.name != "cpu" and not offload and not wish:
        device = next(d for d in machine.devices if d.name == "cpu")
        why = "the engine's build computes on the CPU alone"
    own = int(device.free_bytes * USED_SHARE)
    context, kv_type = _context_and_kv(shape, settings, own + _share(machine))
    return [
        Choice("device", wish or device.name, why, bool(wish)),
        _users(settings, "threads") or Choice("threads", machine.cores, machine.cores_reason),
        _users(settings, "gpu_layers") or _gpu_layers(device, shape, context, kv_type),
        kv_type,
        context,
        _users(settings, "batch") or _batch(device),
    ]


def apply(settings: ModelSettings, choices: list[Choice]) -> ModelSettings:
    """Return `settings` with what was chosen where the user left it open."""
    values: dict[str, Any] = {c.name: c.value for c in choices if not c.is_users}
    return replace(settings, **values)


def quick_bytes(machine: Hardware) -> int:
    """Return the bytes of weights with which this machine still writes at a typing pace."""
    if machine.best.name != "cpu":
        return GPU_BYTES_PER_S // LEAST_TOKENS_PER_S
    return min(CORE_BYTES_PER_S * machine.cores, MOST_BYTES_PER_S) // LEAST_TOKENS_PER_S


def _users(settings: ModelSettings, name: str) -> Choice | None:
    value = getattr(settings, name)
    return Choice(name, value, "as you set it", True) if value else None


def _share(machine: Hardware) -> int:
    """Return the bytes of the machine's memory that a model may take."""
    return int(machine.memory_available * memory.KEPT_SHARE)


def _context_and_kv(shape: Shape, settings: ModelSettings, room: int) -> tuple[Choice, Choice]:
    """Choose the context and the type of its cells together: each decides what the other costs.

    What a user set for one is kept while the other gives way; quantised cells come before a
    context shorter than SMALLEST_CONTEXT.
    """
    wanted = memory.context(settings.context_length, shape.trained_context or memory.MAX_CONTEXT)
    reason = "the model's own" if wanted == shape.trained_context else "enough for completion"
    context = _users(settings, "context_length")
    if context is not None:
        context = replace(context, value=wanted)
        if wanted < settings.context_length:
            context = replace(context, reason=f"as you set it, cut to what is usable: {wanted}")
    set_type = _users(settings, "kv_type")
    types = [settings.kv_type] if set_type else [DEFAULT_KV_TYPE, SPARE_KV_TYPE]
    fitting = {kind: _fitting(shape, room, kind, wanted) for kind in types}
    kind = next((k for k in types if fitting[k] >= wanted), None)
    if kind is None:
        kind = next((k for k in types if fitting[k] >= SMALLEST_CONTEXT), types[0])
        reason = f"what fits beside the weights in {room / 2**30:.1f} GiB"
    tokens = fitting[kind] or min(wanted, SMALLEST_CONTEXT)
    if context is None:
        context = Choice("context_length", tokens, reason)
    if set_type is None:
        plain = "full precision" if kind == DEFAULT_KV_TYPE else "half the bytes: memory is short"
        set_type = Choice("kv_type", kind, plain)
    return context, set_type


def _fitting(shape: Shape, room: int, kv_type: str, wanted: int) -> int:
    """Return the tokens of context, up to `wanted`, that fit beside the weights; 0 for none."""
    if shape.spec is None:
        return wanted
    try:
        per_token = shape.spec.token_bytes(kv_type)
    except MidspanError:  # the model's heads do not fit such cells
        return 0
    most = max(room - shape.weight_bytes, 0) // max(per_token, 1)
    return wanted if most >= wanted else most // CONTEXT_STEP * CONTEXT_STEP


def _gpu_layers(device: Device, shape: Shape, context: Choice, kv: Choice) -> Choice:
    if device.name == "cpu":
        return Choice("gpu_layers", 0, "there is no GPU to use")
    if not device.free_bytes:
        return Choice("gpu_layers", -1, f"all: {device.name} uses the machine's own memory")
    layers = len(shape.spec.layers) if shape.spec else 0
    cells = shape.spec.cache_bytes(int(context.value), str(kv.value)) if shape.spec else 0
    own = int(device.free_bytes * USED_SHARE)
    if shape.weight_bytes + cells <= own or not layers:
        return Choice("gpu_layers", -1, f"all: they fit {device.name}")
    # Output weights and embeddings count as one more layer.
    fit = own * (layers + 1) // max(shape.weight_bytes + cells, 1)
    return Choice("gpu_layers", fit, f"of {layers} layers, as many as fit {device.name}")


def _batch(device: Device) -> Choice:
    if device.name == "cpu":
        return Choice("batch", CPU_BATCH, "the CPU gains nothing from more, and can be stopped")
    return Choice("batch", GPU_BATCH, f"fewer tokens leave {device.name} idle")
