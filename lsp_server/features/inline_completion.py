"""`textDocument/inlineCompletion`: ghost text. The way of one keystroke begins and ends here.

    request → document → snapshot of the gap → suggest (manager, model, tidy) → item

Rule: answers with a list, never null and never an error while typing.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server import status
from lsp_server.documents import Document
from lsp_server.features.commands import accepted_command
from lsp_server.protocol import place_of, position_of
from lsp_server.snapshot import refusal, switched_off, take
from lsp_server.suggest import alternatives, suggest, while_typing

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

INVOKED, AUTOMATIC = 1, 2
DRAWS_FOR_ONE = 3  # at most, for a further suggestion: draws repeat one another
MIN_FURTHER_MS = 300  # for all further suggestions, where the first one was quick


async def inline_completion(
    ls: MidspanServer, params: types.InlineCompletionParams
) -> types.InlineCompletionList:
    """Answer one keystroke."""
    asked = time.monotonic()
    ls.inline_seen = True
    automatic = params.context.trigger_kind == AUTOMATIC
    document = ls.documents.get(params.text_document.uri)
    if document is None:
        return _nothing(ls, status.NOT_OPEN)
    # Clients of Copilot's dialect say which version they ask about.
    if getattr(params.text_document, "version", document.version) != document.version:
        return _nothing(ls, status.MOVED_ON)
    if reason := refusal(document) or switched_off(document, ls.settings, ls.toggles):
        return _nothing(ls, reason)
    start, end, chosen = _gap(document, params)
    snapshot = take(document, start, end, lead=chosen)
    ask = while_typing(ls, snapshot, automatic=automatic)
    text = await suggest(ls, snapshot, ask)
    if not text:
        return types.InlineCompletionList(items=[])
    took_ms = 1000 * (time.monotonic() - asked)
    texts = [text]
    if not automatic:
        # As long again at most: the first one waits for the others.
        time_left = max(round(took_ms), MIN_FURTHER_MS)
        await alternatives(
            ls,
            snapshot,
            replace(ask, deadline_ms=time_left),
            known=texts,
            wanted=ls.settings.alternatives,
            draws=DRAWS_FOR_ONE * ls.settings.alternatives,
            give=texts.append,
        )
        if document.revision != snapshot.revision:
            return _nothing(ls, status.MOVED_ON)
    ids = ls.offers.made(document, start + len(chosen), texts, lead=chosen, latency_ms=took_ms)
    return types.InlineCompletionList(
        items=[
            item(document, start, end, chosen + text, item_id)
            for text, item_id in zip(texts, ids, strict=True)
        ]
    )


def _gap(document: Document, params: types.InlineCompletionParams) -> tuple[int, int, str]:
    """The offsets that the suggestion replaces, and the text it must begin with.

    With an entry of the popup chosen, that is the entry's range and text; else the cursor alone.
    """
    cursor = document.offset(place_of(params.position))
    chosen = params.context.selected_completion_info
    if chosen is not None:
        start = document.offset(place_of(chosen.range.start))
        end = document.offset(place_of(chosen.range.end))
        if start <= cursor <= end and document.line_of(start) == document.line_of(end):
            return start, end, chosen.text
    return cursor, cursor, ""


def item(
    document: Document, start: int, end: int, text: str, item_id: str
) -> types.InlineCompletionItem:
    """Return the item that puts `text` between two offsets of one line."""
    return types.InlineCompletionItem(
        insert_text=text,
        range=types.Range(position_of(document.place(start)), position_of(document.place(end))),
        command=accepted_command(item_id),
    )


def _nothing(ls: MidspanServer, reason: str) -> types.InlineCompletionList:
    ls.status.none(reason)
    return types.InlineCompletionList(items=[])


def tolerate_trigger_kinds() -> Any:
    """Make a toleration for clients that number from 0 (languageclient 9), or send no context.

    They send 0 for "invoked" and 1 for "automatic", where 1 is LSP's "invoked": a 0 gives them
    away, and from then on their 1 is understood.
    """
    from_zero = False

    def tolerate(params: dict[str, Any]) -> None:
        nonlocal from_zero
        context = params.setdefault("context", {})
        kind = context.get("triggerKind")
        from_zero = from_zero or kind == 0
        if from_zero and kind in (0, 1):
            context["triggerKind"] = kind + 1
        elif kind not in (INVOKED, AUTOMATIC):
            context["triggerKind"] = INVOKED

    return tolerate


def register(ls: MidspanServer) -> None:
    """Add the feature, with options: without them pygls would not advertise it."""
    method = types.TEXT_DOCUMENT_INLINE_COMPLETION
    ls.protocol.tolerations[method] = tolerate_trigger_kinds()
    ls.feature(method, types.InlineCompletionOptions())(inline_completion)
