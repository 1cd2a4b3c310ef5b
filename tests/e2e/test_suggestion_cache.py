"""Typing through suggestions with the real processes: what reaches the manager is counted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lsprotocol import types

from lsp_server.protocol import position_of
from tests.e2e.conftest import PATIENCE, Buffer, Editor
from tests.e2e.test_lsp_editor import PATTERN

pytestmark = pytest.mark.engine

TABLE = """\
NAMES = {
    "a": 1,
    "b": 2,
    "c": 3,
    "d": 4,
    ▌
}
"""
QUIET = {"prefetch": False}


async def stats(editor: Editor) -> dict[str, int]:
    counts = (await editor.command("midspan.status"))["stats"]
    assert isinstance(counts, dict)
    return counts


def configure(editor: Editor, **settings: object) -> None:
    editor.client.workspace_did_change_configuration(
        types.DidChangeConfigurationParams(settings={"midspan": settings})
    )


async def evaluated(editor: Editor) -> int:
    """Requests that the manager answered, asked for by a key or ahead of one."""
    counts = await stats(editor)
    return counts["evaluated"] + counts["ahead"]


def text_of(items: list[types.InlineCompletionItem]) -> str:
    (item,) = items
    assert isinstance(item.insert_text, str)
    return item.insert_text


async def shown(editor: Editor, **settings: object) -> tuple[Buffer, str]:
    """A document with a suggestion of some length at its cursor."""
    configure(editor, **settings)
    buffer = editor.open(PATTERN)
    buffer.type("re")
    text = text_of(await buffer.ghost_soon())
    assert len(text) >= 4, "too short to type through"
    return buffer, text


def reopen(editor: Editor, buffer: Buffer) -> Buffer:
    """Close a document and open it again with the same text and cursor."""
    text, at = buffer.document.text, buffer.cursor
    editor.client.text_document_did_close(
        types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(buffer.document.uri))
    )
    return editor.open(text[:at] + "▌" + text[at:])


async def until(what: Callable[[dict[str, int]], bool], editor: Editor) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what(await stats(editor)):
            await asyncio.sleep(0.05)


async def test_typing_through_and_back_reaches_no_manager(editor: Editor):
    buffer, text = await shown(editor, **QUIET)
    before = await evaluated(editor)
    half = len(text.rstrip()) // 2
    for typed in range(1, half + 1):
        buffer.type(text[typed - 1])
        assert text_of(await buffer.ghost()) == text[typed:]
    for typed in range(half - 1, -1, -1):
        buffer.backspace()
        assert text_of(await buffer.ghost()) == text[typed:]
    assert await evaluated(editor) == before
    counts = await stats(editor)
    assert (counts["typedThrough"], counts["deletedBack"]) == (half, half)


async def test_word_accepted_leaves_the_rest(editor: Editor):
    buffer, text = await shown(editor, **QUIET)
    before = await evaluated(editor)
    word = text.index(" ") + 1
    buffer.type(text[:word])
    assert text_of(await buffer.ghost()) == text[word:]
    assert await evaluated(editor) == before


async def test_next_suggestion_after_an_accept_was_fetched_ahead(editor: Editor):
    configure(editor, multiline="never")
    buffer = editor.open(TABLE)
    items = await buffer.ghost_soon()
    await until(lambda counts: counts["ahead"] >= 2, editor)
    before = (await stats(editor))["evaluated"]
    buffer.accept(items[0])
    buffer.type("\n    ")
    assert await buffer.ghost()
    counts = await stats(editor)
    assert (counts["prefetched"], counts["evaluated"]) == (1, before)


def places(items):
    """Items without their ids, which are new ones with each answer."""
    return [(item.insert_text, item.range) for item in items]


async def test_typing_cancels_what_is_fetched_ahead_and_gets_its_own(editor: Editor):
    buffer, _ = await shown(editor)
    items = []
    for key in "x = first\n    ret":
        await asyncio.sleep(0.03)
        buffer.type(key)
        items = await buffer.ghost()
    again = reopen(editor, buffer)
    assert places(await again.ghost()) == places(items)
    assert items


async def test_key_where_the_cursor_had_moved_to_evaluates_little(editor: Editor):
    functions = "".join(PATTERN.replace("▌", f"return {number}\n\n\n") for number in range(6))
    buffer = editor.open(functions + PATTERN)
    position = position_of(buffer.document.place(buffer.cursor))
    await editor.client.text_document_code_action_async(
        types.CodeActionParams(
            text_document=types.TextDocumentIdentifier(buffer.document.uri),
            range=types.Range(position, position),
            context=types.CodeActionContext(
                diagnostics=[], trigger_kind=types.CodeActionTriggerKind.Automatic
            ),
        )
    )
    await until(lambda counts: counts["warm"] == 1, editor)
    warm = await stats(editor)
    buffer.type("r")
    await buffer.ghost()
    counts = await stats(editor)
    assert counts["evaluated"] == 1
    assert counts["evaluatedTokens"] <= 8 < 100 < warm["warmTokens"]


async def test_another_model_does_not_answer_with_the_olds_text(editor: Editor, tiny_model: Path):
    shutil.copy(tiny_model, editor.env["MIDSPAN_MODELS_DIR"])
    buffer, _ = await shown(editor, **QUIET)
    before = await evaluated(editor)
    await editor.command("midspan.selectModel", tiny_model.stem)
    await buffer.ghost()
    assert await evaluated(editor) == before + 1
    await editor.command("midspan.selectModel", "starter")


async def test_closed_document_is_forgotten(editor: Editor):
    buffer, text = await shown(editor, **QUIET)
    before = await evaluated(editor)
    assert text_of(await reopen(editor, buffer).ghost()) == text
    assert await evaluated(editor) == before + 1
