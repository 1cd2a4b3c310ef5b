"""The llama-server that the manager starts: the real one, with the starter model."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from backends import catalogue, frames, starter
from backends.backend import ChatRequest, InfillRequest, Message, Role, Usage
from backends.config import CompletionSettings, ManagerSettings, ModelSettings, Settings
from backends.errors import LoadFailed, MidspanError, ModelFileError, Unsupported, WorkerTimeout
from backends.lifecycle import ModelState
from backends.llama_server import LlamaServer
from backends.manager import Manager
from backends.remembered import Remembered

if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("the extra 'llama-server' is not installed", allow_module_level=True)

# Imports xllamacpp: run, never imported here.
PROGRAM = Path(__file__).with_name("llama_server_binary.py")
TEXT = "import os\n\n\ndef name(path):\n    return os.path.basename(path)\n" * 8
SERVED = ModelSettings(path=str(starter.path()), engine="llama-server")


@pytest_asyncio.fixture
async def served(private_dirs: Path) -> AsyncIterator[Callable[..., Manager]]:
    """Make managers whose model "served" runs in a llama-server; all end with the test."""
    async with AsyncExitStack() as stack:

        def make(settings: ModelSettings = SERVED, **more: ModelSettings) -> Manager:
            manager = Manager(
                Settings(
                    ManagerSettings(),
                    CompletionSettings(model="served"),
                    models={"served": settings, **more},
                ),
                Remembered(private_dirs / "state"),
            )
            stack.push_async_callback(manager.close)
            return manager

        yield make


async def usage_of(manager: Manager, text: str) -> Usage:
    async with asyncio.timeout(60):
        _, backend = await manager.ready()
        request = InfillRequest(text, "\n", "file:///a.py", max_tokens=4)
        async with aclosing(backend.infill(request)) as chunks:
            last = [chunk async for chunk in chunks][-1]
    assert last.usage is not None
    return last.usage


def server_of(manager: Manager, name: str = "served") -> LlamaServer:
    backend = manager.backend(name)
    assert isinstance(backend, LlamaServer)
    return backend


async def gone(pids: set[int]) -> None:
    async with asyncio.timeout(10):
        while any(psutil.pid_exists(pid) and _runs(pid) for pid in pids):
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(manager: Manager, name: str = "served") -> set[int]:
    server = server_of(manager, name)
    assert server.pid is not None
    return {server.pid, server._process.pid}


async def test_second_key_finds_the_prompt_cached(served: Callable[..., Manager]) -> None:
    manager = served()
    cold = await usage_of(manager, TEXT + "def f")
    warm = await usage_of(manager, TEXT + "def fo")
    assert cold.cached_tokens == 0
    assert warm.prompt_tokens - warm.cached_tokens <= 3
    server = server_of(manager)
    assert server.capabilities.fim
    assert server.memory_bytes > starter.path().stat().st_size


async def test_model_is_switched_and_back(served: Callable[..., Manager], tiny_model: Path) -> None:
    tiny = replace(SERVED, path=str(tiny_model))
    manager = served(tiny=tiny)
    await usage_of(manager, TEXT)
    first = processes_of(manager)
    await manager.select("tiny")
    await usage_of(manager, TEXT)
    await manager.select("served")
    usage = await usage_of(manager, TEXT)
    assert processes_of(manager) == first
    assert usage.cached_tokens == usage.prompt_tokens - 1
    both = first | processes_of(manager, "tiny")
    await manager.close()
    await gone(both)


async def test_killed_server_is_started_again(served: Callable[..., Manager]) -> None:
    manager = served()
    await usage_of(manager, TEXT)
    old = server_of(manager)
    assert old.pid is not None
    os.kill(old.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while manager.backend("served") is not None:
            await asyncio.sleep(0.02)
    assert "SIGKILL" in manager.models.slot("served").reason
    await usage_of(manager, TEXT)
    assert server_of(manager).pid != old.pid


async def test_stopped_server_is_found_out_and_replaced(
    served: Callable[..., Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.llama_server.FIRST_TOKEN_S", 1.0)
    monkeypatch.setattr("backends.llama_server.HEALTHY_WITHIN", 0.5)
    manager = served()
    await usage_of(manager, TEXT)
    old = server_of(manager)
    assert old.pid is not None
    os.kill(old.pid, signal.SIGSTOP)
    with pytest.raises(MidspanError):
        await usage_of(manager, TEXT + "x")
    async with asyncio.timeout(20):
        while manager.backend("served") is not None:
            await asyncio.sleep(0.02)
    await usage_of(manager, TEXT + "xy")
    assert isinstance(old._dead, WorkerTimeout)


async def test_server_wants_its_key_and_no_command_line_has_it(
    served: Callable[..., Manager],
) -> None:
    manager = served()
    await usage_of(manager, TEXT)
    server = server_of(manager)
    address = server.description.partition("http://")[2].split()[0]
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/v1/completions", b"{}")
    assert refused.value.code == 401
    key = server.remote._connection._key.value
    assert len(key) > 30
    for pid in processes_of(manager):
        assert key not in " ".join(psutil.Process(pid).cmdline())


async def test_model_without_chat_template_does_not_chat(served: Callable[..., Manager]) -> None:
    manager = served()
    await usage_of(manager, TEXT)
    assert not server_of(manager).capabilities.chat
    with pytest.raises(Unsupported, match="no chat template"):
        await manager.ready_for_chat()


async def test_chat_template_of_the_settings_is_used(
    served: Callable[..., Manager], tmp_path: Path
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    manager = served(replace(SERVED, chat_template=str(template)))
    async with asyncio.timeout(60):
        _, backend = await manager.ready_for_chat()
        request = ChatRequest((Message(Role.USER, "def f(x):"),), max_tokens=8)
        async with aclosing(backend.chat(request)) as chunks:
            said = [chunk async for chunk in chunks]
    assert said[-1].finish_reason is not None


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program that takes llama-server's command line."""
    path = tmp_path / "llama-server"
    root = Path(__file__).parents[2]
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" "{PROGRAM}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_users_own_binary_is_run_and_ends_with_its_manager(
    served: Callable[..., Manager], binary: Path
) -> None:
    manager = served(ModelSettings(path=str(starter.path()), binary=str(binary)))
    await usage_of(manager, TEXT)
    warm = await usage_of(manager, TEXT + "x")
    assert warm.prompt_tokens - warm.cached_tokens <= 3
    first = processes_of(manager)
    assert len(first) == 2  # ours, and theirs
    server = server_of(manager)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while manager.backend("served") is not None:
            await asyncio.sleep(0.02)
    await usage_of(manager, TEXT)
    both = first | processes_of(manager)
    await manager.close()
    await gone(both)


