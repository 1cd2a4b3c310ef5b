"""What a machine can do to the manager and its workers: no memory, no descriptors, no disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from backends import starter
from backends.backend import InfillRequest
from backends.config import CompletionSettings, ManagerSettings, ModelSettings, Settings
from backends.errors import LoadFailed
from backends.manager import Manager, Workers
from backends.remembered import Remembered

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

MakeRealManager = Callable[..., Awaitable[Manager]]


@pytest_asyncio.fixture
async def real_manager(private_dirs: Path) -> AsyncIterator[MakeRealManager]:
    """Make a manager whose workers run the starter model."""
    async with AsyncExitStack() as stack:

        async def make(**workers: object) -> Manager:
            models = {"starter-2": ModelSettings(path=str(starter.path()))}
            settings = Settings(ManagerSettings(), CompletionSettings("starter-2"), models=models)
            manager = Manager(settings, Remembered(private_dirs / "state"), Workers(**workers))
            stack.push_async_callback(manager.close)
            return manager

        yield make


async def complete(manager: Manager) -> str:
    async with asyncio.timeout(60):
        _, backend = await manager.ready()
        request = InfillRequest("def add(a, b):\n    ret", "\n", max_tokens=8)
        async with aclosing(backend.infill(request)) as chunks:
            return "".join([chunk.text async for chunk in chunks])


def short_of_memory(room: int) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", SHORT_OF_MEMORY, str(room * MIB))


async def test_too_little_memory_gives_a_smaller_context(real_manager: MakeRealManager) -> None:
    manager = await real_manager(command=short_of_memory(96))
    assert await complete(manager)
    short = (await manager.ready())[1].loaded.cache_bytes
    roomy = await real_manager()
    assert await complete(roomy)
    assert 0 < 3 * short < (await roomy.ready())[1].loaded.cache_bytes


async def test_no_memory_at_all_is_said_and_the_manager_lives(
    real_manager: MakeRealManager,
) -> None:
    manager = await real_manager(command=short_of_memory(24))
    with pytest.raises(LoadFailed, match=r"no memory for a context of .* nor for one of"):
        await complete(manager)
    manager._workers = Workers()
    await manager.select("starter-2")
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
