"""What a wish comes to on machines of all kinds, without any of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backends.config import ModelSettings
from backends.engines.hf_options import Machine, best_dtype, choose, codec, this_machine
from backends.errors import BadRequest, EngineMissing, MidspanError, Unsupported

CPU = Machine(("cpu",))
CPU_WITH_ALL = Machine(("cpu",), 0, frozenset({"cpu"}), frozenset({"torchao", "accelerate"}))
CUDA = Machine(
    ("cuda", "cpu"),
    2,
    frozenset({"cuda"}),
    frozenset({"accelerate", "bitsandbytes", "flash_attn"}),
)
MPS = Machine(("mps", "cpu"), 0, frozenset({"mps"}), frozenset({"accelerate"}))


@pytest.mark.parametrize(
    ("stored", "machine", "settings", "expected"),
    [
        ("bfloat16", CPU, {}, ("cpu", "float32")),
        ("bfloat16", CPU_WITH_ALL, {}, ("cpu", "bfloat16")),
        ("float16", CPU_WITH_ALL, {}, ("cpu", "float32")),
        ("float32", CUDA, {}, ("cuda:0", "float32")),
        ("bfloat16", CUDA, {}, ("cuda:0", "bfloat16")),
        ("bfloat16", CUDA, {"device": "cuda:1"}, ("cuda:1", "bfloat16")),
        ("bfloat16", CUDA, {"device": "rocm"}, ("cuda:0", "bfloat16")),
        ("bfloat16", CUDA, {"device": "cpu"}, ("cpu", "float32")),
        ("float16", MPS, {}, ("mps", "float16")),
        ("float32", CPU, {"dtype": "float16"}, ("cpu", "float16")),
    ],
)
def test_the_device_and_type_are_the_best_there_are(
    stored: str, machine: Machine, settings: dict[str, str], expected: tuple[str, str]
) -> None:
    options = choose(ModelSettings(**settings), stored, machine)  # type: ignore[arg-type]
    assert (options.device, options.dtype) == expected


@pytest.mark.parametrize(
    ("machine", "settings", "error", "message"),
    [
        (CPU, {"device": "cuda"}, Unsupported, "no such device"),
        (CPU, {"device": "tpu"}, BadRequest, "'tpu' is none of"),
        (CUDA, {"device": "cuda:2"}, Unsupported, "there are 2"),
        (CUDA, {"device": "cuda:x"}, BadRequest, "is none of"),
        (CUDA, {"device": "mps"}, Unsupported, "no such device"),
        (CPU, {"dtype": "float8"}, BadRequest, "dtype 'float8'"),
        (CPU, {"attention": "flash"}, BadRequest, "attention 'flash'"),
        (CPU, {"attention": "flash_attention_2"}, Unsupported, "needs a CUDA"),
        (CUDA, {"attention": "flash_attention_2", "dtype": "float32"}, Unsupported, "16 bits"),
        (CPU, {"device_map": "auto"}, EngineMissing, "pip install accelerate"),
        (CPU, {"device_map": "disk"}, BadRequest, "device_map 'disk'"),
        (CUDA, {"device_map": "auto", "device": "cuda"}, BadRequest, "contradict"),
        (CPU, {"quantize": "8bit"}, EngineMissing, "pip install torchao"),
        (CPU_WITH_ALL, {"quantize": "4bit"}, Unsupported, "use 8bit"),
        (MPS, {"quantize": "8bit"}, Unsupported, "mps"),
        (CPU, {"quantize": "2bit"}, BadRequest, "quantize '2bit'"),
        (CPU, {"kv_type": "q5_1"}, BadRequest, "kv_type 'q5_1'"),
    ],
)
def test_what_can_t_be_had_is_refused_by_name(
    machine: Machine, settings: dict[str, Any], error: type[MidspanError], message: str
) -> None:
    with pytest.raises(error, match=message):
        choose(ModelSettings(**settings), "bfloat16", machine)


def test_flash_attention_without_its_package_says_what_to_install() -> None:
    bare = Machine(("cuda", "cpu"), 1, frozenset({"cuda"}), frozenset({"accelerate"}))
    with pytest.raises(EngineMissing, match="pip install flash-attn"):
        choose(ModelSettings(attention="flash_attention_2"), "bfloat16", bare)


def test_this_machine_can_at_least_compute_on_its_processor() -> None:
    machine = this_machine()
    assert machine.devices[-1] == "cpu"
    assert choose(ModelSettings(device="cpu"), "float32", machine).dtype == "float32"


def test_quantised_cells_need_heads_of_whole_blocks() -> None:
    with pytest.raises(Unsupported, match="heads have 80"):
        codec("q8_0", None, (80, 80))


@pytest.mark.parametrize(("kv_type", "error"), [("q8_0", 0.005), ("q4_0", 0.08), ("f16", 0.0005)])
def test_cells_come_back_as_they_were_but_for_the_rounding(kv_type: str, error: float) -> None:
    torch.manual_seed(0)
    states = torch.randn(2, 7, 64) * torch.tensor([0.01, 1.0, 50.0, 3.0]).repeat_interleave(16)
    states[:, 3] = 0
    kept = codec(kv_type, torch.float32, (64, 64))
    planes = kept.encode(states)
    assert all(plane.shape[:2] == (2, 7) for plane in planes)
    back = kept.decode(planes)
    scale = states.abs().unflatten(-1, (-1, 32)).amax(-1, keepdim=True).expand(2, 7, 2, 32)
    assert ((back - states).abs() <= error * scale.flatten(-2)).all()


def test_half_precision_of_cpus_is_not_rounded_twice() -> None:
    assert best_dtype("float16", "cpu", frozenset({"cpu"})) == "float32"
