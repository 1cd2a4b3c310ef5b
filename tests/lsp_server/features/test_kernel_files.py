"""Kernel files as an editor shows them, with evidence from the folder that keeps it."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import pytest

from lsp_server.documents import Document, Place
from lsp_server.features import kernel_documents, kernel_files
from lsp_server.kernels import evidence as evidences
from lsp_server.kernels import files, reference
from lsp_server.kernels.task import Candidate, Check, Evidence, Language, Level, Result
from tests.lsp_server.features import kernel_folder
from tests.lsp_server.features.kernel_folder import CODE, PASSED, REFERENCE, WRONG, Folder
from tests.lsp_server.session import Session

REFRESHES = {"workspace": {"codeLens": {"refreshSupport": True}}}
PREVIEWS = {
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {
            "documentChanges": True,
            "resourceOperations": ["create"],
            "changeAnnotationSupport": {},
        },
    }
}


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session
) -> kernel_folder.Folder:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(kernel_files, "SETTLED_S", 0.02)
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": True}
    return kernel_folder.made(tmp_path / "project")


async def lenses(session: Session, uri: str) -> dict[str, str]:
    """The commands' last parts by their titles."""
    answer = await session.call("textDocument/codeLens", {"textDocument": {"uri": uri}})
    assert all(lens["command"]["arguments"] == [{"uri": uri}] for lens in answer["result"])
    return {
        lens["command"]["title"]: lens["command"]["command"].rpartition(".")[2]
        for lens in answer["result"]
    }


async def diagnostics(session: Session, uri: str, *, some: bool) -> list:
    message = await session.until(
        lambda m: (
            m.get("method") == "textDocument/publishDiagnostics"
            and m["params"]["uri"] == uri
            and bool(m["params"]["diagnostics"]) is some
        )
    )
    session.messages.remove(message)
    return message["params"]["diagnostics"]


def applied(text: str, edits: list[dict]) -> str:
    document = Document("file:///x", text, 1, "python")
    for edit in sorted(edits, key=lambda e: -e["range"]["start"]["line"]):
        start, end = (document.offset(Place(**edit["range"][e])) for e in ("start", "end"))
        text = text[:start] + edit["newText"] + text[end:]
    return text


async def test_verified_kernel_shows_what_is_known_and_can_be_called(
    session: Session, folder: Folder
):
    folder.known(PASSED)
    result = await session.start()
    assert result["capabilities"]["codeLensProvider"] == {"resolveProvider": False}
    session.open(folder.text(), folder.kernel)
    assert await lenses(session, folder.kernel) == {
        "verified on this processor, with sanitisers, 24 cases, float32 · "
        "compiled for 12 cases, float32 · speed not measured": "evidence",
        "Call it from scale": "insert",
        "Try another": "resample",
    }


async def test_kernel_that_could_not_be_tried_here_can_be_tried_again(
    session: Session, folder: Folder
):
    missing = Check(Level.CORRECT, Result.NOT_RUN, reason="no GPU on this machine")
    folder.known((*PASSED[:3], missing))
    await session.start()
    session.open(folder.text(), folder.kernel)
    found = await lenses(session, folder.kernel)
    assert list(found.values()) == ["evidence", "verify", "resample"]
    assert next(iter(found)).startswith("not verified (no GPU on this machine)")


async def test_kernel_of_a_modules_forward_is_not_called_from_it(session: Session, folder: Folder):
    text = (
        "import torch\n\n\nclass Scale(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:\n"
        "        # x: (N,) float32\n        return x * 2\n"
    )
    (folder.path / "ops.py").write_text(text, encoding="utf-8")
    task = reference.task(text, "Scale", Language.C)
    found = Evidence("", Language.C, PASSED, evidences.versions(()))
    kernel_documents.keep(found, CODE, task)
    await session.start()
    kernel = files.kernel_text(task, Candidate(CODE, "template:scale"), "ops.py")
    session.open(kernel, folder.kernel)
    assert list((await lenses(session, folder.kernel)).values()) == ["evidence", "resample"]


