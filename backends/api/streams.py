"""Work that lives exactly as long as the client's interest in it, and its server-sent events.

Rule: a client that closes its connection cancels its work at once, streaming or not, also while a
model is still being loaded. An error before the first event is an answer with its own status; a
later one is the stream's last event. Must not know any endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backends.api.answers import json_response
from backends.errors import MidspanError

_Result = TypeVar("_Result")
_CLIENT_GONE = 499  # nobody reads it

Events = AsyncGenerator[bytes, None]


class ClientGone(Exception):  # noqa: N818 - no error of ours
    """The client closed its connection."""


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


async def whole(request: Request, work: Coroutine[Any, Any, dict[str, object]]) -> Response:
    """Answer with what `work` returns."""
    try:
        return json_response(await while_connected(request.receive, work))
    except ClientGone:
        return Response(status_code=_CLIENT_GONE)


def event(body: object, name: str = "") -> bytes:
    """Return one server-sent event: `body` as JSON, under `name` where one is given."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(body) + b"\n\n"


class EventStream(Response):
    """Server-sent events; `on_error` makes the last one of an error that comes after the first."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, on_error: Callable[[MidspanError], bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["Cache-Control"] = "no-store"
        self._events = events
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await while_connected(receive, self._send(send))
        except ClientGone:
            return

    async def _send(self, send: Send) -> None:
        async def body(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await body(first)
            try:
                async for data in events:
                    await body(data)
            except MidspanError as exc:
                await body(self._on_error(exc))
        await body(b"", more=False)
