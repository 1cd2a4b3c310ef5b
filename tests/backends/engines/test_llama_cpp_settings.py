from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest

from backends import engine_settings, engines, hardware, memory, starter
from backends.config import ModelSettings
from backends.decoding.token_model import Feed
from backends.errors import BadRequest, Unsupported
from backends.frames import Load

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_CELLS", 2048)
    monkeypatch.delenv(hardware.OVERRIDE, raising=False)


@contextmanager
def loaded(**settings: Any) -> Iterator[Any]:
    model = engines.load(
        Load("llama-cpp", str(starter.path()), "starter", ModelSettings(**settings))
    )
    try:
        yield model
    finally:
        model.close()


def adapter() -> Any:
    from backends.engines import llama_cpp

    return llama_cpp


def options() -> Any:
    from backends.engines import llama_cpp_options

    return llama_cpp_options


@pytest.mark.parametrize(
    ("mmap", "mlock", "mode"),
    [
        (True, False, "LLAMA_LOAD_MODE_AUTO"),
        (True, True, "LLAMA_LOAD_MODE_MMAP_MLOCK"),
        (False, False, "LLAMA_LOAD_MODE_NONE"),
        (False, True, "LLAMA_LOAD_MODE_MLOCK"),
    ],
)
def test_mmap_and_mlock_are_the_load_mode(mmap: bool, mlock: bool, mode: str) -> None:
    llama = adapter().llama
    settings = ModelSettings(mmap=mmap, mlock=mlock)
    params = options().model_params(settings, safe_mode=False, offload=False)
    assert params.load_mode == getattr(llama, mode)


