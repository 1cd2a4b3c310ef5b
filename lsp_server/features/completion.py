"""`textDocument/completion`: the suggestion in the popup, for editors without ghost text.

Rule: one entry, last in the list, that the editor's filter lets through while it is typed.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from lsprotocol import types

from lsp_server import status
from lsp_server.documents import Document
from lsp_server.features.commands import accepted_command
from lsp_server.protocol import place_of, position_of
from lsp_server.snapshot import refusal, switched_off, take
from lsp_server.suggest import suggest, while_typing

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

TRIGGERS = (".", "(", "[", "{", ",", "=", ":", " ")
LAST = "\uffff"  # sorts behind what language servers know for certain
_WORD = re.compile(r"\w*\Z")


async def completion(ls: MidspanServer, params: types.CompletionParams) -> types.CompletionList:
    """Answer with one entry, or none; always to be asked again on the next key."""
    asked = time.monotonic()
    if not ls.popup_wanted:
        return types.CompletionList(is_incomplete=False, items=[])
    document = ls.documents.get(params.text_document.uri)
    if document is None:
        return _nothing(ls, status.NOT_OPEN)
    if reason := refusal(document) or switched_off(document, ls.settings, ls.toggles):
        return _nothing(ls, reason)
    cursor = document.offset(place_of(params.position))
    snapshot = take(document, cursor)
    by_key = params.context is not None and (
        params.context.trigger_kind == types.CompletionTriggerKind.Invoked
    )
    text = await suggest(ls, snapshot, while_typing(ls, snapshot, automatic=not by_key))
    if not text:
        return types.CompletionList(is_incomplete=True, items=[])
    latency_ms = 1000 * (time.monotonic() - asked)
    item = _item(document, cursor, text, ls.status.current.model)
    (item_id,) = ls.offers.made(document, cursor, [text], latency_ms=latency_ms)
    item.command = accepted_command(item_id)
    return types.CompletionList(is_incomplete=True, items=[item])


def _item(document: Document, cursor: int, text: str, model: str) -> types.CompletionItem:
    # Editors match the word before the cursor against `filterText`, from the range's start on.
    line_start, _ = document.line_bounds(document.line_of(cursor))
    found = _WORD.search(document.text, line_start, cursor)
    start = found.start() if found else cursor
    whole = document.text[start:cursor] + text
    lines = whole.strip().splitlines() or [whole]
    return types.CompletionItem(
        label=lines[0].strip() + (" …" if len(lines) > 1 else ""),
        kind=types.CompletionItemKind.Text,
        detail=f"midspan: {model}",
        sort_text=LAST,
        filter_text=whole,
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(
            range=types.Range(
                position_of(document.place(start)), position_of(document.place(cursor))
            ),
            new_text=whole,
        ),
    )


def _nothing(ls: MidspanServer, reason: str) -> types.CompletionList:
    ls.status.none(reason)
    return types.CompletionList(is_incomplete=True, items=[])


def register(ls: MidspanServer) -> None:
    """Add the feature; `initialize` withdraws it where it is not wanted."""
    options = types.CompletionOptions(trigger_characters=list(TRIGGERS))
    ls.feature(types.TEXT_DOCUMENT_COMPLETION, options)(completion)
