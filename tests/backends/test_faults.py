"""What a machine can do to the manager and its workers: no memory, no descriptors, no disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from backends import launcher, lifecycle, starter, state
from backends.backend import InfillRequest
from backends.client import ManagerClient
from backends.config import CompletionSettings, ManagerSettings, Settings
from backends.errors import LoadFailed, MidspanError, ModelFileError, WorkerDied
from backends.factory import Workers
from backends.local import LocalBackend
from backends.manager import Manager
from backends.remembered import Remembered
from tests.backends.conftest import MakeManager

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces such limits"),
]

# A worker that may take so many bytes of addresses beside its libraries.
SHORT_OF_MEMORY = """
import resource, sys
from backends import worker
from backends.engines import llama_cpp
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(worker.main())
"""
MIB = 1024 * 1024
PATIENCE = 60.0  # seconds; only a hang takes that long

MakeRealManager = Callable[..., Awaitable[Manager]]


@pytest_asyncio.fixture
async def real_manager(private_dirs: Path) -> AsyncIterator[MakeRealManager]:
    """Make a manager whose workers run the starter model."""
    async with AsyncExitStack() as stack:

        async def make(model: str = "starter", **workers: Any) -> Manager:
            settings = Settings(ManagerSettings(), CompletionSettings(model))
            manager = Manager(settings, Remembered(private_dirs / "state"), Workers(**workers))
            stack.push_async_callback(manager.close)
            return manager

        yield make


async def complete(manager: Manager) -> str:
    async with asyncio.timeout(PATIENCE):
        _, backend = await manager.ready()
        request = InfillRequest("def add(a, b):\n    ret", "\n", max_tokens=8)
        async with aclosing(backend.infill(request)) as chunks:
            return "".join([chunk.text async for chunk in chunks])


async def cache_bytes(manager: Manager) -> int:
    _, backend = await manager.ready()
    assert isinstance(backend, LocalBackend)
    return backend.loaded.cache_bytes


def short_of_memory(room: int) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", SHORT_OF_MEMORY, str(room * MIB))


async def test_too_little_memory_gives_a_smaller_context(real_manager: MakeRealManager) -> None:
    manager = await real_manager(command=short_of_memory(96))
    assert await complete(manager)
    roomy = await real_manager()
    assert await complete(roomy)
    assert 0 < 3 * await cache_bytes(manager) < await cache_bytes(roomy)


async def test_no_memory_at_all_is_said_and_the_manager_lives(
    real_manager: MakeRealManager,
) -> None:
    manager = await real_manager(command=short_of_memory(24))
    with pytest.raises(LoadFailed, match=r"no memory for a context of .* nor for one of"):
        await complete(manager)
    manager._workers = Workers()
    await manager.select("starter")
    assert await complete(manager)


ABORT = """
from llama_cpp import _ggml
from backends import engines, starter
from backends.frames import Load
engines.load(Load("llama-cpp", str(starter.path()), "starter"))
_ggml.libggml.ggml_abort(b"there.c", 1, b"a bug")
"""


def test_native_abort_ends_the_worker_at_once_and_tells_no_more_than_its_place() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GGML_NO_BACKTRACE"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", ABORT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGABRT
    assert ended.stderr.strip() == "there.c:1: a bug"


async def test_manager_without_descriptors_says_so_and_recovers(private_dirs: Path) -> None:
    client, other = ManagerClient(), ManagerClient(autostart=False)
    endpoint = await client.ensure()
    body = {"input_prefix": "def f(x):\n    ret", "n_predict": 8}
    try:
        assert (await client.infill(body))["content"]
        process = psutil.Process(endpoint.pid)
        (worker,) = process.children()
        before = resource.prlimit(endpoint.pid, resource.RLIMIT_NOFILE)
        worker.kill()
        async with asyncio.timeout(PATIENCE):
            while (await client.get("/api/models/current"))["state"] == "ready":
                await asyncio.sleep(0.02)
        limit = lowest_free_descriptor(endpoint.pid)
        resource.prlimit(endpoint.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        with pytest.raises(MidspanError, match="Too many open files"):
            await client.infill(body)  # on the connection that it keeps
        # A connection that cannot be accepted yet.
        waiting = asyncio.create_task(other.get("/api/models/available"))
        await asyncio.sleep(0.2)
        resource.prlimit(endpoint.pid, resource.RLIMIT_NOFILE, before)
        async with asyncio.timeout(PATIENCE):
            assert (await waiting)["models"]
            while not (content := await content_of(client, body)):
                await asyncio.sleep(0.5)
        assert content
    finally:
        await client.close()
        await other.close()
        launcher.stop(endpoint)


def lowest_free_descriptor(pid: int) -> int:
    """Return the limit that leaves a process no descriptor more than it has."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