async def test_lens_is_at_the_kernels_function(session: Session, folder: Folder):
    await session.start()
    session.open(folder.text(), folder.kernel)
    params = {"textDocument": {"uri": folder.kernel}}
    answer = await session.call("textDocument/codeLens", params)
    line = answer["result"][0]["range"]["start"]["line"]
    assert folder.text().split("\n")[line].startswith("def scale")


async def test_edit_makes_the_statement_stale(session: Session, folder: Folder):
    folder.known(PASSED)
    await session.start()
    session.open(folder.text(), folder.kernel)
    session.send(session.edit("# mine\n", 3, 0, folder.kernel))
    assert await lenses(session, folder.kernel) == {
        "stale: changed since it was verified": "evidence",
        "Verify again": "verify",
    }
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert "stale" in answer["error"]["message"]


@pytest.mark.parametrize("is_open", [True, False])
async def test_changed_reference_makes_the_statement_stale(
    session: Session, folder: Folder, is_open: bool
):
    folder.known(PASSED)
    await session.start(REFRESHES)
    session.open(folder.text(), folder.kernel)
    changed = REFERENCE.replace("* 2", "* 3")
    if is_open:
        session.open(REFERENCE, folder.reference)
        assert "Call it from scale" in await lenses(session, folder.kernel)
        session.send(session.edit("3 + ", 5, 11, folder.reference))
        await session.until(lambda m: m.get("method") == "workspace/codeLens/refresh")
    else:
        Path(folder.path / "ops.py").write_text(changed, encoding="utf-8")
    assert list(await lenses(session, folder.kernel)) == [
        "stale: scale changed since the kernel was verified",
        "Verify again",
    ]


async def test_reference_that_is_closed_unsaved_is_again_what_is_on_disk(
    session: Session, folder: Folder
):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    session.open(REFERENCE, folder.reference)
    await diagnostics(session, folder.kernel, some=True)
    session.send(session.edit("3 + ", 5, 11, folder.reference))
    await diagnostics(session, folder.kernel, some=False)
    session.notify("textDocument/didClose", {"textDocument": {"uri": folder.reference}})
    await diagnostics(session, folder.kernel, some=True)


async def test_shapes_that_were_never_tried_are_not_verified(session: Session, folder: Folder):
    folder.known(PASSED)
    await session.start()
    text = folder.text().replace('"language": "c"', '"language": "c", "shapes": "x: (M, 64)"')
    assert text != folder.text()
    session.open(text, folder.kernel)
    assert list(await lenses(session, folder.kernel)) == [kernel_documents.UNCHECKED, "Verify"]


async def test_kernel_of_somebody_else_is_not_verified_here(session: Session, folder: Folder):
    await session.start()
    session.open(folder.text(), folder.kernel)
    assert await lenses(session, folder.kernel) == {
        "not verified on this machine as it is now": "evidence",
        "Verify": "verify",
    }


@pytest.mark.parametrize("gone", ["file", "function"])
async def test_kernel_without_its_reference_says_so(session: Session, folder: Folder, gone: str):
    path = folder.path / "ops.py"
    if gone == "file":
        path.unlink()
    else:
        path.write_text("import torch\n", encoding="utf-8")
    await session.start()
    session.open(folder.text(), folder.kernel)
    (statement,) = await lenses(session, folder.kernel)
    assert "ops.py" in statement or "scale" in statement
    answer = await session.command("midspan.kernel.verify", {"uri": folder.kernel})
    assert answer["error"]["message"] == statement


async def test_reference_that_is_a_link_to_elsewhere_is_not_read(
    session: Session, folder: Folder, tmp_path: Path
):
    other = tmp_path / "other.py"
    (folder.path / "ops.py").rename(other)
    (folder.path / "ops.py").symlink_to(other)
    await session.start()
    session.open(folder.text(), folder.kernel)
    (statement,) = await lenses(session, folder.kernel)
    assert "is not there or cannot be read" in statement


