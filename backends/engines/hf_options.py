"""From a model's settings to what transformers is told: devices, types, attention, quantisation.

Rule: a wish that this machine or this runtime can't fulfil is refused by name, with what to do; it
is never dropped in silence. Decisions are functions of the settings and of `Machine`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from backends import hardware
from backends.config import ModelSettings
from backends.engines.hf_cells import Codec, Plain, Quantised
from backends.errors import BadRequest, EngineMissing, Unsupported

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ATTENTIONS: Final = ("sdpa", "eager", "flash_attention_2")
DEVICE_MAPS: Final = ("auto", "balanced", "balanced_low_0", "sequential")
QUANTIZED: Final = ("8bit", "4bit")
KV_DTYPES: Final = {"f16": torch.float16, "f32": torch.float32}
KV_BITS: Final = {"q8_0": 8, "q4_0": 4}
KV_BLOCK: Final = 32  # elements that share a scale


@dataclass(frozen=True, slots=True)
class Machine:
    """What this build of torch can use here."""

    devices: tuple[str, ...]  # the best first, "cpu" always last
    cuda_count: int = 0
    bfloat16: frozenset[str] = frozenset()  # kinds of devices that compute it fast
    packages: frozenset[str] = frozenset()  # of the optional ones, those that are installed


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is loaded; each setting's own value, or the one chosen for it."""

    device: str  # "cpu", "cuda:0", "mps"; of a device map, what its first layers are probably on
    device_map: str  # empty: all of it on `device`
    dtype: str
    attention: str  # empty: transformers' own choice
    quantize: str
    compile: bool
    kv_type: str

    @property
    def torch_dtype(self) -> Any:
        """Return the type as torch has it."""
        return DTYPES[self.dtype]


_OPTIONAL: Final = ("torchao", "bitsandbytes", "flash_attn", "accelerate")


def this_machine() -> Machine:
    """Ask torch."""
    devices = ["cpu"]
    fast = set()
    cuda_count = 0
    if torch.backends.mps.is_available():
        devices.insert(0, "mps")
        fast.add("mps")
    if torch.cuda.is_available():  # AMD's devices, too
        devices.insert(0, "cuda")
        cuda_count = torch.cuda.device_count()
        if torch.cuda.is_bf16_supported():
            fast.add("cuda")
    if _cpu_has_bfloat16():
        fast.add("cpu")
    packages = {name for name in _OPTIONAL if importlib.util.find_spec(name) is not None}
    return Machine(tuple(devices), cuda_count, frozenset(fast), frozenset(packages))


def _cpu_has_bfloat16() -> bool:
    """Whether there are instructions for it; without, it is converted back and forth."""
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)


def choose(settings: ModelSettings, stored: str, machine: Machine) -> Options:
    """Return how to load a model whose weights are kept as `stored` ("bfloat16", …).

    Raises BadRequest for a value that is none, Unsupported for one that can't be had here, and
    EngineMissing where a package lacks.
    """
    _known("dtype", settings.dtype, tuple(DTYPES))
    _known("attention", settings.attention, ATTENTIONS)
    _known("device_map", settings.device_map, DEVICE_MAPS)
    _known("quantize", settings.quantize, QUANTIZED)
    _known("kv_type", settings.kv_type, (*KV_DTYPES, *KV_BITS))
    if settings.device and settings.device_map:
        raise BadRequest("device and device_map contradict each other: set one of them.")
    device = _device(hardware.wished_device(settings.device), machine)
    kind = device.partition(":")[0]
    if settings.device_map or kind != "cpu":
        _need("accelerate", f"device {settings.device_map or device}", machine)
    if settings.attention == "flash_attention_2":
        if kind != "cuda":
            raise Unsupported(f"flash_attention_2 needs a CUDA or ROCm device; this is {kind}.")
        _need("flash_attn", "flash_attention_2", machine, "flash-attn")
    if settings.quantize:
        if kind == "mps":
            raise Unsupported('quantize has nothing to run on "mps": use MLX, or a GGUF file.')
        if kind == "cpu" and settings.quantize == "4bit":
            raise Unsupported(
                'quantize = "4bit" does not get smaller than "8bit" on a CPU, where torchao has no '
                "packed form for it: use 8bit, or a Q4 GGUF file."
            )
        package = "torchao" if kind == "cpu" else "bitsandbytes"
        _need(package, f"quantize = {settings.quantize!r} on {kind}", machine)
    dtype = settings.dtype or best_dtype(stored, kind, machine.bfloat16)
    if settings.attention == "flash_attention_2" and dtype == "float32":
        raise Unsupported("flash_attention_2 computes in 16 bits: set dtype to bfloat16.")
    return Options(
        device=device,
        device_map=settings.device_map,
        dtype=dtype,
        attention=settings.attention,
        quantize=settings.quantize,
        compile=settings.compile,
        kv_type=settings.kv_type,
    )


