from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from backends.backend import InfillRequest
from backends.errors import (
    Conflict,
    LoadFailed,
    ManagerUnavailable,
    ModelFileError,
    UnknownModel,
    WorkerDied,
    WorkerTimeout,
)
from backends.lifecycle import ModelState
from backends.manager import Manager
from backends.remembered import Remembered
from tests.backends import gguf_files
from tests.backends.conftest import FAST_LIVENESS, MakeManager


async def complete(manager: Manager, tokens: int = 1, model: str | None = None) -> str:
    async with asyncio.timeout(30):
        _, backend = await manager.ready(model)
        async with aclosing(backend.infill(InfillRequest("p", "s", max_tokens=tokens))) as chunks:
            return "".join([chunk.text async for chunk in chunks])


def state_of(manager: Manager, name: str) -> ModelState:
    return manager.models.slot(name).state


async def test_first_request_loads_the_configured_model(make_manager: MakeManager) -> None:
    manager = await make_manager("slow")
    texts = await asyncio.gather(*(complete(manager) for _ in range(5)))
    assert texts == ["xslow"] * 5
    assert manager.models.slot("slow").run == 1


async def test_select_swaps_under_load_without_losing_a_request(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "slow-b", memory_mb=1000)  # not both: the old one goes
    await complete(manager)
    ended: list[str] = []
    swapped = asyncio.Event()

    async def type_on() -> None:
        while not swapped.is_set():
            ended.append(await complete(manager, 5))

    typists = [asyncio.create_task(type_on()) for _ in range(3)]
    await manager.select("slow-b")
    assert state_of(manager, "slow-b") is ModelState.READY
    served_during_load = len(ended)
    last_of_a = asyncio.create_task(complete(manager, 5))
    swapped.set()
    await asyncio.gather(*typists)
    assert await last_of_a == "xxxxxslow-b"
    assert served_during_load > 5
    assert set(ended) <= {"xxxxxa", "xxxxxslow-b"}
    await stopped(manager, "a")
    assert manager.backend("a") is None


async def stopped(manager: Manager, name: str) -> None:
    async with asyncio.timeout(20):
        while state_of(manager, name) is not ModelState.STOPPED:
            await asyncio.sleep(0.02)


def process_of(manager: Manager, name: str) -> int:
    backend = manager.backend(name)
    assert backend is not None
    return backend.pid