async def test_other_documents_have_no_lenses(session: Session, folder: Folder):
    await session.start()
    session.open(REFERENCE, folder.reference)
    session.open(folder.text(), "file:///w/notes.md", "markdown")
    assert await lenses(session, folder.reference) == {}
    assert await lenses(session, "file:///w/notes.md") == {}
    assert await lenses(session, "file:///w/closed.py") == {}


async def test_wrong_kernel_has_a_diagnostic_at_the_line_that_is_to_blame(
    session: Session, folder: Folder
):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    (found,) = await diagnostics(session, folder.kernel, some=True)
    line = found["range"]["start"]["line"]
    assert folder.text().split("\n")[line] == "    out = torch.empty_like(x)"
    assert found["range"]["start"]["character"] == 4
    assert found["message"] == "the result is wrong (N = 7, float32, seed 1)"
    assert (found["source"], found["severity"], found["code"]) == ("midspan kernel", 1, "correct")
    assert list((await lenses(session, folder.kernel)).values()) == [
        "evidence",
        "counterexample",
        "repair",
        "resample",
    ]


@pytest.mark.parametrize("way", ["edit", "close", "unmark"])
async def test_diagnostic_goes_with_what_it_was_about(session: Session, folder: Folder, way: str):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    await diagnostics(session, folder.kernel, some=True)
    if way == "edit":
        session.send(session.edit("    x = x\n", 6, 0, folder.kernel))
    elif way == "unmark":
        session.send(session.erase(1, 0, 12, folder.kernel))
    else:
        session.notify("textDocument/didClose", {"textDocument": {"uri": folder.kernel}})
    await diagnostics(session, folder.kernel, some=False)
    await asyncio.sleep(0.1)
    await session.call("midspan/none", {})
    assert not [m for m in session.messages if m.get("method") == "textDocument/publishDiagnostics"]


async def test_edit_that_is_undone_brings_the_diagnostic_back(session: Session, folder: Folder):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    await diagnostics(session, folder.kernel, some=True)
    session.send(session.edit("# x", 3, 0, folder.kernel))
    await diagnostics(session, folder.kernel, some=False)
    session.send(session.erase(3, 0, 3, folder.kernel))
    await diagnostics(session, folder.kernel, some=True)


async def test_counterexample_is_shown_and_answered(session: Session, folder: Folder):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.counterexample", {"uri": folder.kernel})
    result = answer["result"]
    assert result["counterexample"] == "N = 7, float32, seed 1"
    assert folder.text().split("\n")[result["line"] - 1] == "    out = torch.empty_like(x)"
    shown = await session.until(lambda m: m.get("method") == "window/showMessage")
    assert shown["params"]["message"] == "scale: the result is wrong (N = 7, float32, seed 1)"
    session.messages.clear()
    quiet = {"uri": folder.kernel, "quiet": True}
    assert (await session.command("midspan.kernel.counterexample", quiet))["result"] == result
    assert not [m for m in session.messages if m.get("method") == "window/showMessage"]


async def test_evidence_is_told_step_by_step(session: Session, folder: Folder):
    folder.known(WRONG)
    await session.start()
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.evidence", {"uri": folder.kernel})
    steps = answer["result"]["message"].split("\n")
    assert steps[1] == "parses: passed (12 cases, float32)"
    assert steps[-1] == "correct: failed (the result is wrong)"
    assert [c["result"] for c in answer["result"]["evidence"]["checks"]][-1] == "failed"


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
async def test_insert_has_the_reference_call_the_kernel(
    session: Session, folder: Folder, is_open: bool, ending: str
):
    folder.known(PASSED)
    await session.start(PREVIEWS)
    text = REFERENCE.replace("\n", ending)
    (folder.path / "ops.py").write_bytes(text.encode())
    if is_open:
        session.open(text, folder.reference)
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert answer["result"]["success"] is True
    asked = await session.until(lambda m: m.get("method") == "workspace/applyEdit")
    edit = asked["params"]["edit"]
    (annotation,) = edit["changeAnnotations"].values()
    assert annotation["needsConfirmation"] is True
    (change,) = edit["documentChanges"]
    assert change["textDocument"]["uri"] == folder.reference
    assert change["textDocument"].get("version") == (1 if is_open else None)
    new = applied(text, change["edits"])
    assert new.count("\n") == new.count(ending)
    assert "from scale_c import scale as scale_c" in new
    assert new.endswith(f"    return x * 2{ending}")
    # The reference computes what it did: the evidence still holds.
    (folder.path / "ops.py").write_bytes(new.encode())
    if is_open:
        session.notify("textDocument/didClose", {"textDocument": {"uri": folder.reference}})
    assert "Call it from scale" in await lenses(session, folder.kernel)
    again = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert "calls a kernel already" in again["error"]["message"]


