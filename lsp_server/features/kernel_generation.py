"""Kernels are generated from a PyTorch function, and written beside it with their tests.

Rule: what is written is an edit that the client applies, the user confirms and can undo; a file
that has another text is never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from backends.errors import BadRequest
from lsp_server import status, workspace_edits
from lsp_server.documents import Document
from lsp_server.features.kernel_answers import Json, outcome_json
from lsp_server.features.kernel_documents import sibling
from lsp_server.features.kernel_jobs import generated, job
from lsp_server.kernels import evidence as evidences
from lsp_server.kernels import files, inputs, reference, test_source
from lsp_server.kernels.task import Attempt, Language, Outcome, Task
from lsp_server.protocol import CONTENT_MODIFIED, REQUEST_FAILED
from lsp_server.snapshot import refusal

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

PATIENCE_S = 600.0  # for a person to look at a preview or a question
MAX_NAMES = 20  # how often another name is tried where a file is in the way
SHOW_BEST = "Show the best attempt"
_NO_TEXT = "\0"  # something is there that is not ours


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The function around a line (from 0) of a document."""

    document: Document
    line: int
    language: Language
    shapes: str

    def task(self) -> Task:
        """What is to be made. Raises BadRequest."""
        document = self.document
        return reference.task(
            document.text, self.line + 1, self.language, self.shapes, document.path
        )


async def generate(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Generate a kernel and its test; change nothing. Answers with both, and the edit."""
    answer, _ = await _generate(ls, params)
    return answer


async def run(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Generate a kernel and its test, and have the client write them.

    Where no attempt was right, the user is asked before anything is written.
    """
    answer, outcome = await _generate(ls, params)
    if outcome.success and answer["edit"] is None:
        said = f"{answer['name']}.py is there already, with the same kernel: {answer['statement']}"
        ls.window_show_message(types.ShowMessageParams(types.MessageType.Info, said))
    return {**answer, "applied": await offer(ls, outcome, answer["edit"], answer["name"])}


async def shapes(ls: MidspanServer, params: types.ExecuteCommandParams) -> Json:
    """Say what a function's parameters are taken for, as people write it, and what is guessed."""
    task = _wanted(ls, params).task()
    return {
        "name": task.name,
        "shapes": inputs.shown(task.parameters),
        "guessed": any(parameter.guessed for parameter in task.parameters),
    }


async def offer(
    ls: MidspanServer, outcome: Outcome, edit: types.WorkspaceEdit | None, label: str
) -> bool:
    """Have the client apply the edit; of a kernel that is not verified only if the user says so.

    Returns whether it was applied: the user may discard it.
    """
    if not outcome.success:
        actions = [] if edit is None else [types.MessageActionItem(SHOW_BEST)]
        question = types.ShowMessageRequestParams(
            types.MessageType.Warning, outcome.message, actions
        )
        chosen = await ls.protocol.ask(types.WINDOW_SHOW_MESSAGE_REQUEST, question, PATIENCE_S)
        if not (isinstance(chosen, dict) and chosen.get("title") == SHOW_BEST):
            return False
    return edit is not None and await workspace_edits.is_applied(ls, edit, label, PATIENCE_S)


def preview(label: str, outcome: Outcome) -> types.ChangeAnnotation:
    """Return what the client shows of an edit, before the user confirms it."""
    best = outcome.best
    told = outcome.message if best is None else evidences.statement(best.evidence)
    return types.ChangeAnnotation(label, needs_confirmation=True, description=told)


def allowed(ls: MidspanServer, uri: str) -> Document:
    """Return the open document, if something may be made of it. Raises JsonRpcException."""
    document = ls.documents.get(uri)
    reason = status.NOT_OPEN if document is None else refusal(document)
    if document is None or reason:
        raise JsonRpcException(f"No kernel was made: {reason}.", code=REQUEST_FAILED)
    return document


def _wanted(ls: MidspanServer, params: types.ExecuteCommandParams) -> _Wanted:
    raw: Any = (params.arguments or [None])[0]
    try:
        uri, line = str(raw["uri"]), int(raw["line"])
        language = Language(raw.get("language") or Language.TRITON)
        said, revision = raw.get("shapes") or "", raw.get("revision")
    except (TypeError, KeyError, ValueError, AttributeError) as exc:
        raise JsonRpcInvalidParams(f"{params.command} needs a uri, a line and a language.") from exc
    if not isinstance(said, str):
        raise JsonRpcInvalidParams('The shapes are a text, such as "x: (N, 128) float16".')
    document = allowed(ls, uri)
    if revision is not None and revision != document.revision:
        raise JsonRpcException(f"{status.MOVED_ON}; choose it again", code=CONTENT_MODIFIED)
    return _Wanted(document, line, language, said)


async def _generate(ls: MidspanServer, params: types.ExecuteCommandParams) -> tuple[Json, Outcome]:
    wanted = _wanted(ls, params)
    document, task = wanted.document, wanted.task()
    if not document.uri.startswith("file:"):
        raise BadRequest(
            "The kernel is written beside the function's file: save it as a Python file first."
        )
    title = "Generating a {} kernel of {}"
    async with job(ls, document.uri, task, title, params.work_done_token) as report:
        outcome = await generated(ls, task, report)
    name: str = ""
    texts: Mapping[str, str] = {}
    if outcome.best is not None:
        name, texts = _texts(ls, document, task, outcome.best, wanted.shapes)
    shown = preview(f"{task.name}: kernel and test", outcome)
    answer = {
        **outcome_json(outcome),
        "name": name,
        "shapes": inputs.shown(task.parameters),
        "files": [{"uri": uri, "text": text} for uri, text in texts.items()],
        "edit": workspace_edits.created(ls.client, texts, shown) if texts else None,
    }
    return answer, outcome


def _texts(
    ls: MidspanServer, document: Document, task: Task, best: Attempt, shapes: str
) -> tuple[str, Mapping[str, str]]:
    """The kernel's module, and the files that are to be written, by URI.

    One that is there with the same text is not written. Raises BadRequest where every name is
    taken.
    """
    beside = os.path.basename(document.path)
    kernel = files.kernel_text(task, best.candidate, beside, shapes)
    for number in range(1, MAX_NAMES + 1):
        module = files.module_name(task.name, task.language, number)
        texts = {
            module: kernel,
            files.test_module_name(module): test_source.write(task, module, best.candidate.code),
        }
        there = {name: _there(ls, document, f"{name}.py") for name in texts}
        if all(there[name] in (None, text) for name, text in texts.items()):
            return module, {
                sibling(document.uri, f"{name}.py"): text
                for name, text in texts.items()
                if there[name] is None
            }
    raise BadRequest(
        f"There are {MAX_NAMES} kernels of {task.name} in this folder already. Remove some."
    )


def _there(ls: MidspanServer, document: Document, name: str) -> str | None:
    r"""The text of a file in the document's folder, with `\n`; None if there is no such file."""
    opened = ls.documents.get(sibling(document.uri, name))
    if opened is not None:
        return opened.text.replace("\r\n", "\n")
    path = Path(document.path).with_name(name)
    try:
        if not path.is_file():
            return _NO_TEXT if os.path.lexists(path) else None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return _NO_TEXT