async def content_of(client: ManagerClient, body: dict[str, object]) -> str:
    with suppress(MidspanError):
        return str((await client.infill(body))["content"])
    return ""


async def test_model_whose_file_is_back_serves_at_the_next_request(
    make_manager: MakeManager, private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "RETRY_AFTER", 0.0)
    manager = await make_manager("a")
    file, away = private_dirs / "a.gguf", private_dirs / "away"
    file.rename(away)  # as with a drive that is not plugged in
    for _ in range(2):
        with pytest.raises(ModelFileError, match=r"a\.gguf cannot be read"):
            await complete(manager)
    away.rename(file)
    assert await complete(manager)


async def test_worker_that_died_leaves_nothing_running_in_the_manager(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a")
    before = asyncio.all_tasks()
    for _ in range(2):
        _, backend = await manager.ready()
        assert isinstance(backend, LocalBackend)
        os.kill(backend.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            while manager.backend("a") is not None or asyncio.all_tasks() != before:
                await asyncio.sleep(0.01)
    assert await complete(manager)


FEW_CELLS = """
import sys
from backends import memory, worker
memory.MAX_CELLS = 4096
sys.exit(worker.main())
"""


async def test_fifty_documents_take_no_more_memory_than_was_said(
    real_manager: MakeRealManager,
) -> None:
    manager = await real_manager(command=(sys.executable, "-P", "-c", FEW_CELLS))
    _, backend = await manager.ready()
    assert isinstance(backend, LocalBackend)
    worker = psutil.Process(backend.pid)
    evaluated = 0
    for number in range(50):
        lines = (f"def f{number}_{i}(x):\n    return x * {i} - {number}\n\n\n" for i in range(16))
        request = InfillRequest("".join(lines), "\n", f"document-{number}", max_tokens=1)
        async with aclosing(backend.infill(request)) as chunks:
            *_, last = [chunk async for chunk in chunks]
        assert last.usage is not None
        evaluated += last.usage.prompt_tokens - last.usage.cached_tokens
        assert worker.memory_info().rss < backend.memory_bytes
    assert evaluated > 2 * 4096  # what all hold fits no cache of this size


async def test_file_cut_under_a_loaded_model_is_named_and_the_whole_one_serves_again(
    real_manager: MakeRealManager, private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "RETRY_AFTER", 0.0)
    whole = starter.path().read_bytes()
    file = private_dirs / "models" / "mapped.gguf"
    file.write_bytes(whole)
    manager = await real_manager(model="mapped")
    assert await complete(manager)
    os.truncate(file, 100_000)  # its pages are gone, and reading them is a SIGBUS
    with pytest.raises(ModelFileError, match="truncated"):  # noqa: PT012 - at one of the requests
        for _ in range(3):
            with suppress(WorkerDied):
                await complete(manager)
    file.write_bytes(whole)
    assert await complete(manager)


async def test_manager_that_is_told_to_end_leaves_no_worker_that_hangs(
    private_dirs: Path,
) -> None:
    client = ManagerClient()
    endpoint = await client.ensure()
    body = {"input_prefix": "def f(x):\n    ret", "n_predict": 8, "document": "d"}
    await client.infill(body)
    (worker,) = psutil.Process(endpoint.pid).children()
    worker.suspend()
    asked = asyncio.create_task(client.infill(body | {"input_prefix": "def g(x):\n    ret"}))
    await asyncio.sleep(0.3)
    for _ in range(2):  # the second one waits for no drain
        os.kill(endpoint.pid, signal.SIGTERM)
        await asyncio.sleep(0.1)
    with pytest.raises(MidspanError):
        await asyncio.wait_for(asked, PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while worker.is_running() or state.process_start(endpoint.pid) is not None:
            await asyncio.sleep(0.02)
    assert state.read() is None
    await client.close()