@pytest.mark.kernels
async def test_inserted_call_runs_the_kernel_and_else_the_reference(
    session: Session, folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    import torch

    code = CODE.replace("return out", "return out.fill_(7)")
    folder.known(PASSED, code)
    (folder.path / "scale_c.py").write_text(folder.text(code), encoding="utf-8")
    await session.start(PREVIEWS)
    session.open(folder.text(code), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    (change,) = answer["result"]["edit"]["documentChanges"]
    monkeypatch.syspath_prepend(str(folder.path))
    monkeypatch.delitem(sys.modules, "scale_c", raising=False)
    space: dict = {}
    exec(applied(REFERENCE, change["edits"]), space)
    assert space["scale"](torch.ones(3)).tolist() == [7.0, 7.0, 7.0]
    assert space["scale"](torch.ones(3, 1)).tolist() == [[2.0], [2.0], [2.0]]
    assert space["scale"](torch.ones(3, dtype=torch.float64)).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("checks", "why"), [(WRONG, "failed"), (PASSED[:3], "not verified"), ((), "not verified")]
)
async def test_insert_is_refused_without_evidence(session: Session, folder: Folder, checks, why):
    if checks:
        folder.known(checks)
    await session.start(PREVIEWS)
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert why in answer["error"]["message"]
    assert not [m for m in session.messages if m.get("method") == "workspace/applyEdit"]


async def test_insert_that_the_user_discards_is_no_error(session: Session, folder: Folder):
    folder.known(PASSED)
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": False}
    await session.start(PREVIEWS)
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert answer["result"]["success"] is False


async def test_editor_that_cannot_apply_edits_is_told(session: Session, folder: Folder):
    folder.known(PASSED)
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": False}
    await session.start()
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    assert answer["error"]["message"] == "This editor cannot apply edits."


async def test_insert_in_a_package_imports_relatively(session: Session, folder: Folder):
    folder.known(PASSED)
    (folder.path / "__init__.py").touch()
    await session.start()
    session.open(folder.text(), folder.kernel)
    answer = await session.command("midspan.kernel.insert", {"uri": folder.kernel})
    ((edit,),) = answer["result"]["edit"]["changes"].values()
    assert "from .scale_c import scale as scale_c" in edit["newText"]
    assert ast.parse(applied(REFERENCE, [edit]))


@pytest.mark.parametrize(
    "command", ["resample", "repair", "verify", "evidence", "counterexample", "insert"]
)
async def test_commands_of_kernel_files_refuse_what_is_none(
    session: Session, folder: Folder, command: str
):
    await session.start()
    session.open(REFERENCE, folder.reference)
    session.open(folder.text(), "file:///w/.env")
    name = f"midspan.kernel.{command}"
    for wrong in (None, 5, {}, {"uri": 5}):
        assert (await session.command(name, wrong))["error"]["code"] == -32602
    errors = [
        (await session.command(name, {"uri": uri}))["error"]["message"]
        for uri in (folder.reference, folder.kernel, "file:///w/.env")
    ]
    assert "no kernel of midspan's" in errors[0]
    assert "not opened" in errors[1]
    assert "not shown to a model" in errors[2]