def test_load_mode_reaches_the_runtime(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with loaded(mmap=False, verbose=True):
        assert "load_mode = none" in caplog.text


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_passes_the_runtimes_account_on(
    verbose: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with loaded(verbose=verbose):
        said = [r for r in caplog.records if "file type   = Q8_0" in r.getMessage()]
        assert len(said) == (1 if verbose else 0)
        assert {r.levelno for r in said} <= {logging.DEBUG}


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0", "q4_0"])
def test_kv_type_is_that_of_keys_and_values(kv_type: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with loaded(kv_type=kv_type, verbose=True) as model:
        found = re.search(r"K \((\w+)\): .* V \((\w+)\):", caplog.text)
        assert found is not None
        assert found.groups() == (kv_type, kv_type)
        logits = model.forward([Feed(0, model.tokenize("def add(a, b):"))], lambda: False)
        assert logits[0][0].std() > 0


def test_quantised_cells_change_the_logits_little() -> None:
    def logits(kv_type: str) -> Any:
        with loaded(kv_type=kv_type) as model:
            tokens = model.tokenize("def add(first, second):\n    return first + ")
            return model.forward([Feed(0, tokens)], lambda: False)[0][0].copy()

    exact = logits("f32")
    spread = exact.std()
    off = {kind: float(abs(logits(kind) - exact).max() / spread) for kind in ("q8_0", "q4_0")}
    assert 0 < off["q8_0"] < 0.2
    assert off["q8_0"] < off["q4_0"] < 2


@pytest.mark.parametrize("batch", [0, 64, 1024])
def test_batch_is_the_most_of_one_pass(batch: int) -> None:
    with loaded(batch=batch) as model:
        assert model.max_batch == (batch or options().BATCH)
        tokens = (model.tokenize("x = 1\n") * model.max_batch)[: model.max_batch]
        model.forward([Feed(0, tokens)], lambda: False)
        assert model.length(0) == model.max_batch


def test_low_vram_keeps_the_cells_off_the_device() -> None:
    params = options().context_params
    assert params(ModelSettings(), 256).offload_kqv
    assert not params(ModelSettings(low_vram=True), 256).offload_kqv
    cpu = params(ModelSettings(device="cpu"), 256)
    assert not cpu.offload_kqv
    assert not cpu.op_offload


def test_threads_default_to_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 2.5)
    monkeypatch.setattr(hardware, "_affinity", lambda: 8)
    monkeypatch.setattr(adapter(), "SMALL_MODEL_BYTES", 0)
    with loaded() as model:
        assert model._threads == (3, 3)
    with loaded(threads=1) as model:
        assert model._threads == (1, 1)


TWO_GPUS = "0, NVIDIA L4, 23034, {free}, 570.1\n1, NVIDIA L4, 23034, {free}, 570.1\n"


def gpu_build(
    patch: pytest.MonkeyPatch, *, free_mib: int = 22000, nvidia: bool = True
) -> list[Any]:
    """Pretend that the build can use GPUs and that there are two; the list gets the parameters."""
    llama, seen = adapter().llama, []
    answer = hardware.CommandResult(TWO_GPUS.format(free=free_mib)) if nvidia else None
    probe = hardware.Probe(nvidia=answer, memory_available=2**33)
    patch.setattr(llama, "llama_supports_gpu_offload", lambda: True)
    patch.setattr(hardware, "detect", lambda _command: hardware.describe(probe))
    real = llama.llama_model_load_from_file

    def load(path: bytes, params: Any) -> Any:
        seen.append((params.n_gpu_layers, params.main_gpu, params.split_mode))
        params.n_gpu_layers = 0
        return real(path, params)

    patch.setattr(llama, "llama_model_load_from_file", load)
    return seen


@pytest.mark.parametrize(
    ("settings", "layers", "main"),
    [
        ({}, -1, 0),  # it fits
        ({"gpu_layers": -1}, -1, 0),  # all layers, not none
        ({"gpu_layers": 7}, 7, 0),
        ({"device": "cuda"}, -1, 0),
        ({"device": "cuda:1", "gpu_layers": 5}, 5, 1),
        ({"device": "cpu"}, 0, 0),
        ({"device": "cpu", "gpu_layers": -1}, 0, 0),
    ],
)
def test_gpu_layers_and_device_reach_the_runtime(
    settings: dict[str, Any], layers: int, main: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = gpu_build(monkeypatch)
    llama = adapter().llama
    split = (
        llama.LLAMA_SPLIT_MODE_NONE
        if ":" in settings.get("device", "")
        else llama.LLAMA_SPLIT_MODE_LAYER
    )
    with loaded(**settings):
        assert seen == [(layers, main, split)]


def test_as_many_layers_as_fit_go_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gpu_build(monkeypatch, free_mib=6)
    with loaded():
        ((layers, _, _),) = seen
        assert 0 < layers < 6


def test_a_device_that_is_not_there_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu_build(monkeypatch, nvidia=False)
    with pytest.raises(Unsupported, match="no NVIDIA driver"), loaded(device="cuda"):
        pass


@pytest.mark.parametrize("settings", [{"gpu_layers": -1}, {"device": "cuda"}])
def test_a_build_for_the_cpu_refuses_the_gpu(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter().llama, "llama_supports_gpu_offload", lambda: False)
    name, value = next(iter(settings.items()))
    with pytest.raises(Unsupported, match=f"{name} = {value}: .* CPU alone"), loaded(**settings):
        pass


def test_the_device_for_all_models_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter().llama, "llama_supports_gpu_offload", lambda: False)
    monkeypatch.setenv(hardware.OVERRIDE, "cuda")
    with pytest.raises(Unsupported, match="device = cuda"), loaded():
        pass
    with loaded(device="cpu"):
        pass


LACKING = {
    "device_map": "auto",
    "dtype": "float32",
    "attention": "sdpa",
    "compile": True,
    "quantize": "8bit",
    "endpoint": "http://localhost",
    "binary": "/bin/true",
}


@pytest.mark.parametrize("name", LACKING)
def test_what_llama_cpp_has_no_such_thing_for_is_refused_by_name(name: str) -> None:
    with pytest.raises(Unsupported, match=name), loaded(**{name: LACKING[name]}):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 1), ("batch", -5), ("threads", -1), ("gpu_layers", -2), ("context_length", 3)],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(BadRequest, match=f"{name} = {value}"), loaded(**{name: value}):
        pass


def test_an_unknown_type_of_cells_is_refused() -> None:
    with pytest.raises(BadRequest, match="q3_k"), loaded(kv_type="q3_k"):
        pass


def test_every_setting_belongs_to_an_engine_or_to_endpoints() -> None:
    known = frozenset().union(*engine_settings.SETTINGS.values())
    remote = {"endpoint", "profile", "remote_model", "proxy", "ca_file", "timeout_s", "retries"}
    remote |= {"api_key_env", "api_key_file", "api_key_keyring"}
    assert {field.name for field in fields(ModelSettings)} - known <= remote
    assert known <= {field.name for field in fields(ModelSettings)}


def test_settings_of_another_engine_say_which_has_them() -> None:
    settings = replace(ModelSettings(), compile=True, dtype="bfloat16")
    with pytest.raises(Unsupported, match="no setting dtype, compile; transformers have"):
        engine_settings.check("llama-cpp", settings)
