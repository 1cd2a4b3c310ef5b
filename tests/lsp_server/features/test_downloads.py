"""Downloads as an editor sees them: a real manager, a hub on localhost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backends import errors
from backends.client import ManagerClient
from tests.backends.downloads.hub import Hub, add_starter, serving
from tests.conftest import private_env, stop_manager
from tests.lsp_server.session import Session

STARTER = "midspan/starter-GGUF"
PROGRESS = {"window": {"workDoneProgress": True}}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        add_starter(hub)
        yield hub


@pytest.fixture(scope="module")
def env(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("midspan")
    env = private_env(folder) | {"MIDSPAN_DOWNLOADS_ENDPOINT": hub.url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield env
    stop_manager(env)


@pytest_asyncio.fixture
async def editor(session: Session, env: dict[str, str], hub: Hub) -> AsyncIterator[Session]:
    """A session whose manager is real."""
    hub.faults.rate, hub.asked = 0, []
    session.server._manager = ManagerClient()
    await session.start(PROGRESS)
    yield session


def progress(session: Session) -> list[dict[str, Any]]:
    return [m["params"]["value"] for m in session.messages if m.get("method") == "$/progress"]


async def test_downloadable_is_the_catalogue(editor: Session, hub: Hub) -> None:
    answer = (await editor.command("midspan.downloadable"))["result"]
    assert {row["fits"] for row in answer["models"]} <= {"yes", "tight", "no"}
    assert answer["recommended"] in {row["name"] for row in answer["models"]}
    assert hub.asked == []


async def test_download_shows_a_percentage_that_rises_and_answers_with_the_model(
    editor: Session, hub: Hub
) -> None:
    hub.faults.rate = 12e6
    answer = await editor.command("midspan.downloadModel", {"repository": STARTER, "x": 1})
    assert answer["result"]["name"] == "midspan-starter"
    assert answer["result"]["fim"] is True
    shown = progress(editor)
    assert shown[0]["kind"] == "begin"
    assert shown[0]["title"] == f"Downloading {STARTER}"
    assert (shown[0]["cancellable"], shown[0]["percentage"]) == (True, 0)
    reported = [value["percentage"] for value in shown if value["kind"] == "report"]
    assert reported == sorted(reported)
    assert len(set(reported)) > 3
    assert any("of 6 MiB" in value.get("message", "") for value in shown)
    assert shown[-1]["kind"] == "end"
    # It is there at once, and not selected.
    listed = (await editor.command("midspan.listModels"))["result"]
    assert "midspan-starter" in {row["name"] for row in listed["models"]}
    assert listed["current"] == "starter"
    selected = await editor.command("midspan.selectModel", "midspan-starter")
    assert selected["result"]["state"] == "ready"


async def test_cancelled_progress_cancels_the_download_which_can_be_resumed(
    editor: Session, hub: Hub, env: dict[str, str]
) -> None:
    hub.faults.rate = 2e6
    wish = {"repository": STARTER, "name": "second"}
    command = {"command": "midspan.downloadModel", "arguments": [wish]}
    asked = editor.request("workspace/executeCommand", command)
    report = await editor.until(lambda m: m.get("params", {}).get("value", {}).get("percentage"))
    token = report["params"]["token"]
    editor.notify("window/workDoneProgress/cancel", {"token": token})
    assert (await editor.answer(asked))["error"]["code"] == -32800
    client = ManagerClient()
    while True:
        rows = (await client.get("/api/models/downloads"))["downloads"]
        if {row["state"] for row in rows if row["name"] == "second"} == {"cancelled"}:
            break
    await client.close()
    assert not (Path(env["MIDSPAN_MODELS_DIR"]) / "second").exists()
    hub.faults.rate = 0
    assert (await editor.command("midspan.downloadModel", wish))["result"]["name"] == "second"
    assert hub.files()[-1].headers["range"].startswith("bytes=")


async def test_download_that_fails_says_why(editor: Session) -> None:
    answer = await editor.command("midspan.downloadModel", {"repository": "no/such"})
    assert answer["error"]["code"] == -32803
    assert "no such repository" in answer["error"]["message"]
    assert answer["error"]["data"] == {"kind": "unknown_model"}


@pytest.mark.parametrize("arguments", [(), (None,), ("name",), ({},), ({"model": ""},)])
async def test_download_needs_a_model(session: Session, arguments: tuple[Any, ...]) -> None:
    await session.start()
    session.manager.error = errors.BackendError("must not be asked")
    answer = await session.command("midspan.downloadModel", *arguments)
    assert answer["error"]["code"] == -32602
