"""What becomes of an outcome in the editor. Here the outcome is scripted; `test_kernels` has real
ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lsp_server.features import kernel_commands, kernel_files, kernel_generation
from lsp_server.kernels.task import Attempt, Candidate, Check, Evidence, Language, Outcome
from tests.lsp_server.features import kernel_folder
from tests.lsp_server.features.kernel_folder import CODE, PASSED, REFERENCE, WRONG, Folder
from tests.lsp_server.features.test_kernel_files import PREVIEWS
from tests.lsp_server.session import Session

BETTER = CODE.replace("torch.empty_like(x)", "torch.zeros_like(x)")


@dataclass
class Script:
    """What generating comes to, and what it was asked."""

    code: str = CODE
    checks: tuple[Check, ...] | None = PASSED  # None: there was no attempt at all
    known: Sequence[Attempt] = ()
    resampled: bool = False
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    verified_first: list[str] = field(default_factory=list)

    async def generated(self, ls, task, report, known=(), *, resample=False) -> Outcome:
        self.known, self.resampled = known, resample
        report("working", 0.5)
        await self.hold.wait()
        if self.checks is None:
            return Outcome(task, None, (), "", "No attempt was made: there is no model.")
        evidence = Evidence("key", task.language, self.checks, (("ladder", "1"),))
        best = Attempt(Candidate(self.code, "template:scale"), evidence)
        return Outcome(task, best, (best,), "# test\n", "1 of 1 attempts looked at.")

    async def verified(self, ls, candidate, task, report) -> Evidence:
        self.verified_first.append(candidate.code)
        return Evidence("key", task.language, WRONG)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    script.hold.set()
    for module in (kernel_generation, kernel_commands):
        monkeypatch.setattr(module, "generated", script.generated)
    monkeypatch.setattr(kernel_commands, "verified", script.verified)
    return script


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session, script: Script
) -> Folder:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(kernel_files, "SETTLED_S", 0.02)
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": True}
    return kernel_folder.made(tmp_path / "project")


async def run(session: Session, folder: Folder, command: str = "run", **more: object):
    session.open(REFERENCE, folder.reference)
    wanted = {"uri": folder.reference, "line": 4, "language": "c", **more}
    return await session.command(f"midspan.kernel.{command}", wanted)


def edits(session: Session) -> list[dict]:
    """The edits that the client was asked to apply."""
    asked = [m for m in session.messages if m.get("method") == "workspace/applyEdit"]
    return [m["params"]["edit"] for m in asked]


async def test_generate_answers_with_all_and_changes_nothing(session: Session, folder: Folder):
    await session.start(PREVIEWS)
    result = (await run(session, folder, "generate", shapes="x: (K,) float16"))["result"]
    assert edits(session) == []
    assert result["success"] is True
    assert (result["name"], result["language"], result["code"]) == ("scale_c", "c", CODE)
    assert result["shapes"] == "x: (K,) float16"
    assert result["message"] == "1 of 1 attempts looked at."
    assert result["attempts"] == [
        {"origin": "template:scale", "attempt": 1, "verified": True, "failure": ""}
    ]
    assert result["evidence"]["checks"][0]["level"] == "parses"
    kernel, test = result["files"]
    assert kernel["uri"] == folder.kernel
    assert kernel["text"].endswith(CODE)
    assert '"shapes": "x: (K,) float16"' in kernel["text"]
    assert test["uri"] == folder.kernel.replace("scale_c", "test_scale_c")
    assert "scale_c" in test["text"]
    created = [c["uri"] for c in result["edit"]["documentChanges"] if c.get("kind") == "create"]
    assert created == [kernel["uri"], test["uri"]]


async def test_client_without_document_changes_gets_plain_ones(session: Session, folder: Folder):
    await session.start({"workspace": {"applyEdit": True}})
    result = (await run(session, folder))["result"]
    assert result["applied"] is True
    (edit,) = edits(session)
    assert [edit["changes"][f["uri"]][0]["newText"] for f in result["files"]] == [
        f["text"] for f in result["files"]
    ]


async def test_discarded_edit_is_no_error(session: Session, folder: Folder):
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": False}
    await session.start(PREVIEWS)
    result = (await run(session, folder))["result"]
    assert (result["success"], result["applied"]) == (True, False)


async def test_same_kernel_again_is_not_written_again(session: Session, folder: Folder):
    await session.start(PREVIEWS)
    for file in (await run(session, folder))["result"]["files"]:
        (folder.path / file["uri"].rpartition("/")[2]).write_text(file["text"], encoding="utf-8")
    session.messages.clear()
    result = (await run(session, folder))["result"]
    assert (result["name"], result["files"], result["edit"]) == ("scale_c", [], None)
    shown = await session.until(lambda m: m.get("method") == "window/showMessage")
    assert "scale_c.py is there already" in shown["params"]["message"]
    assert edits(session) == []


@pytest.mark.parametrize("way", ["file", "open", "folder", "link"])
async def test_what_is_in_the_way_is_left_alone(session: Session, folder: Folder, way: str):
    await session.start(PREVIEWS)
    path = folder.path / "test_scale_c.py"
    if way == "file":
        path.write_text("# mine\n", encoding="utf-8")
    elif way == "open":
        session.open("# mine\n", path.as_uri())
    elif way == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    result = (await run(session, folder))["result"]
    assert result["name"] == "scale_c_2"
    assert "scale_c_2" in result["files"][1]["text"]


async def test_no_name_is_left(session: Session, folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_generation, "MAX_NAMES", 1)
    (folder.path / "scale_c.py").write_text("# mine\n", encoding="utf-8")
    await session.start(PREVIEWS)
    assert "Remove some" in (await run(session, folder))["error"]["message"]


@pytest.mark.parametrize("chosen", [True, False])
async def test_kernel_that_is_not_verified_is_written_only_if_the_user_says_so(
    session: Session, folder: Folder, script: Script, chosen: bool
):
    script.checks = WRONG
    answer = {"title": "Show the best attempt"} if chosen else None
    session.client_answers["window/showMessageRequest"] = lambda params: answer
    await session.start(PREVIEWS)
    result = (await run(session, folder))["result"]
    assert (result["success"], result["applied"]) == (False, chosen)
    assert result["attempts"][0]["failure"] == "the result is wrong"
    assert len(edits(session)) == chosen
    asked = await session.until(lambda m: m.get("method") == "window/showMessageRequest")
    assert asked["params"]["message"] == result["message"]


async def test_no_attempt_at_all_says_why(session: Session, folder: Folder, script: Script):
    script.checks = None
    await session.start(PREVIEWS)
    result = (await run(session, folder))["result"]
    assert (result["success"], result["code"], result["files"]) == (False, "", [])
    asked = await session.until(lambda m: m.get("method") == "window/showMessageRequest")
    assert asked["params"] == {
        "type": 2,
        "message": "No attempt was made: there is no model.",
        "actions": [],
    }


@pytest.mark.parametrize(("command", "resampled"), [("resample", True), ("repair", False)])
async def test_kernel_is_replaced_in_its_file(
    session: Session, folder: Folder, script: Script, command: str, resampled: bool
):
    folder.known(WRONG)
    script.code = BETTER
    await session.start(PREVIEWS)
    text = folder.text().replace("\n", "\r\n")
    session.open(text, folder.kernel)
    result = (await session.command(f"midspan.kernel.{command}", {"uri": folder.kernel}))["result"]
    assert (result["success"], result["applied"], result["name"]) == (True, True, "scale_c")
    assert script.resampled is resampled
    (attempt,) = script.known
    assert attempt.candidate.code == CODE
    assert attempt.evidence.failure is not None
    assert script.verified_first == []
    (edit,) = edits(session)
    (change,) = edit["documentChanges"]
    assert change["textDocument"] == {"uri": folder.kernel, "version": 1}
    (only,) = change["edits"]
    assert only["range"]["end"]["line"] == text.count("\n")
    assert only["newText"] == folder.text(BETTER).replace("\n", "\r\n")


async def test_kernel_with_no_evidence_is_verified_before_it_is_repaired(
    session: Session, folder: Folder, script: Script
):
    await session.start(PREVIEWS)
    session.open(folder.text(), folder.kernel)
    result = (await session.command("midspan.kernel.repair", {"uri": folder.kernel}))["result"]
    assert script.verified_first == [CODE]
    assert result["edit"] is None  # the best is the one that is there
    assert edits(session) == []
    await session.command("midspan.kernel.resample", {"uri": folder.kernel})
    assert script.verified_first == [CODE]  # what is wrong with it does not matter


async def test_kernel_with_nothing_wrong_is_not_repaired(
    session: Session, folder: Folder, script: Script
):
    folder.known(PASSED)
    script.code = BETTER
    await session.start(PREVIEWS)
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.repair", {"uri": folder.kernel})
    assert "nothing to repair in scale: verified on" in answer["error"]["message"]
    assert (script.known, edits(session)) == ((), [])


async def test_kernel_that_was_edited_meanwhile_is_left_alone(
    session: Session, folder: Folder, script: Script
):
    folder.known(WRONG)
    script.code = BETTER
    script.hold.clear()
    await session.start({**PREVIEWS, "window": {"workDoneProgress": True}})
    session.open(folder.text(), folder.kernel)
    params = {"command": "midspan.kernel.repair", "arguments": [{"uri": folder.kernel}]}
    asked = session.request("workspace/executeCommand", params)
    await session.until(lambda m: m.get("params", {}).get("value", {}).get("message") == "working")
    session.send(session.edit("#", 0, 0, folder.kernel))
    await session.call("midspan/none", {})
    script.hold.set()
    error = (await session.answer(asked))["error"]
    assert (error["code"], edits(session)) == (-32801, [])


async def test_job_is_one_at_a_time_for_a_function_and_free_for_others(
    session: Session, folder: Folder, script: Script
):
    two = REFERENCE + "\n\n" + REFERENCE.split("\n\n\n")[1].replace("scale", "other")
    script.hold.clear()
    await session.start(PREVIEWS)
    session.open(two, folder.reference)
    wanted = {"uri": folder.reference, "language": Language.C.value}

    def ask(line: int) -> int:
        params = {"command": "midspan.kernel.generate", "arguments": [{**wanted, "line": line}]}
        return session.request("workspace/executeCommand", params)

    first, second, third = ask(4), ask(9), ask(5)
    error = (await session.answer(third))["error"]
    assert error["message"].startswith("A kernel of scale is being worked on already")
    script.hold.set()
    assert (await session.answer(first))["result"]["name"] == "scale_c"
    assert (await session.answer(second))["result"]["name"] == "other_c"