def _known(name: str, value: str, values: tuple[str, ...]) -> None:
    if value and value not in values:
        raise BadRequest(f"{name} {value!r} is none of {', '.join(values)}.")


def _need(package: str, wish: str, machine: Machine, distribution: str = "") -> None:
    if package not in machine.packages:
        raise EngineMissing(f"{wish} needs {package}: pip install {distribution or package}")


def _device(wish: str, machine: Machine) -> str:
    kind, _, number = wish.partition(":")
    kind = {"": machine.devices[0], "rocm": "cuda", "metal": "mps"}.get(kind, kind)
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise BadRequest(f"device {wish!r} is none of cpu, cuda, cuda:N and mps.")
    if kind not in machine.devices:
        raise Unsupported(
            f"device {wish!r}: this build of torch finds no such device; there is "
            f"{', '.join(machine.devices)}."
        )
    if kind != "cuda":
        return kind
    if int(number or 0) >= machine.cuda_count:
        raise Unsupported(f"device {wish!r}: there are {machine.cuda_count} such devices.")
    return f"cuda:{number or 0}"


def best_dtype(stored: str, kind: str, bfloat16: frozenset[str]) -> str:
    """Return the type to compute in: the one the weights are kept in, where that is fast.

    >>> best_dtype("float16", "cpu", frozenset())
    'float32'
    """
    if stored == "float32":
        return stored
    if kind == "cpu":
        # Float16 has no fast instructions on most processors, and bfloat16 would round it.
        return "bfloat16" if stored != "float16" and kind in bfloat16 else "float32"
    if stored == "float16" or kind not in bfloat16:
        return "float16"
    return "bfloat16"


def codec(kv_type: str, dtype: Any, head_lengths: tuple[int, int]) -> Codec:
    """Return how keys and values are kept. Raises Unsupported."""
    if kv_type not in KV_BITS:
        return Plain(dtype, KV_DTYPES.get(kv_type, dtype))
    if any(length % KV_BLOCK for length in head_lengths):
        raise Unsupported(
            f"KV cells of type {kv_type} come in blocks of {KV_BLOCK} elements, and this model's "
            f"heads have {' and '.join(map(str, sorted(set(head_lengths))))}: leave kv_type empty."
        )
    return Quantised(dtype, KV_BITS[kv_type], KV_BLOCK)


def load_arguments(options: Options) -> Mapping[str, Any]:
    """Return what `from_pretrained` is given beside the path and the configuration."""
    arguments: dict[str, Any] = {"dtype": options.torch_dtype}
    if options.attention:
        arguments["attn_implementation"] = options.attention
    if options.device_map:
        arguments["device_map"] = options.device_map
    elif options.device != "cpu":
        arguments["device_map"] = {"": options.device}
    if options.quantize:
        arguments["quantization_config"] = _quantization(options)
    return arguments


def _quantization(options: Options) -> Any:
    import transformers

    if options.device.startswith("cuda"):
        eight = options.quantize == "8bit"
        return transformers.BitsAndBytesConfig(
            load_in_8bit=eight, load_in_4bit=not eight, bnb_4bit_compute_dtype=options.torch_dtype
        )
    from torchao import quantization

    return transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
