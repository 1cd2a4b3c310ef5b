"""A server on loopback that records what it is sent and answers as it is told, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recorded:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """`pieces` are sent one by one; a number among them is a pause in seconds."""

    pieces: tuple[bytes | float, ...] = ()
    status: int = 200
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    whole: bool = True  # False: the connection ends before the body does


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply((json.dumps(value).encode(),), status, headers=named)


def sse(*events: Any, done: bool = True) -> Reply:
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return Reply((*pieces, *([b"data: [DONE]\n\n"] if done else [])), kind="text/event-stream")


def ndjson(*events: Any) -> Reply:
    return Reply(
        tuple(json.dumps(event).encode() + b"\n" for event in events), kind="application/x-ndjson"
    )


@dataclass
class Upstream:
    """`script` has the replies for each path; the last one stays."""

    port: int = 0
    requests: list[Recorded] = field(default_factory=list)
    script: dict[str, deque[Reply]] = field(default_factory=lambda: defaultdict(deque))
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # a client left in mid-answer
    started: asyncio.Event = field(default_factory=asyncio.Event)  # an answer began

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self, path: str, *replies: Reply) -> None:
        self.script[path] = deque(replies)

    def to(self, path: str) -> list[Recorded]:
        return [request for request in self.requests if request.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Recorded(method, path, headers, body))
                if not await self._answer(path, reader, writer):
                    break
        writer.close()

    async def _answer(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        replies = self.script[path]
        missing = as_json({"error": {"message": "no such path"}}, 404)
        reply = (replies.popleft() if len(replies) > 1 else replies[0]) if replies else missing
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Type: {reply.kind}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        lines += ["Transfer-Encoding: chunked", "", ""]
        writer.write("\r\n".join(lines).encode())
        left = asyncio.ensure_future(reader.read(1))
        try:
            for piece in reply.pieces:
                self.started.set()
                if isinstance(piece, float):
                    await asyncio.wait({left}, timeout=piece)
                    if left.done():
                        self.closed.set()
                        return False
                else:
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
        finally:
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await left
        if not reply.whole:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def serving() -> AsyncIterator[Upstream]:
    """Yield an upstream that listens."""
    upstream = Upstream()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(upstream.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
