"""Code actions: *Fill in here*, *Complete this function body* and those of `kernel_actions`.

Rule: listing is cheap and generates nothing. The generation happens when the client resolves the
action it chose, or runs the action's command where it cannot resolve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from lsp_server import status, workspace_edits
from lsp_server.documents import Document
from lsp_server.features import kernel_actions
from lsp_server.progress import progress
from lsp_server.protocol import CONTENT_MODIFIED, REQUEST_FAILED, place_of
from lsp_server.snapshot import Snapshot, refusal, take
from lsp_server.suggest import Ask, suggest

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

FILL_COMMAND = "midspan.fill"
KIND = types.CodeActionKind.RefactorRewrite.value
FILL_HERE = "Fill in here"
COMPLETE_BODY = "Complete this function body"


@dataclass(frozen=True, slots=True)
class Gap:
    """The offsets to replace, and what is written around the generated text."""

    start: int
    end: int
    lead: str = ""
    trail: str = ""


async def code_action(
    ls: MidspanServer, params: types.CodeActionParams
) -> list[types.CodeAction | types.Command]:
    """List what can be done at the start of the range."""
    document = ls.documents.get(params.text_document.uri)
    if document is None or refusal(document):
        return []
    cursor = document.offset(place_of(params.range.start))
    # Editors ask on each move of the cursor, which nothing else tells us of.
    ls.idle.moved(document, cursor)
    asked = partial(asked_for, params.context)
    gaps = [
        _action(ls, document, title, cursor)
        for title, action in ACTIONS.items()
        if asked(action.kind) and action.find(document, cursor) is not None
    ]
    return [*gaps, *kernel_actions.listed(ls, document, cursor, asked)]


async def resolve(ls: MidspanServer, action: types.CodeAction) -> types.CodeAction:
    """Generate the edit of the action that was chosen."""
    action.edit = await _filled(ls, action.data, None)
    return action


async def fill(ls: MidspanServer, params: types.ExecuteCommandParams) -> None:
    """Generate, and have the client apply the edit: for clients that do not resolve actions."""
    edit = await _filled(ls, (params.arguments or [None])[0], params.work_done_token)
    await workspace_edits.apply(ls, edit, "midspan")


async def _filled(
    ls: MidspanServer, data: Any, token: types.ProgressToken | None
) -> types.WorkspaceEdit:
    document, gap, title = _chosen(ls, data)
    snapshot = take(document, gap.start, gap.end, gap.lead, gap.trail)
    ask = Ask(
        max_tokens=ls.settings.max_tokens_action,
        single_line=False,
        deadline_ms=ls.settings.deadline_action_ms,
        by_hand=True,
    )
    async with progress(ls, title, token):
        text = await suggest(ls, snapshot, ask)
    if not text:
        raise _nothing(ls, snapshot)
    new = gap.lead + text + gap.trail
    edit = workspace_edits.text_edit(document, gap.start, gap.end, new)
    return workspace_edits.changed(ls.client, document.uri, document.version, [edit])


def _chosen(ls: MidspanServer, data: Any) -> tuple[Document, Gap, str]:
    """What the data of a listed action stands for. Raises JsonRpcException."""
    try:
        uri, title = str(data["uri"]), str(data["title"])
        revision, cursor = int(data["revision"]), int(data["cursor"])
        find = ACTIONS[title].find
    except (TypeError, KeyError, ValueError) as exc:
        raise JsonRpcInvalidParams("This is no code action of midspan's.") from exc
    document = ls.documents.get(uri)
    if document is None or document.revision != revision:
        raise JsonRpcException(f"{status.MOVED_ON}; choose it again", code=CONTENT_MODIFIED)
    if reason := refusal(document):
        raise JsonRpcException(reason, code=REQUEST_FAILED)
    gap = find(document, cursor)
    if gap is None:
        raise JsonRpcInvalidParams("There is nothing to fill in there.")
    return document, gap, title


def _nothing(ls: MidspanServer, snapshot: Snapshot) -> JsonRpcException:
    document = ls.documents.get(snapshot.uri)
    moved = document is None or document.revision != snapshot.revision
    return JsonRpcException(
        ls.status.current.reason or status.EMPTY,
        code=CONTENT_MODIFIED if moved else REQUEST_FAILED,
    )


def asked_for(context: types.CodeActionContext, kind: str) -> bool:
    """Whether the user asked for actions of this kind. Not on each move of the cursor: an action
    that is always there would keep the light bulb lit."""
    if context.only is not None:
        return any(f"{kind}.".startswith(f"{_text(only)}.") for only in context.only)
    return context.trigger_kind != types.CodeActionTriggerKind.Automatic


def _text(kind: types.CodeActionKind | str) -> str:
    return kind.value if isinstance(kind, types.CodeActionKind) else kind


def _cursor_gap(document: Document, cursor: int) -> Gap | None:
    return Gap(cursor, cursor)


def _body_gap(document: Document, cursor: int) -> Gap | None:
    from fim.scope import body_to_fill

    region = body_to_fill(document.text, cursor, document.language_id)
    return None if region is None else Gap(region.start, region.end, region.lead, region.trail)


@dataclass(frozen=True, slots=True)
class Action:
    """Its kind, by which an editor can run it with no menu, and what it fills."""

    kind: str
    find: Callable[[Document, int], Gap | None]


# By their titles.
ACTIONS = {
    FILL_HERE: Action(f"{KIND}.fill", _cursor_gap),
    COMPLETE_BODY: Action(f"{KIND}.body", _body_gap),
}


def _action(
    ls: MidspanServer, document: Document, title: str, cursor: int
) -> types.CodeAction | types.Command:
    data = {
        "uri": document.uri,
        "title": title,
        "revision": document.revision,
        "cursor": cursor,
    }
    command = types.Command(title=title, command=FILL_COMMAND, arguments=[data])
    if not ls.client.action_literals:
        return command
    kind = ACTIONS[title].kind
    if ls.client.action_resolve:
        return types.CodeAction(title=title, kind=kind, data=data)
    return types.CodeAction(title=title, kind=kind, command=command)


def register(ls: MidspanServer) -> None:
    """Add the feature and its command."""
    options = types.CodeActionOptions(
        code_action_kinds=[KIND, kernel_actions.KIND], resolve_provider=True
    )
    ls.feature(types.TEXT_DOCUMENT_CODE_ACTION, options)(code_action)
    ls.feature(types.CODE_ACTION_RESOLVE)(resolve)
    ls.command(FILL_COMMAND)(fill)
