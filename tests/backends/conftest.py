"""Managers with fake workers: real processes, real pipes, no model."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from backends import catalogue
from backends.api.app import Activity, create_app
from backends.api.guard import Address
from backends.config import CompletionSettings, ManagerSettings, ModelSettings, Settings
from backends.local import Liveness
from backends.manager import Manager, Workers
from backends.remembered import Remembered
from tests.backends import gguf_files
from tests.backends.real_servers import RealServers

# The contract's failed assertions show their values.
pytest.register_assert_rewrite("backends.contract")

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
TOKEN = "test-token"


@pytest.fixture
def private_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every folder of midspan into a temporary one, and return that."""
    for name in ("RUNTIME", "STATE", "MODELS"):
        folder = tmp_path / name.lower()
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(f"MIDSPAN_{name}_DIR", str(folder))
    monkeypatch.setenv("MIDSPAN_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path


@pytest.fixture(scope="package")
def real_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServers]:
    """Servers that are slow to start, for the tests of several files."""
    with ExitStack() as stack:
        yield RealServers(tmp_path_factory.mktemp("servers"), stack)


MakeManager = Callable[..., Awaitable[Manager]]


@pytest_asyncio.fixture
async def make_manager(
    private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeManager]:
    """Make a manager that knows the named models and runs fake workers; all end with the test."""
    monkeypatch.setattr(catalogue, "is_installed", lambda engine: True)  # they need none
    async with AsyncExitStack() as stack:

        async def make(*names: str, memory_mb: int = 0, **workers: Any) -> Manager:
            models = {}
            for name in names:
                path = gguf_files.write(private_dirs / f"{name}.gguf")
                models[name] = ModelSettings(path=str(path))
            settings = Settings(
                ManagerSettings(memory_mb=memory_mb), CompletionSettings(names[0]), models=models
            )
            options = {"command": FAKE_WORKER, "drain": 5.0, **workers}
            manager = Manager(settings, Remembered(private_dirs / "state"), Workers(**options))
            stack.push_async_callback(manager.close)
            return manager

        yield make


FAST_LIVENESS = Liveness(ping_every=0.1, pong_within=0.5)


@dataclass
class Served:
    """A manager's API on a real socket."""

    manager: Manager
    port: int
    stops: list[bool] = field(default_factory=list)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes and return all that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


Serve = Callable[[Manager], Any]


@asynccontextmanager
async def serving(manager: Manager) -> AsyncIterator[Served]:
    """Serve a manager's API while in the context."""
    listener = socket.create_server(("127.0.0.1", 0))
    served = Served(manager, listener.getsockname()[1])
    app = create_app(
        manager,
        Address("127.0.0.1", served.port, TOKEN),
        activity=Activity(),
        on_ready=lambda: None,
        on_stop=served.stops.append,
    )
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield served
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def serve() -> Serve:
    """Serve a manager's API while in the context."""
    return serving
