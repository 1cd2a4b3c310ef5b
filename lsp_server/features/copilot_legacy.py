"""Copilot's dialect as it was before LSP had inline completion, and as some clients still speak it.

Requests of their own in place of `textDocument/inlineCompletion`; answers are the same suggestions
in other words.

Rule: translates, and decides nothing of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server.features.copilot import PANEL_DRAWS, at, fill_panel, locate
from lsp_server.features.inline_completion import AUTOMATIC, INVOKED, inline_completion
from lsp_server.protocol import position_of

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

MAX_SCORE = 1000  # of a panel's first suggestion; each further one has one less


async def get_completions(kind: int, ls: MidspanServer, params: Any) -> dict[str, Any]:
    """`{doc: {uri, version, position}}`: `{completions: [{uuid, text, displayText, range}]}`."""
    _know(ls)
    doc = at(params, "doc")
    located = locate(ls, doc, at(doc, "position"))
    if located is None:
        return {"completions": []}
    document, offset = located
    version = document.version
    answer = await inline_completion(
        ls,
        types.InlineCompletionParams(
            text_document=types.TextDocumentIdentifier(document.uri),
            position=position_of(document.place(offset)),
            context=types.InlineCompletionContext(types.InlineCompletionTriggerKind(kind)),
        ),
    )
    line_start, _ = document.line_bounds(document.line_of(offset))
    before = document.text[line_start:offset]
    return {"completions": [_completion(item, before, version) for item in answer.items]}


def _completion(item: types.InlineCompletionItem, before: str, version: int) -> dict[str, Any]:
    """Say it as these clients reckon: `text` replaces the line from its start to the cursor.

    copilot.el of before 2026 shows only what has its document's version.
    """
    cursor = _range(item)["end"]
    return {
        "uuid": _uuid(item),
        "text": f"{before}{item.insert_text}",
        "displayText": item.insert_text,
        "range": {"start": {**cursor, "character": 0}, "end": cursor},
        "position": cursor,
        "docVersion": version,
    }


async def get_panel_completions(ls: MidspanServer, params: Any) -> dict[str, Any]:
    """`{doc, panelId}`: how many there may be; each follows as a notification, and the end."""
    _know(ls)
    doc, panel_id = at(params, "doc"), at(params, "panelId")
    located = locate(ls, doc, at(doc, "position"))
    if located is None:
        return {"solutionCountTarget": 0}
    given = 0

    def give(item: types.InlineCompletionItem) -> None:
        nonlocal given
        solution = {
            "panelId": panel_id,
            "solutionId": _uuid(item),
            "completionText": item.insert_text,
            "displayText": item.insert_text,
            "range": _range(item),
            "score": MAX_SCORE - given,
        }
        given += 1
        ls.protocol.notify("PanelSolution", solution)

    async def fill() -> None:
        try:
            await fill_panel(ls, *located, give)
        finally:
            ls.protocol.notify("PanelSolutionsDone", {"panelId": panel_id, "status": "OK"})

    ls.in_background(fill())
    return {"solutionCountTarget": 1 + PANEL_DRAWS}


async def notify_shown(ls: MidspanServer, params: Any) -> str:
    """`{uuid}`."""
    ls.offers.shown(at(params, "uuid"))
    return "OK"


async def notify_accepted(ls: MidspanServer, params: Any) -> str:
    """`{uuid, acceptedLength?}`: all of it, or so many UTF-16 units."""
    ls.offers.accepted(at(params, "uuid"), at(params, "acceptedLength"))
    return "OK"


async def notify_rejected(ls: MidspanServer, params: Any) -> str:
    """`{uuids}`: what was not accepted is not counted anyway."""
    return "OK"


def _know(ls: MidspanServer) -> None:
    """From now on the status goes to this client in the words that it knows."""
    if not ls.legacy_status:
        ls.legacy_status = True
        ls.send_status(ls.status.current)


def _uuid(item: types.InlineCompletionItem) -> Any:
    assert item.command is not None
    return (item.command.arguments or [""])[0]


def _range(item: types.InlineCompletionItem) -> dict[str, Any]:
    assert item.range is not None
    return {
        end: {"line": place.line, "character": place.character}
        for end, place in (("start", item.range.start), ("end", item.range.end))
    }


def register(ls: MidspanServer) -> None:
    """Add the requests."""
    ls.feature("getCompletions")(partial(get_completions, AUTOMATIC))
    ls.feature("getCompletionsCycling")(partial(get_completions, INVOKED))
    ls.feature("getPanelCompletions")(get_panel_completions)
    ls.feature("notifyShown")(notify_shown)
    ls.feature("notifyAccepted")(notify_accepted)
    ls.feature("notifyRejected")(notify_rejected)
