"""Models of every kind behind one manager: endpoints, and what cannot complete."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from backends import catalogue, starter
from backends.api.management import _state_of, row_of
from backends.backend import InfillRequest, Usage
from backends.config import CompletionSettings, ModelSettings, Settings
from backends.errors import BackendError, MidspanError, NoFim
from backends.lifecycle import ModelState
from backends.llama_server import LlamaServer
from backends.manager import Manager
from backends.remembered import Remembered
from tests.backends import gguf_files
from tests.backends.conftest import MakeManager

if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("the extra 'llama-server' is not installed", allow_module_level=True)

TEXT = "import os\n\n\ndef name(path):\n    return os.path.basename(path)\n" * 8


@pytest_asyncio.fixture
async def elsewhere() -> AsyncIterator[LlamaServer]:
    """A real engine at an endpoint with a key."""
    settings = ModelSettings(path=str(starter.path()), engine="llama-server")
    model = catalogue.Model("far", starter.path(), catalogue.Source.CONFIG, settings)
    load = catalogue.load_message(model, safe_mode=False)
    server = await LlamaServer.start(load, lambda error: None)
    yield server
    await server.close()


def endpoint_of(server: LlamaServer) -> str:
    return "http://" + server.description.partition("http://")[2].split()[0]


def manager_with(private_dirs: Path, **models: ModelSettings) -> Manager:
    settings = Settings(completion=CompletionSettings(model=next(iter(models))), models=models)
    return Manager(settings, Remembered(private_dirs / "state"))


async def usage_of(manager: Manager, text: str) -> Usage:
    async with asyncio.timeout(60):
        _, backend = await manager.ready()
        request = InfillRequest(text, "\n", "file:///a.py", max_tokens=4)
        async with aclosing(backend.infill(request)) as chunks:
            last = [chunk async for chunk in chunks][-1]
    assert last.usage is not None
    return last.usage


async def test_endpoint_completes_is_shown_and_makes_room_for_nobody(
    elsewhere: LlamaServer, private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = elsewhere.remote._connection._key.value
    monkeypatch.setenv("FAR_KEY", key)
    far = ModelSettings(
        endpoint=endpoint_of(elsewhere),
        profile="llama-server",
        family="qwen2.5-coder",
        api_key_env="FAR_KEY",
    )
    near = ModelSettings(path=str(starter.path()), engine="llama-server")
    manager = manager_with(private_dirs, far=far, near=near)
    try:
        await usage_of(manager, TEXT + "def f")
        warm = await usage_of(manager, TEXT + "def fo")
        assert warm.prompt_tokens - warm.cached_tokens <= 3
        state = await _state_of(manager, "far")
        assert state["endpoint"] == endpoint_of(elsewhere)
        assert (state["engine"], state["pid"], state["memory_bytes"]) == ("llama-server", None, 0)
        assert state["fim"]
        row = row_of(manager, manager.catalogue.get("far"))
        assert row["family"] == "qwen2.5-coder"
        assert key not in f"{state}{row}"
        await manager.select("near")
        await manager.select("far")  # both stay
        assert manager.models.slot("near").state is ModelState.READY
        await manager.restart()
        await usage_of(manager, TEXT)
    finally:
        await manager.close()
    await elsewhere.health()  # what is not ours goes on


async def test_endpoint_that_is_down_is_tried_again(
    private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    down = ModelSettings(endpoint=f"http://127.0.0.1:{port}", profile="llama-server", retries=0)
    manager = manager_with(private_dirs, down=down)
    try:
        with pytest.raises(BackendError, match="down"):
            await usage_of(manager, TEXT)
        slot = manager.models.slot("down")
        assert (slot.state, slot.passing, slot.run) == (ModelState.FAILED, True, 1)
        with pytest.raises(BackendError):  # at once, and without asking again
            await usage_of(manager, TEXT)
        assert manager.models.slot("down").run == 1
        monkeypatch.setattr("backends.lifecycle.RETRY_AFTER", 0.0)
        with pytest.raises(BackendError):
            await usage_of(manager, TEXT)
        assert manager.models.slot("down").run == 2
    finally:
        await manager.close()


async def test_endpoint_with_wrong_settings_stays_refused(private_dirs: Path) -> None:
    wrong = ModelSettings(endpoint="http://127.0.0.1:1", profile="no-such")
    manager = manager_with(private_dirs, wrong=wrong)
    try:
        with pytest.raises(MidspanError, match="no-such"):
            await usage_of(manager, TEXT)
        assert not manager.models.slot("wrong").passing
    finally:
        await manager.close()


async def test_endpoint_that_cannot_complete_is_not_selected(
    elsewhere: LlamaServer, private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", elsewhere.remote._connection._key.value)
    unknown = ModelSettings(
        endpoint=endpoint_of(elsewhere),
        profile="llama-server",
        remote_model="far",
        api_key_env="FAR_KEY",
    )
    near = ModelSettings(path=str(starter.path()), engine="llama-server")
    manager = manager_with(private_dirs, near=near, unknown=unknown)
    monkeypatch.setattr("backends.remote.family._NAMED", ())  # no name tells a family
    try:
        with pytest.raises(NoFim, match="unknown can't fill in the middle"):
            await manager.select("unknown")
        assert manager.serving() == "near"
    finally:
        await manager.close()


async def test_file_that_cannot_complete_is_refused_without_loading_it(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("a", "b")
    plain = gguf_files.values({"a": 1})
    data = gguf_files.gguf(plain, [gguf_files.tensor("t", (4, 4))], bytes(64))
    gguf_files.write(private_dirs / "b.gguf", data)
    with pytest.raises(NoFim, match="b can't fill in the middle"):
        await manager.select("b")
    assert manager.models.slot("b").state is ModelState.STOPPED
    assert (await manager.ready_for_chat("b"))[0] == "b"  # it can chat all the same