async def test_select_back_finds_the_same_worker(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b", memory_mb=1300)
    assert await complete(manager) == "xa"
    process = process_of(manager, "a")
    long = asyncio.create_task(complete(manager, 30))
    await manager.select("b")
    assert await complete(manager) == "xb"
    assert state_of(manager, "a") is ModelState.READY
    assert await long == "x" * 30 + "a"  # what was under way on the old one goes on
    async with asyncio.timeout(1):  # the fake worker's start alone takes longer under load
        await manager.select("a")
    assert await complete(manager) == "xa"
    assert process_of(manager, "a") == process


async def test_third_model_takes_the_place_of_the_least_recently_used(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a", "b", "c", memory_mb=1300)
    for name in ("a", "b", "c"):
        await manager.select(name)
    await stopped(manager, "a")
    assert state_of(manager, "b") is ModelState.READY
    assert await complete(manager) == "xc"


async def test_old_model_ends_before_the_new_starts_where_both_are_too_much(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a", "b", memory_mb=1000)
    for name in ("a", "b"):  # now it is known how much they take
        await manager.select(name)
    await stopped(manager, "a")
    old = process_of(manager, "b")
    swapping = asyncio.create_task(manager.select("a"))
    answer = asyncio.create_task(complete(manager))
    while manager.backend("a") is None:
        await asyncio.sleep(0.005)
    assert not psutil.pid_exists(old)
    await swapping
    assert await answer in ("xa", "xb")
    assert await complete(manager) == "xa"


async def test_standby_of_a_replaced_file_is_loaded_anew(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("a", "b")
    await manager.select("a")
    process = process_of(manager, "a")
    await manager.select("b")
    os.utime(gguf_files.write(private_dirs / "a.gguf"), ns=(1, 1))
    await manager.select("a")
    assert process_of(manager, "a") != process


async def test_killed_standby_is_loaded_again_when_selected(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b")
    await manager.select("a")
    await manager.select("b")
    os.kill(process_of(manager, "a"), signal.SIGKILL)
    async with asyncio.timeout(20):
        while state_of(manager, "a") is ModelState.READY:
            await asyncio.sleep(0.02)
    assert await complete(manager) == "xb"
    await manager.select("a")
    assert await complete(manager) == "xa"


async def test_unload_cancels_what_does_not_finish(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b", drain=0.3, memory_mb=1000)
    long = asyncio.create_task(complete(manager, 5000))
    while not manager.in_flight:
        await asyncio.sleep(0.02)
    await manager.select("b")
    assert set(await long) == {"x"}


@pytest.mark.parametrize("bad", ["refuse", "exit", "always-crash"])
async def test_select_that_fails_keeps_the_old_one(make_manager: MakeManager, bad: str) -> None:
    manager = await make_manager("a", bad)
    await complete(manager)
    with pytest.raises((LoadFailed, WorkerDied)) as caught:
        await manager.select(bad)
    assert bad in str(caught.value)
    assert await complete(manager) == "xa"
    assert manager.models.slot("a").run == 1
    assert state_of(manager, bad) is ModelState.FAILED


async def test_select_refuses_a_corrupt_file_before_any_worker(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("a", "b")
    gguf_files.write(private_dirs / "b.gguf", gguf_files.good()[:-1])
    with pytest.raises(ModelFileError, match="truncated"):
        await manager.select("b")
    assert manager.backend("b") is None
    with pytest.raises(UnknownModel):
        await manager.select("none")


async def test_select_again_meanwhile_gives_up_the_first(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "hang-b", "c")
    await complete(manager)
    first = asyncio.create_task(manager.select("hang-b"))
    await asyncio.sleep(0.3)
    await manager.select("c")
    with pytest.raises(Conflict):
        await first
    assert await complete(manager) == "xc"


async def test_selection_is_remembered_until_the_configuration_changes(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a", "b")
    await manager.select("b")
    again = await make_manager("a", "b")
    assert await complete(again) == "xb"
    changed = await make_manager("b2", "a", "b")
    assert changed.serving() == "b2"


async def test_killed_worker_ends_its_request_and_the_next_one_restarts_it(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a")
    task = asyncio.create_task(complete(manager, 500))
    while not manager.in_flight:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    backend = manager.backend("a")
    assert backend is not None
    os.kill(backend.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await task
    assert await complete(manager) == "xa"
    assert manager.models.slot("a").restarts == 1


async def test_stopped_worker_is_replaced(make_manager: MakeManager) -> None:
    manager = await make_manager("a", liveness=FAST_LIVENESS)
    await complete(manager)
    backend = manager.backend("a")
    assert backend is not None
    os.kill(backend.pid, signal.SIGSTOP)
    with pytest.raises(WorkerTimeout):
        await complete(manager)
    assert await complete(manager) == "xa"


async def test_model_that_keeps_dying_fails_until_selected(make_manager: MakeManager) -> None:
    manager = await make_manager("die", "b")
    for _ in range(3):
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await complete(manager)
    with pytest.raises(WorkerDied, match="crashed 3 times"):
        await complete(manager)
    await manager.select("b")
    assert await complete(manager) == "xb"
    await manager.select("die")
    assert state_of(manager, "die") is ModelState.READY


async def test_crash_in_warm_up_is_remembered_for_this_build(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("warmup-crash", "b")
    assert await complete(manager) == "xwarmup-crash"
    slot = manager.models.slot("warmup-crash")
    assert (slot.safe_mode, slot.run) == (True, 2)
    again = await make_manager("warmup-crash", "b")
    assert await complete(again) == "xwarmup-crash"
    assert again.models.slot("warmup-crash").run == 1
    assert "safe_mode" in (private_dirs / "state" / "manager-memory.json").read_text()


async def test_crash_that_safe_mode_does_not_cure_is_not_remembered(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("always-crash", "b")
    with pytest.raises(WorkerDied, match="Safe mode did not help"):
        await complete(manager)
    await manager.select("b")
    assert not manager.models.slot("b").safe_mode


async def test_model_of_a_request_must_be_the_one_that_serves(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b")
    assert await complete(manager, model="a") == "xa"
    with pytest.raises(Conflict):
        await complete(manager, model="b")
    with pytest.raises(UnknownModel):
        await complete(manager, model="none")


async def test_restart_makes_a_new_worker(make_manager: MakeManager) -> None:
    manager = await make_manager("a")
    await complete(manager)
    before = manager.backend("a")
    assert await manager.restart() == "a"
    after = manager.backend("a")
    assert before is not None
    assert after is not None
    assert before.pid != after.pid


async def test_drain_finishes_what_is_under_way_and_refuses_more(make_manager: MakeManager) -> None:
    manager = await make_manager("a")
    task = asyncio.create_task(complete(manager, 10))
    while not manager.in_flight:
        await asyncio.sleep(0.02)
    draining = asyncio.create_task(manager.drain())
    await asyncio.sleep(0)
    with pytest.raises(ManagerUnavailable):
        await complete(manager)
    await draining
    assert await task == "x" * 10 + "a"


async def test_manager_without_a_writable_state_folder_still_works(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    (private_dirs / "state").rmdir()
    (private_dirs / "state").write_text("a file in the way")
    manager = await make_manager("a", "b")
    await manager.select("b")
    assert await complete(manager) == "xb"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"models": 3}', b"\xff\xfe"])
def test_remembered_ignores_a_torn_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manager-memory.json").write_bytes(content)
    remembered = Remembered(tmp_path)
    assert remembered.models == {}
    remembered.add_model("m", Path("/m.gguf"))
    assert Remembered(tmp_path).models == {"m": "/m.gguf"}
