"""A person at an editor, with the real language server, manager, worker and starter model."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest
from lsprotocol import types

from lsp_server.documents import Change
from lsp_server.protocol import place_of, position_of
from tests.e2e.conftest import PATIENCE, Editor

pytestmark = pytest.mark.engine

PATTERN = """\
def add(first, second):
    return first + second


def subtract(first, second):
    return first - second


def multiply(first, second):
    ▌
"""


async def test_open_type_accept_and_get_the_next(editor: Editor):
    buffer = editor.open(PATTERN)
    for key in "retu":
        buffer.type(key)
    (item,) = await buffer.ghost_soon()
    before = buffer.document.text
    buffer.accept(item)
    assert len(buffer.document.text) > len(before)
    compile(buffer.document.text, "new.py", "exec")
    buffer.type("\n\n\ndef divide(first, second):\n    re")
    (following,) = await buffer.ghost_soon()
    assert following.insert_text


async def test_second_request_at_the_same_place_answers_the_same(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    first = await buffer.ghost_soon()
    second = await buffer.ghost()
    assert [item.insert_text for item in first] == [item.insert_text for item in second]


async def test_model_is_switched_by_command_while_typing(editor: Editor, tiny_model: Path):
    shutil.copy(tiny_model, editor.env["MIDSPAN_MODELS_DIR"])
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    names = [row["name"] for row in (await editor.command("midspan.listModels"))["models"]]
    assert {"starter", tiny_model.stem} <= set(names)
    selected = await editor.command("midspan.selectModel", tiny_model.stem)
    assert (selected["name"], selected["state"]) == (tiny_model.stem, "ready")
    await buffer.ghost()  # random weights: anything, or nothing, but an answer
    assert (await editor.command("midspan.status"))["model"] == tiny_model.stem
    assert (await editor.command("midspan.selectModel", "starter"))["name"] == "starter"
    await buffer.ghost_soon()


async def test_unknown_model_is_a_clear_error_and_changes_nothing(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    with pytest.raises(Exception, match="nothing-like-it"):
        await editor.command("midspan.selectModel", "nothing-like-it")
    assert (await editor.command("midspan.status"))["model"] == "starter"
    assert await buffer.ghost()


async def test_killed_worker_and_manager_are_back_for_the_next_key(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("re")
    await buffer.ghost_soon()

    worker = (await editor.model("starter"))["pid"]
    os.kill(worker, signal.SIGKILL)
    buffer = editor.open(PATTERN, "unknown.py")  # no suggestion for it is known
    buffer.type("ret")
    await buffer.ghost()  # answers, whether or not the worker is back already
    await buffer.ghost_soon()
    assert (await editor.model("starter"))["pid"] != worker

    manager = editor.manager_pid()
    os.kill(manager, signal.SIGKILL)
    buffer = editor.open(PATTERN, "unknown_too.py")
    buffer.type("ret")
    await buffer.ghost()
    await buffer.ghost_soon()
    assert editor.manager_pid() != manager


async def test_cancelled_request_is_answered_once_and_the_next_works(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    params = types.InlineCompletionParams(
        text_document=types.TextDocumentIdentifier(buffer.document.uri),
        position=position_of(buffer.document.place(0)),
        context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
    )
    protocol = editor.client.protocol
    asked = protocol.send_request("textDocument/inlineCompletion", params, msg_id="to-cancel")
    editor.client.cancel_request(types.CancelParams(id="to-cancel"))
    with pytest.raises(Exception, match="to-cancel"):
        await asyncio.wait_for(asyncio.wrap_future(asked), PATIENCE)
    assert await buffer.ghost()


async def test_suggestion_is_dropped_when_the_document_moved_on(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    buffer = editor.open(PATTERN, "unknown.py")  # no suggestion for it is known
    buffer.type("ret")
    stale = asyncio.ensure_future(buffer.request())
    await asyncio.sleep(0)  # it is sent
    buffer.type("u")
    assert not (await asyncio.wait_for(stale, PATIENCE)).items
    assert await buffer.ghost_soon()


async def test_toggle_stops_suggestions_and_brings_them_back(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    assert (await editor.command("midspan.toggle"))["enabled"] is False
    assert await buffer.ghost() == []
    assert (await editor.command("midspan.status"))["reason"] == "suggestions are switched off"
    assert (await editor.command("midspan.toggle"))["enabled"] is True
    assert await buffer.ghost()


async def test_restart_gives_a_new_worker(editor: Editor):
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    before = (await editor.model("starter"))["pid"]
    assert (await editor.command("midspan.restart"))["name"] == "starter"
    assert (await editor.model("starter"))["pid"] != before
    assert await buffer.ghost_soon()


async def test_code_action_completes_the_function_body(editor: Editor):
    below = "\n\ndef divide(first, second):\n    return first / second\n"
    buffer = editor.open(PATTERN.replace("▌", "pass▌") + below)
    position = position_of(buffer.document.place(buffer.cursor))
    actions = await editor.client.text_document_code_action_async(
        types.CodeActionParams(
            text_document=types.TextDocumentIdentifier(buffer.document.uri),
            range=types.Range(position, position),
            context=types.CodeActionContext(diagnostics=[]),
        )
    )
    action = next(a for a in actions or [] if a.title == "Complete this function body")
    assert isinstance(action, types.CodeAction)
    assert action.edit is None
    resolved = await asyncio.wait_for(editor.client.code_action_resolve_async(action), PATIENCE)
    assert resolved.edit is not None
    ((change,),) = [edit.edits for edit in resolved.edit.document_changes or []]
    buffer.document.apply(
        Change(change.new_text, place_of(change.range.start), place_of(change.range.end))
    )
    assert "pass" not in buffer.document.text
    assert buffer.document.text.endswith(below)
    compile(buffer.document.text, "new.py", "exec")


async def test_crlf_and_wide_characters_survive_an_accept(editor: Editor):
    text = PATTERN.replace("\n", "\r\n").replace("def add", "# 😀 字 é\r\ndef add")
    buffer = editor.open(text)
    buffer.type("ret")
    (item,) = await buffer.ghost_soon()
    buffer.accept(item)
    assert "\n" not in buffer.document.text.replace("\r\n", "")
    assert buffer.document.text.startswith("# 😀 字 é\r\n")
    compile(buffer.document.text.replace("\r\n", "\n"), "new.py", "exec")
