"""Copilot's dialect: what clients of Copilot's language server say beside LSP 3.18.

Events about items, the panel of several suggestions, and the questions asked at start, which are
about an account that nobody needs here. docs/copilot-dialect.md lists what is spoken.

Rule: whatever a client says here, nothing pops up and nothing fails: wrong events are ignored.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server import status
from lsp_server.documents import Document, Place
from lsp_server.features.inline_completion import item
from lsp_server.snapshot import Snapshot, refusal, switched_off, take
from lsp_server.suggest import Ask, alternatives, suggest

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

DID_FOCUS = "textDocument/didFocus"
DID_SHOW = "textDocument/didShowCompletion"
DID_ACCEPT_PART = "textDocument/didPartiallyAcceptCompletion"
PANEL = "textDocument/copilotPanelCompletion"
PANEL_DRAWS = 9  # beside the likeliest text; those that are the same show once
USER = "local"


# --- events ------------------------------------------------------------------------------------


async def did_focus(ls: MidspanServer, params: Any) -> None:
    """Make ready the document that the user turned to."""
    uri = at(params, "textDocument", "uri")
    document = ls.documents.get(uri) if isinstance(uri, str) else None
    if document is not None:
        ls.idle.focused(document)


async def did_show(ls: MidspanServer, params: Any) -> None:
    """`{item}`: it is on the screen."""
    ls.offers.shown(_item_id(params))


async def did_accept_part(ls: MidspanServer, params: Any) -> None:
    """`{item, acceptedLength}`: so many UTF-16 units of the item so far."""
    length = at(params, "acceptedLength")
    if length is not None:
        ls.offers.accepted(_item_id(params), length)


def _item_id(params: Any) -> object:
    """The id in the item's command; some clients send nothing else of the item."""
    arguments = at(params, "item", "command", "arguments")
    return arguments[0] if isinstance(arguments, list) and arguments else None


# --- the panel ---------------------------------------------------------------------------------


async def panel(ls: MidspanServer, params: Any) -> dict[str, Any]:
    """`{textDocument, position, partialResultToken?}`: several suggestions, `{items}`.

    With a token each is sent as it comes, and the answer is empty, as LSP's partial results are.
    """
    token = at(params, "partialResultToken")
    found: list[types.InlineCompletionItem] = []

    def give(one: types.InlineCompletionItem) -> None:
        if token is None:
            found.append(one)
        else:
            progress = types.ProgressParams(token, {"items": [as_json(ls, one)]})
            ls.protocol.notify(types.PROGRESS, progress)

    located = locate(ls, at(params, "textDocument"), at(params, "position"))
    if located is not None:
        await fill_panel(ls, *located, give)
    return {"items": [as_json(ls, one) for one in found]}


def locate(ls: MidspanServer, identifier: Any, position: Any) -> tuple[Document, int] | None:
    """The document and the offset that a request is about; None (and a reason) if there is none."""
    uri, version = at(identifier, "uri"), at(identifier, "version")
    line, character = at(position, "line"), at(position, "character")
    document = ls.documents.get(uri) if isinstance(uri, str) else None
    if document is None:
        ls.status.none(status.NOT_OPEN)
    elif version not in (None, document.version):
        ls.status.none(status.MOVED_ON)
    elif reason := refusal(document) or switched_off(document, ls.settings, ls.toggles):
        ls.status.none(reason)
    elif all(isinstance(n, int) and n >= 0 for n in (line, character)):
        return document, document.offset(Place(line, character))
    return None


async def fill_panel(
    ls: MidspanServer,
    document: Document,
    cursor: int,
    give: Callable[[types.InlineCompletionItem], None],
) -> None:
    """Give suggestions for the cursor, one by one; nothing once the document has changed."""
    snapshot = take(document, cursor)
    ask = Ask(
        max_tokens=ls.settings.max_tokens_action,
        single_line=False,
        deadline_ms=ls.settings.deadline_action_ms,
        by_hand=True,
    )
    first = await suggest(ls, snapshot, ask)
    if not first:
        return
    _offer(ls, document, snapshot, first, give)
    await alternatives(
        ls,
        snapshot,
        ask,
        known=[first],
        wanted=PANEL_DRAWS,
        draws=PANEL_DRAWS,
        give=lambda text: _offer(ls, document, snapshot, text, give),
    )


def _offer(
    ls: MidspanServer,
    document: Document,
    snapshot: Snapshot,
    text: str,
    give: Callable[[types.InlineCompletionItem], None],
) -> None:
    if document.revision == snapshot.revision:
        place = snapshot.offset
        give(item(document, place, place, text, ls.offers.listed(document, place, text)))


# --- an account ---------------------------------------------------------------------------------

SIGNED_IN = {"status": "AlreadySignedIn", "user": USER}
OK = {"status": "OK", "user": USER}


def _version() -> dict[str, str]:
    from backends import __version__

    return {
        "version": __version__,
        "buildType": "midspan",
        "runtimeVersion": f"python/{platform.python_version()}",
    }


async def models(ls: MidspanServer, params: Any) -> list[dict[str, Any]]:
    """The models of the manager, as Copilot's clients list them."""
    from backends.errors import MidspanError

    try:
        listed = await ls.manager.get("/api/models/available")
    except MidspanError:
        return []
    current = listed.get("current")
    return [
        {
            "id": row["name"],
            "modelName": row["name"],
            "modelFamily": row["name"],
            "scopes": ["completion"],
            "preview": False,
            "default": row["name"] == current,
        }
        for row in listed.get("models") or ()
    ]


# Questions about an account, and what the answer always is.
ANSWERS: Mapping[str, Callable[[], object]] = {
    "checkStatus": lambda: OK,
    "signIn": lambda: SIGNED_IN,
    "signInInitiate": lambda: SIGNED_IN,
    "signInConfirm": lambda: OK,
    "signInWithGithubToken": lambda: OK,
    "signOut": lambda: {"status": "NotSignedIn"},
    "setEditorInfo": lambda: "OK",
    "getVersion": _version,
}


async def _answer(value: Callable[[], object], ls: MidspanServer, params: Any) -> object:
    return value()


# --- plain JSON ---------------------------------------------------------------------------------


def at(value: Any, *path: str) -> Any:
    """Return what is at a path of plain JSON; None where there is nothing."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def as_json(ls: MidspanServer, one: types.InlineCompletionItem) -> Any:
    """Return an item as plain JSON."""
    return ls.protocol._converter.unstructure(one, types.InlineCompletionItem)


def register(ls: MidspanServer) -> None:
    """Add the events, the panel and the answers."""
    ls.feature(DID_FOCUS)(did_focus)
    ls.feature(DID_SHOW)(did_show)
    ls.feature(DID_ACCEPT_PART)(did_accept_part)
    ls.feature(PANEL)(panel)
    ls.feature("copilot/models")(models)
    for method, value in ANSWERS.items():
        ls.feature(method)(partial(_answer, value))
