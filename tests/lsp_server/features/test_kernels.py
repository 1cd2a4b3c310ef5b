"""Kernels from the editor's side, generated and verified for real."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lsp_server.features import kernel_files
from tests.lsp_server.features import kernel_folder
from tests.lsp_server.features.kernel_folder import REFERENCE, Folder
from tests.lsp_server.features.test_kernel_files import PREVIEWS, diagnostics, lenses
from tests.lsp_server.session import Session
from tests.lsp_server.wire import Wire

pytestmark = pytest.mark.kernels

PATIENCE = 120.0
CLIENT = {**PREVIEWS, "window": {"workDoneProgress": True}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session) -> Folder:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(kernel_files, "SETTLED_S", 0.02)
    monkeypatch.setattr("tests.lsp_server.session.PATIENCE", PATIENCE)
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": True}
    return kernel_folder.made(tmp_path / "project")


def wanted(folder: Folder, line: int = 4, language: str = "c", **more: object) -> dict:
    return {"uri": folder.reference, "line": line, "language": language, **more}


def reports(session: Session) -> list[dict]:
    return [m["params"]["value"] for m in session.messages if m.get("method") == "$/progress"]


def write(folder: Folder, edit: dict) -> list[str]:
    """Do what an editor does with an edit that creates files; their names."""
    names = []
    for change in edit["documentChanges"]:
        uri = change.get("uri") or change["textDocument"]["uri"]
        path = folder.path / uri.rpartition("/")[2]
        if change.get("kind") == "create":
            assert not path.exists()
            path.touch()
            names.append(path.name)
        else:
            (only,) = change["edits"]
            path.write_text(only["newText"], encoding="utf-8")
    return names


async def test_kernel_is_generated_written_kept_and_found_wrong_after_an_edit(
    session: Session, folder: Folder
):
    (folder.path / "scale_c.py").write_text("# somebody's own\n", encoding="utf-8")
    await session.start(CLIENT)
    session.open(REFERENCE, folder.reference)
    answer = await session.command("midspan.kernel.run", wanted(folder))
    result = answer["result"]
    assert result["success"] is True, result["message"]
    assert result["statement"].startswith("verified on this processor")
    assert result["attempts"][-1]["verified"] is True
    assert (result["name"], result["language"]) == ("scale_c_2", "c")
    values = reports(session)
    assert values[0]["title"] == "Generating a C kernel of scale"
    assert values[0]["percentage"] == 0
    assert [value["kind"] for value in values[1:]].count("end") == 1
    assert any(value["kind"] == "report" and value["message"] for value in values)

    asked = await session.until(lambda m: m.get("method") == "workspace/applyEdit")
    (annotation,) = asked["params"]["edit"]["changeAnnotations"].values()
    assert annotation["needsConfirmation"] is True
    assert annotation["description"] == result["statement"]
    names = write(folder, asked["params"]["edit"])
    assert names == ["scale_c_2.py", "test_scale_c_2.py"]
    assert (folder.path / "scale_c.py").read_text(encoding="utf-8") == "# somebody's own\n"

    kernel = (folder.path / "scale_c_2.py").as_uri()
    text = (folder.path / "scale_c_2.py").read_text(encoding="utf-8")
    session.open(text, kernel)
    assert result["statement"] in await lenses(session, kernel)

    # The user breaks it: the statement is stale, and verifying shows where it is wrong.
    at = text.split("\n")
    line = next(n for n, code in enumerate(at) if "x * 2.0f" in code)
    session.send(session.edit("1", line, at[line].index("2.0f"), kernel))
    assert "Verify again" in await lenses(session, kernel)
    answer = await session.command("midspan.kernel.verify", {"uri": kernel})
    assert answer["result"]["success"] is False
    (found,) = await diagnostics(session, kernel, some=True)
    assert found["source"] == "midspan kernel"
    assert found["range"]["start"]["line"] > 1
    assert "Show the counterexample" in await lenses(session, kernel)
    shown = await session.command("midspan.kernel.counterexample", {"uri": kernel})
    assert "seed" in shown["result"]["counterexample"]
    assert "Repair" in await lenses(session, kernel)


@pytest.mark.parametrize("way", ["progress", "request"])
async def test_cancel_leaves_no_process_and_a_second_job_is_refused(
    session: Session, folder: Folder, way: str
):
    await session.start(CLIENT)
    session.open(REFERENCE, folder.reference)
    params = {"command": "midspan.kernel.generate", "arguments": [wanted(folder)]}
    asked = session.request("workspace/executeCommand", params)
    begun = await session.until(lambda m: m.get("method") == "$/progress")
    second = await session.command("midspan.kernel.generate", wanted(folder, language="triton"))
    assert "being worked on already" in second["error"]["message"]
    assert second["error"]["data"] == {"kind": "conflict"}
    async with asyncio.timeout(PATIENCE):
        while not sandboxed():
            await asyncio.sleep(0.02)
    if way == "progress":
        token = {"token": begun["params"]["token"]}
        session.notify("window/workDoneProgress/cancel", token)
    else:
        session.notify("$/cancelRequest", {"id": asked})
    assert (await session.answer(asked))["error"]["code"] == -32800
    async with asyncio.timeout(PATIENCE):
        while sandboxed():
            await asyncio.sleep(0.02)
    # And the function is free again.
    shapes = await session.command("midspan.kernel.shapes", wanted(folder))
    assert shapes["result"]["name"] == "scale"
    assert session.server.kernel_jobs == set()


def sandboxed(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """The sandboxed programs of a process, by default this one."""
    children = (parent or psutil.Process()).children(recursive=True)
    return [process for process in children if is_sandboxed(process)]


def is_sandboxed(process: psutil.Process) -> bool:
    try:
        return any("confine" in word for word in process.cmdline())
    except psutil.Error:  # it is gone
        return False


async def test_shapes_are_told_as_people_write_them(session: Session, folder: Folder):
    await session.start()
    session.open(REFERENCE, folder.reference)
    answer = await session.command("midspan.kernel.shapes", wanted(folder))
    assert answer["result"] == {"name": "scale", "shapes": "x: (N,) float32", "guessed": False}
    given = wanted(folder, shapes="x: (4, K) float16")
    answer = await session.command("midspan.kernel.shapes", given)
    assert answer["result"]["shapes"] == "x: (4, K) float16"
    session.send(session.erase(4, 4, 22, folder.reference))
    answer = await session.command("midspan.kernel.shapes", wanted(folder, 5))
    assert answer["result"]["guessed"] is True


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"line": 0}, "There is no function at line 1"),
        ({"shapes": "nonsense"}, "The shapes are not understood"),
        ({"revision": 7}, "the document changed meanwhile"),
        ({"uri": "file:///w/.env"}, "not shown to a model"),
        ({"uri": "file:///w/closed.py"}, "not opened"),
        ({"uri": "untitled:Untitled-1"}, "save it as a Python file first"),
        ({"language": "fortran"}, "needs a uri"),
        ({"line": None}, "needs a uri"),
        ({"shapes": 5}, "The shapes are a text"),
    ],
)
async def test_generate_says_why_it_cannot(session: Session, folder: Folder, more: dict, why: str):
    await session.start()
    for uri in (folder.reference, "file:///w/.env", "untitled:Untitled-1"):
        session.open(REFERENCE, uri)
    answer = await session.command("midspan.kernel.generate", {**wanted(folder), **more})
    assert why in answer["error"]["message"]


async def test_file_kept_back_by_its_repository_is_refused(session: Session, folder: Folder):
    (folder.path / ".git").mkdir()
    (folder.path / ".midspan.toml").write_text('ignore = ["ops.py"]\n', encoding="utf-8")
    await session.start()
    session.open(REFERENCE, folder.reference)
    answer = await session.command("midspan.kernel.generate", wanted(folder))
    assert "not shown to a model" in answer["error"]["message"]


async def test_without_a_sandbox_nothing_runs_and_the_user_is_told_how_to_get_one(
    session: Session, folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(folder.path))
    await session.start()
    session.open(REFERENCE, folder.reference)
    answer = await session.command("midspan.kernel.generate", wanted(folder))
    assert "apt-get install bubblewrap" in answer["error"]["message"]


def test_server_that_is_killed_leaves_no_sandboxed_process(
    start: Callable[..., Wire], tmp_path: Path
):
    folder = kernel_folder.made(tmp_path / "project")
    wire = start()
    wire.initialize()
    item = {"uri": folder.reference, "languageId": "python", "version": 1, "text": REFERENCE}
    wire.notify("textDocument/didOpen", {"textDocument": item})
    params = {"command": "midspan.kernel.run", "arguments": [wanted(folder)]}
    wire.request("workspace/executeCommand", params)
    server = psutil.Process(wire.process.pid)
    wait_until(lambda: sandboxed(server))
    left = sandboxed(server)
    wire.process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_sandboxed(process) for process in left))


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
