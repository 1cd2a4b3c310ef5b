"""`midspan.edit`: selected lines are written anew, as the user says, by a model that can chat.

    [{uri, range, prompt, partialResultToken?}] → {range, text, model, truncated}

Rule: changes nothing; the client shows the text and applies it or not. With a token, what is
written so far goes to the client as `$/progress` with `{range, text}`.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from lsp_server import status
from lsp_server.documents import Document, Place
from lsp_server.edit_prompt import messages, replacement
from lsp_server.progress import progress
from lsp_server.protocol import REQUEST_FAILED
from lsp_server.snapshot import Snapshot, refusal, take
from lsp_server.suggest import shown_path

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

CHAT = "/v1/chat/completions"
TELL_EVERY_S = 0.1

Json = dict[str, Any]


@dataclass(slots=True)
class _Written:
    """An answer as it comes."""

    text: str = ""
    model: str = ""
    finish_reason: str = ""

    def add(self, event: Json) -> None:
        self.model = str(event.get("model") or self.model)
        for choice in event.get("choices") or ():
            self.text += (choice.get("delta") or {}).get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


async def edit(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """Write the lines of a range anew."""
    wanted: Any = (params.arguments or [None])[0]
    try:
        uri, prompt = str(wanted["uri"]), str(wanted["prompt"]).strip()
        first, last = (_place(wanted["range"][end]) for end in ("start", "end"))
    except (TypeError, KeyError, ValueError) as exc:
        raise JsonRpcInvalidParams("midspan.edit needs a uri, a range and a prompt.") from exc
    document = ls.documents.get(uri)
    reason = status.NOT_OPEN if document is None else refusal(document)
    if document is None or reason:
        raise JsonRpcException(f"Nothing was edited: {reason}.", code=REQUEST_FAILED)
    if not prompt:
        raise JsonRpcInvalidParams("midspan.edit needs to be told what to do.")
    start, end = whole_lines(document, document.offset(first), document.offset(last))
    snapshot = take(document, start, end)
    selected = document.text[start:end].replace("\r\n", "\n").replace("\r", "\n")
    span = {"start": _as_json(document.place(start)), "end": _as_json(document.place(end))}
    token: types.ProgressToken | None = wanted.get("partialResultToken")
    body = {
        "messages": messages(
            snapshot.before,
            selected,
            snapshot.after,
            path=shown_path(ls, snapshot.path),
            language=snapshot.language_id,
            prompt=prompt,
        ),
        "prediction": {"type": "content", "content": selected},
        "temperature": 0,
        "stream": True,
    }
    async with progress(ls, "Editing", params.work_done_token):
        with ls.status.working("Editing"):
            written = await _write(ls, body, snapshot, selected, span, token)
    text = _of_document(replacement(written.text, selected), snapshot)
    if not text:
        raise JsonRpcException(f"Nothing was edited: {status.EMPTY}.", code=REQUEST_FAILED)
    truncated = written.finish_reason == "length"
    return {"range": span, "text": text, "model": written.model, "truncated": truncated}


async def _write(
    ls: MidspanServer,
    body: dict[str, object],
    snapshot: Snapshot,
    selected: str,
    span: Json,
    token: types.ProgressToken | None,
) -> _Written:
    written, told = _Written(), 0.0
    async with aclosing(ls.manager.stream(CHAT, body)) as events:
        async for event in events:
            written.add(event)
            if token is None or time.monotonic() - told < TELL_EVERY_S:
                continue
            told = time.monotonic()
            if text := _of_document(replacement(written.text, selected), snapshot):
                value = {"range": span, "text": text}
                ls.protocol.notify(types.PROGRESS, types.ProgressParams(token, value))
    return written


def whole_lines(document: Document, start: int, end: int) -> tuple[int, int]:
    """Return the range of the lines that a selection touches, the last line's end included.

    A selection that ends where a line begins does not touch that line.
    """
    size = len(document.text)
    last = document.line_of(max(start, end - 1))
    is_final = last == document.line_of(size)
    after = size if is_final else document.line_bounds(last + 1)[0]
    return document.line_bounds(document.line_of(start))[0], after


def _of_document(text: str, snapshot: Snapshot) -> str:
    return text.replace("\n", snapshot.line_ending)


def _as_json(place: Place) -> Json:
    return {"line": place.line, "character": place.character}


def _place(position: Any) -> Place:
    return Place(int(position["line"]), int(position["character"]))
