"""What can be done with a kernel file: verified again, repaired, replaced, explained, called.

Rule: a kernel is called only with evidence for this very text and this very reference; the file is
changed only if it is still the one that was looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from backends.errors import BadRequest
from lsp_server import status, workspace_edits
from lsp_server.documents import Document
from lsp_server.features import kernel_documents
from lsp_server.features.kernel_answers import (
    Json,
    evidence_json,
    failure_text,
    outcome_json,
    steps_text,
)
from lsp_server.features.kernel_documents import KernelFile
from lsp_server.features.kernel_generation import PATIENCE_S, allowed, offer, preview
from lsp_server.features.kernel_jobs import generated, job, verified
from lsp_server.kernels import cases, files, inputs, insertion
from lsp_server.kernels import evidence as evidences
from lsp_server.kernels.task import Attempt, Outcome, Task
from lsp_server.protocol import CONTENT_MODIFIED

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer


async def resample(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Look for another kernel, and put it in the place of the one in the file."""
    return await _again(ls, params, "Looking for another {} kernel of {}", resample=True)


async def repair(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Have the kernel in the file mended by what is wrong with it."""
    return await _again(ls, params, "Repairing the {} kernel of {}", resample=False)


async def _again(
    ls: MidspanServer, params: types.ExecuteCommandParams, title: str, *, resample: bool
) -> Json:
    kernel, task = _kernel(ls, params)
    revision = kernel.document.revision
    async with job(ls, kernel.document.uri, task, title, params.work_done_token) as report:
        found = kernel.evidence
        if found is None and not resample:  # what is wrong with it is what it is repaired by
            found = await verified(ls, kernel.candidate, task, report)
            ls.kernel_files.look(kernel.document.uri)
        if found is not None and found.failure is None and not resample:
            said = evidences.statement(found)
            raise BadRequest(f"There is nothing to repair in {task.name}: {said}.")
        known = () if found is None else (Attempt(kernel.candidate, found),)
        outcome = await generated(ls, task, report, known, resample=resample)
    document = ls.documents.get(kernel.document.uri)
    if document is None or document.revision != revision:
        raise JsonRpcException(f"{status.MOVED_ON}; nothing was changed", code=CONTENT_MODIFIED)
    ls.kernel_files.look(document.uri)
    text = _replacement(kernel, task, outcome)
    edit = None if text is None else _replacing(ls, document, text, task, outcome)
    applied = await offer(ls, outcome, edit, f"{task.name}: another kernel")
    return {
        **outcome_json(outcome),
        "name": Path(document.path).stem,
        "shapes": inputs.shown(task.parameters),
        "files": [] if text is None else [{"uri": document.uri, "text": text}],
        "edit": edit,
        "applied": applied,
    }


def _replacement(kernel: KernelFile, task: Task, outcome: Outcome) -> str | None:
    """The file with the kernel that was found; None where that is the one it has."""
    best = outcome.best
    if best is None or files.canonical(best.candidate.code) == kernel.code:
        return None
    marker = kernel.marker
    return files.kernel_text(task, best.candidate, marker.reference, marker.shapes)


def _replacing(
    ls: MidspanServer, document: Document, text: str, task: Task, outcome: Outcome
) -> types.WorkspaceEdit:
    shown = preview(f"{task.name}: another kernel", outcome)
    text = text.replace("\n", document.line_ending)
    new = workspace_edits.text_edit(document, 0, len(document.text), text)
    return workspace_edits.changed(ls.client, document.uri, document.version, [new], shown)


async def verify(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Verify the kernel as it stands in its file."""
    kernel, task = _kernel(ls, params)
    title = "Verifying the {} kernel of {}"
    async with job(ls, kernel.document.uri, task, title, params.work_done_token) as report:
        found = await verified(ls, kernel.candidate, task, report)
    ls.kernel_files.look(kernel.document.uri)
    return {
        "success": found.verified,
        "name": task.name,
        "statement": evidences.statement(found),
        "evidence": evidence_json(found),
    }


async def evidence(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Say what is known of a kernel, step by step."""
    kernel, task = _kernel(ls, params)
    found = kernel.evidence
    message = f"{task.name}: {kernel.statement}"
    if found is not None:
        message += f"\n{steps_text(found)}"
    _show(ls, params, message)
    return {
        "statement": kernel.statement,
        "evidence": None if found is None else evidence_json(found),
        "message": message,
    }


async def counterexample(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Say why a kernel is wrong, and for which arguments."""
    kernel, task = _kernel(ls, params)
    failure = kernel.evidence.failure if kernel.evidence else None
    if failure is None:
        raise BadRequest(f"No counterexample is known for {task.name}: {kernel.statement}.")
    message = f"{task.name}: {failure_text(failure)}"
    _show(ls, params, message)
    return {
        "counterexample": failure.counterexample,
        "reason": failure.reason,
        "line": files.line_in_file(kernel.document.text, failure.line) if failure.line else 0,
        "message": message,
    }


async def insert(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Have the reference call its verified kernel, for what that was verified for."""
    kernel, task = _kernel(ls, params)
    document = kernel.reference
    if document is None or not kernel.verified:
        raise BadRequest(
            f"{task.name} calls only a kernel that is verified. This one: {kernel.statement}."
        )
    module = Path(kernel.document.path).stem
    if not module.isidentifier():
        raise BadRequest(f"{module} cannot be imported by this name. Give the file another one.")
    in_package = kernel_documents.in_package(kernel.document)
    found = insertion.insert(document.text, task, module, cases.dtypes(task), in_package=in_package)
    edits = [_of_insertion(document, edit) for edit in found]
    shown = types.ChangeAnnotation(
        f"{task.name} calls {module}", needs_confirmation=True, description=kernel.statement
    )
    is_open = ls.documents.get(document.uri) is document
    version = document.version if is_open else None
    edit = workspace_edits.changed(ls.client, document.uri, version, edits, shown)
    applied = await workspace_edits.is_applied(ls, edit, shown.label, PATIENCE_S)
    return {"success": applied, "name": task.name, "edit": edit}


def _of_insertion(document: Document, edit: insertion.Edit) -> types.TextEdit:
    """An edit of `insertion` as the client's, with the document's line ends."""
    line = edit.line - 1
    first = last = len(document.text)
    if line < document.line_count:
        start = document.line_bounds(line)[0]
        first, last = start + edit.column, start + max(edit.end_column, edit.column)
    text = edit.text.replace("\n", document.line_ending)
    return workspace_edits.text_edit(document, first, last, text)


def _kernel(ls: MidspanServer, params: types.ExecuteCommandParams) -> tuple[KernelFile, Task]:
    """The kernel file that a command is about. Raises JsonRpcException, BadRequest."""
    uri = _argument(params).get("uri")
    if not isinstance(uri, str):
        raise JsonRpcInvalidParams(f"{params.command} needs the uri of a kernel file.")
    kernel = kernel_documents.read(ls, allowed(ls, uri))
    if kernel is None:
        raise BadRequest("This file is no kernel of midspan's: the comment that says so is gone.")
    if kernel.task is None:
        raise BadRequest(kernel.problem)
    return kernel, kernel.task


def _argument(params: types.ExecuteCommandParams) -> dict[str, Any]:
    raw: Any = (params.arguments or [None])[0]
    return raw if isinstance(raw, dict) else {}


def _show(ls: MidspanServer, params: types.ExecuteCommandParams, message: str) -> None:
    if not _argument(params).get("quiet"):
        ls.window_show_message(types.ShowMessageParams(types.MessageType.Info, message))