async def test_binary_that_crashes_is_tried_in_safe_mode_then_given_up(
    served: Callable[..., Manager], binary: Path
) -> None:
    crash = ModelSettings(path=str(starter.path()), binary=str(binary))
    manager = served(crash=crash)
    with pytest.raises(MidspanError, match="SIGABRT"):
        await manager.select("crash")
    slot = manager.models.slot("crash")
    assert (slot.state, slot.safe_mode) == (ModelState.FAILED, True)


@pytest.mark.parametrize("path", ["llama-server", "/no/such/llama-server"])
async def test_binary_that_is_none_is_refused(served: Callable[..., Manager], path: str) -> None:
    manager = served(replace(SERVED, binary=path))
    with pytest.raises(ModelFileError, match="llama-server"):
        await usage_of(manager, TEXT)


async def test_file_that_native_code_refuses_is_a_clear_error(
    served: Callable[..., Manager], private_dirs: Path
) -> None:
    from tests.backends import gguf_files

    bad = gguf_files.write(private_dirs / "bad.gguf")
    manager = served(replace(SERVED, path=str(bad)))
    with pytest.raises(LoadFailed, match="served"):
        await usage_of(manager, TEXT)


async def test_cancelled_start_leaves_no_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    load = catalogue.load_message(
        catalogue.Model("served", starter.path(), catalogue.Source.CONFIG, SERVED), safe_mode=False
    )
    assert isinstance(load, frames.Load)
    task = asyncio.create_task(LlamaServer.start(load, lambda error: None))
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(psutil.Process().children(recursive=True)) <= before


OWNER = """
import asyncio, sys
from backends import catalogue, starter
from backends.config import ModelSettings
from backends.llama_server import LlamaServer

async def main():
    settings = ModelSettings(path=str(starter.path()), engine="llama-server", binary=sys.argv[1])
    model = catalogue.Model("served", starter.path(), catalogue.Source.CONFIG, settings)
    load = catalogue.load_message(model, safe_mode=False)
    server = await LlamaServer.start(load, lambda error: None)
    print(server.pid, server._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("embedded", [True, False], ids=["wheel", "binary"])
async def test_no_server_outlives_a_killed_manager(embedded: bool, binary: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, "" if embedded else str(binary)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    pids = {int(pid) for pid in owner.stdout.readline().split()}
    assert all(_runs(pid) for pid in pids)
    owner.kill()
    owner.wait()
    started = time.monotonic()
    await gone(pids)
    assert time.monotonic() - started < 10
