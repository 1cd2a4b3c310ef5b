"""`POST /infill`: the way of one completion through the manager.

Rule: the generation lives exactly as long as the client's interest in it. A client that closes its
connection cancels it at once, streaming or not, also while the model is still being loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backends.api import infill_format
from backends.api.answers import error_body, json_response, read_object
from backends.api.infill_format import InfillCall
from backends.backend import Chunk
from backends.errors import MidspanError, WorkerDied
from backends.manager import Manager

_Result = TypeVar("_Result")
_CLIENT_GONE = 499  # nobody reads it


class ClientGone(Exception):  # noqa: N818 - no error of ours
    """The client closed its connection."""


async def infill(request: Request) -> Response:
    """Answer `POST /infill`."""
    manager: Manager = request.app.state.manager
    call = infill_format.parse(await read_object(request))
    if call.stream:
        return EventStream(manager, call)
    try:
        body = await while_connected(request.receive, _whole(manager, call))
    except ClientGone:
        return Response(status_code=_CLIENT_GONE)
    return json_response(body)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` returns; raise ClientGone, with `work` cancelled, if the client goes."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        unfinished = [task for task in (working, watching) if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(manager: Manager, call: InfillCall) -> dict[str, object]:
    model, backend = await manager.ready(call.model)
    texts: list[str] = []
    token_ids: list[int] = []
    async with aclosing(backend.infill(call.request)) as chunks:
        async for chunk in chunks:
            texts.append(chunk.text)
            token_ids.extend(chunk.token_ids)
            if chunk.finish_reason is not None:
                return infill_format.answer(call, model, "".join(texts), token_ids, chunk)
    raise WorkerDied(f"The worker of {model} ended its stream early.")


class EventStream(Response):
    """Server-sent events, each a JSON object; the last has `"stop": true` or an error."""

    media_type = "text/event-stream"

    def __init__(self, manager: Manager, call: InfillCall) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["Cache-Control"] = "no-store"
        self._manager = manager
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. An error before its first event is an answer with its own status."""
        try:
            await while_connected(receive, self._send(send))
        except ClientGone:
            return

    async def _send(self, send: Send) -> None:
        model, backend = await self._manager.ready(self._call.model)
        async with aclosing(backend.infill(self._call.request)) as chunks:
            first = await anext(chunks)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._event(send, self._body(model, first))
            try:
                async for chunk in chunks:
                    await self._event(send, self._body(model, chunk))
            except MidspanError as exc:
                await self._event(send, error_body(exc))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _body(self, model: str, chunk: Chunk) -> dict[str, object]:
        if chunk.finish_reason is None:
            return infill_format.piece(chunk)
        return infill_format.answer(self._call, model, chunk.text, chunk.token_ids, chunk)

    @staticmethod
    async def _event(send: Send, body: dict[str, object]) -> None:
        data = b"data: " + msgspec.json.encode(body) + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})
