from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends import auto_config, hardware
from backends.auto_config import Shape
from backends.cache_spec import CachedLayer, ModelCacheSpec
from backends.config import ModelSettings
from backends.errors import Unsupported
from backends.hardware import CommandResult, Hardware, Probe

GIB = 2**30
SPEC = ModelCacheSpec("x", (CachedLayer(8, 128, 128),) * 32)  # 128 KiB a token
SHAPE = Shape(4 * GIB, 32768, SPEC)
L4 = "0, NVIDIA L4, 23034, {free}, 570.1\n"


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hardware.OVERRIDE, raising=False)


def machine(gib: float = 32, gpu_free_gib: float = 0, **probe: object) -> Hardware:
    nvidia = CommandResult(L4.format(free=int(gpu_free_gib * 1024))) if gpu_free_gib else None
    base = Probe(cores=8, affinity=8, memory_available=int(gib * GIB), nvidia=nvidia)
    return hardware.describe(replace(base, **probe))  # type: ignore[arg-type]


def values(
    hardware: Hardware, shape: Shape = SHAPE, *, offload: bool = True, **settings: Any
) -> dict[str, object]:
    wishes = ModelSettings(**settings)
    choices = auto_config.configure(hardware, shape, wishes, offload=offload)
    assert all(choice.reason for choice in choices)
    return {choice.name: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (machine(32), ("cpu", 8, 0, "f16", 8192, 512)),
        # 4.8 GiB for models leave 0.8 for cells: f16 gives 6,553 tokens, q8_0 all of them.
        (machine(8), ("cpu", 8, 0, "q8_0", 8192, 512)),
        (machine(7.1), ("cpu", 8, 0, "f16", 2048, 512)),
        (machine(7.0), ("cpu", 8, 0, "q8_0", 3072, 512)),
        (machine(32, gpu_free_gib=22), ("cuda:0", 8, -1, "f16", 8192, 2048)),
        (machine(32, gpu_free_gib=3), ("cuda:0", 8, 17, "f16", 8192, 2048)),
        (machine(16, system="Darwin", machine="arm64"), ("mps", 8, -1, "f16", 8192, 2048)),
        (machine(32, quota=2.5), ("cpu", 3, 0, "f16", 8192, 512)),
        (machine(32, affinity=2), ("cpu", 2, 0, "f16", 8192, 512)),
    ],
)
def test_each_machine_has_its_settings(hardware: Hardware, expected: tuple[object, ...]) -> None:
    names = ("device", "threads", "gpu_layers", "kv_type", "context_length", "batch")
    assert values(hardware) == dict(zip(names, expected, strict=True))


def test_a_short_context_of_the_model_is_enough() -> None:
    assert values(machine(), replace(SHAPE, trained_context=1024))["context_length"] == 1024


def test_what_the_user_set_wins() -> None:
    settings: dict[str, Any] = {"threads": 3, "gpu_layers": 5, "kv_type": "q4_0", "batch": 64}
    found = values(machine(32, gpu_free_gib=22), context_length=4096, **settings)
    assert found == {"device": "cuda:0", "context_length": 4096, **settings}
    choices = auto_config.configure(machine(), SHAPE, ModelSettings(threads=3))
    threads = next(choice for choice in choices if choice.name == "threads")
    assert (threads.is_users, threads.reason) == (True, "as you set it")


def test_the_users_context_is_cut_to_the_model_and_says_so() -> None:
    choices = auto_config.configure(
        machine(), replace(SHAPE, trained_context=1024), ModelSettings(context_length=5000)
    )
    context = next(choice for choice in choices if choice.name == "context_length")
    assert context.value == 1024
    assert "cut to what is usable" in context.reason


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(Unsupported, match="no NVIDIA driver"):
        values(machine(), device="cuda")


def test_the_override_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hardware.OVERRIDE, "cpu")
    assert values(machine(32, gpu_free_gib=22))["device"] == "cpu"


def test_a_build_for_the_cpu_leaves_the_gpu_alone() -> None:
    found = values(machine(32, gpu_free_gib=22), offload=False)
    assert (found["device"], found["gpu_layers"]) == ("cpu", 0)


def test_heads_that_do_not_fit_quantised_cells_keep_full_precision() -> None:
    odd = ModelCacheSpec("x", (CachedLayer(8, 120, 120),) * 32)
    assert values(machine(7), replace(SHAPE, spec=odd))["kv_type"] == "f16"


def test_apply_fills_in_what_was_left_open() -> None:
    settings = ModelSettings(threads=3)
    filled = auto_config.apply(settings, auto_config.configure(machine(), SHAPE, settings))
    assert (filled.threads, filled.batch, filled.device) == (3, 512, "cpu")


@pytest.mark.parametrize(
    ("hardware", "gib"),
    [(machine(affinity=2), 1.25), (machine(), 5), (machine(gpu_free_gib=22), 37.5)],
)
def test_quick_bytes_follow_from_what_memory_can_be_read(hardware: Hardware, gib: float) -> None:
    assert auto_config.quick_bytes(hardware) == int(gib * GIB)
