"""`textDocument/inlineCompletion`: ghost text. The way of one keystroke begins and ends here.

    request → document → snapshot of the gap → suggest (manager, model, tidy) → item

Rule: answers with a list, never null and never an error while typing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server import status
from lsp_server.documents import Document
from lsp_server.features.commands import DID_ACCEPT
from lsp_server.protocol import place_of, position_of
from lsp_server.snapshot import refusal, switched_off, take
from lsp_server.suggest import suggest, while_typing

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

INVOKED, AUTOMATIC = 1, 2
# Copilot's dialect: the client tells what it showed and how much of it was accepted.
DID_FOCUS = "textDocument/didFocus"
SILENTLY_ACCEPTED = (
    "textDocument/didShowCompletion",
    "textDocument/didPartiallyAcceptCompletion",
)


async def inline_completion(
    ls: MidspanServer, params: types.InlineCompletionParams
) -> types.InlineCompletionList:
    """Answer one keystroke."""
    ls.inline_seen = True
    automatic = params.context.trigger_kind == AUTOMATIC
    document = ls.documents.get(params.text_document.uri)
    if document is None:
        return _nothing(ls, status.NOT_OPEN)
    if reason := refusal(document) or switched_off(document, ls.settings, ls.toggles):
        return _nothing(ls, reason)
    start, end, chosen = _gap(document, params)
    snapshot = take(document, start, end, lead=chosen)
    text = await suggest(ls, snapshot, while_typing(ls, snapshot, automatic=automatic))
    if not text:
        return types.InlineCompletionList(items=[])
    return types.InlineCompletionList(items=[_item(document, start, end, chosen + text)])


async def did_focus(ls: MidspanServer, params: Any) -> None:
    """Make ready the document that the user turned to."""
    try:
        uri = str(params["textDocument"]["uri"])
    except (TypeError, KeyError):
        return  # the focus is on no document
    document = ls.documents.get(uri)
    if document is not None:
        ls.idle.focused(document)


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


def _item(document: Document, start: int, end: int, text: str) -> types.InlineCompletionItem:
    return types.InlineCompletionItem(
        insert_text=text,
        range=types.Range(position_of(document.place(start)), position_of(document.place(end))),
        command=types.Command(title="Accepted", command=DID_ACCEPT, arguments=[document.uri]),
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
    ls.feature(DID_FOCUS)(did_focus)
    for notification in SILENTLY_ACCEPTED:

        @ls.feature(notification)
        async def accept(ls: MidspanServer, params: object) -> None:
            """Nothing is done with it."""
