"""Killed, lied to, or out of room: a real manager, a real kill -9, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from backends import state
from backends.client import ManagerClient
from backends.errors import ManagerUnavailable, MidspanError, ModelFileError
from tests.backends.downloads import split_gguf
from tests.backends.downloads.hub import Hub, add_starter, serving
from tests.conftest import private_env, stop_manager

STARTER = "midspan/starter-GGUF"


@pytest.fixture
def starter_hub() -> Iterator[Hub]:
    with serving() as hub:
        add_starter(hub)
        yield hub


@pytest.fixture
def env(
    tmp_path: Path, starter_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    folder = tmp_path / "midspan"
    folder.mkdir()
    env = private_env(folder) | {"MIDSPAN_DOWNLOADS_ENDPOINT": starter_hub.url}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    yield env
    stop_manager(env)


@pytest_asyncio.fixture
async def client(env: dict[str, str]) -> AsyncIterator[ManagerClient]:
    client = ManagerClient()
    yield client
    await client.close()


async def pulled(client: ManagerClient, name: str = "pulled", **body: Any) -> list[dict[str, Any]]:
    wish = {"repository": STARTER, "name": name, "stream": True, **body}
    return [row async for row in client.stream("/api/models/download", wish)]


async def rows_of(client: ManagerClient) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await client.get("/api/models/downloads"))["downloads"]
    return rows


def pid(env: dict[str, str]) -> int:
    running = state.read(Path(env["MIDSPAN_RUNTIME_DIR"]))
    assert running is not None
    return running.pid


def model_bytes(hub: Hub) -> bytes:
    return next(data for name, data in hub.repositories[STARTER].items() if name.endswith(".gguf"))


async def pulled_until_killed(client: ManagerClient, env: dict[str, str], at: int) -> None:
    wish = {"repository": STARTER, "name": "pulled", "stream": True}
    async for row in client.stream("/api/models/download", wish):
        if row["received_bytes"] > at:
            os.kill(pid(env), signal.SIGKILL)


async def test_kill_9_in_the_middle_resumes_there(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub
) -> None:
    """Fault 7."""
    data = model_bytes(starter_hub)
    starter_hub.faults.rate = 6e6
    with pytest.raises(ManagerUnavailable):
        await pulled_until_killed(client, env, len(data) // 2)
    models = Path(env["MIDSPAN_MODELS_DIR"])
    assert os.listdir(models) == [".downloads"]
    (part,) = models.glob(".downloads/pulled/*.part")
    kept = part.stat().st_size
    assert len(data) // 2 <= kept < len(data)

    # The next manager knows of it, and goes on when it is asked to.
    starter_hub.faults.rate = 0
    (left,) = await rows_of(client)
    assert (left["name"], left["state"]) == ("pulled", "cancelled")
    assert (left["received_bytes"], left["total_bytes"]) == (kept, len(data))
    rows = await pulled(client)
    assert rows[-1]["state"] == "done"
    assert starter_hub.files()[-1].headers["range"] == f"bytes={kept}-"
    received = [row["received_bytes"] for row in rows]
    assert received == sorted(received)
    assert (models / "pulled" / part.name.removesuffix(".part")).read_bytes() == data
    # It is a model at once.
    await client.post("/api/models/select", {"name": "pulled"})
    answer = await client.infill({"input_prefix": "def add(a, b):\n", "n_predict": 4})
    assert answer["model"] == "pulled"


async def test_flipped_byte_never_becomes_a_model(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub
) -> None:
    """Fault 8."""
    starter_hub.faults.flip = 3_000_000
    with pytest.raises(ModelFileError, match="not what the hub says"):
        await pulled(client)
    models = Path(env["MIDSPAN_MODELS_DIR"])
    assert os.listdir(models) == [".downloads"]
    assert len(list(models.glob(".downloads/.quarantine/*.wrong"))) == 1
    available = await client.get("/api/models/available")
    assert [row["name"] for row in available["models"]] == ["starter"]
    (row,) = await rows_of(client)
    assert row["state"] == "failed"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes")
async def test_full_disk_leaves_completion_alone(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub
) -> None:
    """Fault 9: a limit on the size of files fails writes as a full disk does."""
    await client.ensure()
    manager, models = psutil.Process(pid(env)), Path(env["MIDSPAN_MODELS_DIR"])
    manager.rlimit(psutil.RLIMIT_FSIZE, (2_000_000, psutil.RLIM_INFINITY))
    with pytest.raises(MidspanError, match="There is no room"):
        await pulled(client)
    assert os.listdir(models) == [".downloads"]
    (part,) = models.glob(".downloads/pulled/*.part")
    kept = part.stat().st_size
    assert 0 < kept <= 2_000_000
    answer = await client.infill({"input_prefix": "def add(a, b):\n", "n_predict": 4})
    assert answer["model"] == "starter"
    # Once there is room, it goes on.
    manager.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    assert (await pulled(client))[-1]["state"] == "done"
    assert starter_hub.files()[-1].headers["range"] == f"bytes={kept}-"


async def test_closing_the_stream_leaves_the_download_to_the_manager(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub
) -> None:
    starter_hub.faults.rate = 5e6
    wish = {"repository": STARTER, "name": "pulled", "stream": True}
    stream = client.stream("/api/models/download", wish)
    first = await anext(stream)
    await stream.aclose()
    # Asking again watches the same one; completions go on meanwhile.
    answer = await client.infill({"input_prefix": "def add(a, b):\n", "n_predict": 4})
    assert answer["model"] == "starter"
    rows = await pulled(client)
    assert rows[0]["received_bytes"] >= first["received_bytes"]
    assert rows[-1]["state"] == "done"
    assert len(starter_hub.files()) == 1


async def test_cancel_ends_the_watching_and_keeps_the_part(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub
) -> None:
    starter_hub.faults.rate = 2e6
    other = ManagerClient()
    watching = asyncio.create_task(pulled(client))
    while not any(row["received_bytes"] for row in await rows_of(other)):
        await asyncio.sleep(0.02)
    cancelled = await other.post("/api/models/download/cancel", {"name": "pulled"})
    assert cancelled["state"] == "cancelled"
    assert (await watching)[-1]["state"] == "cancelled"
    with pytest.raises(MidspanError, match="cancelled already"):
        await other.post("/api/models/download/cancel", {"name": "pulled"})
    starter_hub.faults.rate = 0
    assert (await pulled(client))[-1]["state"] == "done"
    assert starter_hub.files()[-1].headers["range"].startswith("bytes=")
    await other.close()


async def test_manager_stays_for_a_download_and_ends_after_it(
    env: dict[str, str], starter_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSPAN_MANAGER_IDLE_MINUTES", "0.005")
    client = ManagerClient()
    starter_hub.faults.rate = 4e6  # over a second, where it stays for 0.3 without anyone
    await client.post("/api/models/download", {"repository": STARTER, "name": "pulled"})
    running = pid(env)
    await client.close()
    model = Path(env["MIDSPAN_MODELS_DIR"]) / "pulled" / "midspan-model.json"
    deadline = time.monotonic() + 30
    while not model.exists():
        assert time.monotonic() < deadline
        os.kill(running, 0)
        await asyncio.sleep(0.05)
    while state.read(Path(env["MIDSPAN_RUNTIME_DIR"])) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.engine
async def test_split_model_completes_as_the_whole_one(
    env: dict[str, str], client: ManagerClient, starter_hub: Hub, tmp_path: Path
) -> None:
    """No fault, but the same hub and manager: three parts are the model that one file is."""
    parts = split_gguf.write(tmp_path)
    assert len(parts) == 3
    starter_hub.repositories["midspan/parts-GGUF"] = parts
    question = {"input_prefix": "def add(a, b):\n    return ", "n_predict": 8, "temperature": 0}
    whole = await client.infill(question)
    rows = await pulled(client, repository="midspan/parts-GGUF")
    assert rows[-1]["total_bytes"] == sum(map(len, parts.values()))
    assert rows[-1]["model"]["size_bytes"] == rows[-1]["total_bytes"]
    await client.post("/api/models/select", {"name": "pulled"})
    split = await client.infill(question)
    assert split["model"] == "pulled"
    assert split["content"] == whole["content"]
    verified = await client.post("/api/models/verify", {"name": "pulled"})
    assert [file["ok"] for file in verified["files"]] == [True] * 3
