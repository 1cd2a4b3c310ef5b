"""What a model had evaluated survives its unloading, and goes to the same model alone."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from backends import frames
from backends.backend import InfillRequest, Usage
from backends.config import ModelSettings
from backends.frames import Snapshot
from backends.handover import Fingerprint, Handovers, computed
from backends.lifecycle import ModelState
from backends.local import LocalBackend
from backends.manager import Manager
from tests.backends import gguf_files
from tests.backends.conftest import MakeManager

MADE = Fingerprint(
    Path("/m.gguf"), (1, 2), "engine 1 on a processor", False, 0, computed(ModelSettings())
)
LIMIT = 64 * 1024 * 1024


def cells(size: int) -> Snapshot:
    return Snapshot([size], bytes(size))


@pytest.mark.parametrize(
    "other",
    [
        {"path": Path("/n.gguf")},
        {"version": (1, 3)},
        {"engine": "engine 2 on a processor"},
        {"safe_mode": True},
        {"gpu_layers": -1},
        {"computed": computed(ModelSettings(kv_type="q8_0"))},
    ],
)
def test_handovers_go_to_the_very_same_model(other: dict[str, object]) -> None:
    handovers = Handovers(100)
    handovers.put(MADE, [cells(10)])
    assert handovers.take(replace(MADE, **other)) == []  # type: ignore[arg-type]
    assert handovers.take(MADE) == [cells(10)]
    assert handovers.take(MADE) == []


def test_handovers_forget_the_least_recently_unloaded() -> None:
    handovers = Handovers(100)
    models = [replace(MADE, version=(n, n)) for n in range(3)]
    for model in (models[0], models[1], models[0], models[2]):
        handovers.put(model, [cells(20), cells(20)])
    assert handovers.size == 80
    assert handovers.take(models[1]) == []
    assert handovers.take(models[0]) == [cells(20), cells(20)]


def test_handovers_over_the_budget_are_not_kept() -> None:
    handovers = Handovers(100)
    handovers.put(MADE, [cells(90)])
    handovers.put(MADE, [cells(101)])
    assert handovers.size == 0


async def swap_out_and_back(manager: Manager) -> list[Snapshot]:
    """Return what the fake worker of "a" hands over after having been unloaded once before."""
    await manager.select("b")
    async with asyncio.timeout(20):
        while manager.models.slot("a").state is not ModelState.STOPPED:
            await asyncio.sleep(0.02)
    await manager.select("a")
    backend = manager.backend("a")
    assert backend is not None
    return await backend.unload(LIMIT)


async def test_unloaded_model_gets_its_cells_back(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b", memory_mb=1000)
    await manager.select("a")
    assert await swap_out_and_back(manager) == [Snapshot([1], b"a"), Snapshot([0], b"a")]


async def test_model_whose_file_has_changed_gets_none(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("a", "b", memory_mb=1000)
    await manager.select("a")
    os.utime(gguf_files.write(private_dirs / "a.gguf"), ns=(1, 1))
    assert await swap_out_and_back(manager) == [Snapshot([0], b"a")]


async def test_other_weights_of_the_same_size_and_time_get_none(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("a", "b", memory_mb=1000)
    await manager.select("a")
    file = private_dirs / "a.gguf"
    info = file.stat()
    file.write_bytes(gguf_files.good()[:-1] + b"x")
    os.utime(file, ns=(info.st_mtime_ns, info.st_mtime_ns))
    assert file.stat().st_size == info.st_size
    assert await swap_out_and_back(manager) == [Snapshot([0], b"a")]


async def usage_of(backend: LocalBackend, text: str, document: str) -> Usage:
    request = InfillRequest(text, "\n", document, max_tokens=4)
    async with aclosing(backend.infill(request)) as chunks:
        last = [chunk async for chunk in chunks][-1]
    assert last.usage is not None
    return last.usage


async def start(path: Path) -> LocalBackend:
    load = frames.Load(engine="llama-cpp", path=str(path), name="tiny")
    return await LocalBackend.start(load, lambda error: None)


@pytest.mark.engine
async def test_next_key_after_a_reload_evaluates_a_few_tokens(tiny_model: Path) -> None:
    texts = {f"file:///{n}.py": f"x{n} = {n}\n" * 60 for n in range(3)}
    backend = await start(tiny_model)
    for document, text in texts.items():
        await usage_of(backend, text, document)
    handed = await backend.unload(LIMIT)
    assert len(handed) >= 3
    again = await start(tiny_model)
    try:
        await again.give(handed)
        for document, text in texts.items():
            usage = await usage_of(again, text + "y", document)
            assert usage.prompt_tokens > 100
            assert usage.prompt_tokens - usage.cached_tokens <= 3
    finally:
        unused = await again.unload(LIMIT)
    assert len(unused) >= 3


@pytest.mark.engine
async def test_what_was_given_and_not_used_is_handed_over_again(tiny_model: Path) -> None:
    backend = await start(tiny_model)
    await usage_of(backend, "x = 1\n" * 100, "file:///a.py")
    (first, *_) = await backend.unload(LIMIT)
    again = await start(tiny_model)
    await again.give([first])
    assert [s.tokens for s in await again.unload(LIMIT)] == [first.tokens]
    last = await start(tiny_model)
    await last.give([first])
    assert await last.unload(len(first.data) - 1) == []


@pytest.mark.engine
async def test_torn_cells_are_evaluated_instead(tiny_model: Path) -> None:
    text = "def f(x):\n    return x\n" * 40
    backend = await start(tiny_model)
    whole = await usage_of(backend, text, "file:///a.py")
    handed = await backend.unload(LIMIT)
    again = await start(tiny_model)
    try:
        await again.give([Snapshot(s.tokens, s.data[: len(s.data) // 2]) for s in handed])
        usage = await usage_of(again, text, "file:///a.py")
        assert (usage.prompt_tokens, usage.cached_tokens) == (whole.prompt_tokens, 0)
    finally:
        await again.close()
