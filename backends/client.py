"""The way to the manager for the language server, the command line and the benchmarks.

Rule: asyncio and the standard library only, because every editor window imports it; a small and
strict HTTP/1.1: no proxies, no redirects, size caps. Cancelling a call closes its connection, which
cancels the generation. The token goes to the loopback address of the state file and nowhere else.
Must not know LSP, nor what the manager does with a request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from backends import __version__, launcher
from backends.errors import ManagerUnavailable, MidspanError, from_wire
from backends.state import Endpoint

MAX_LINE = 16 * 1024  # bytes of a header line
MAX_HEADERS = 64
MAX_BODY = 64 * 1024 * 1024
ENDING_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)  # seconds, while a manager that was killed is going


class _NoAnswer(Exception):  # noqa: N818 - a signal to try again, never seen by callers
    """The connection ended before the first byte of an answer, so the request may be sent again."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    keep_alive: bool
    of_stream: bool = False  # an event, which can be an error with any status


class _Head(NamedTuple):
    status: int
    headers: dict[bytes, bytes]

    @property
    def keep_alive(self) -> bool:
        return self.headers.get(b"connection", b"").lower() != b"close"


class _Connection(NamedTuple):
    endpoint: Endpoint
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing()


class ManagerClient:
    """Talks to the user's manager, starting it if there is none and `autostart` is set."""

    def __init__(self, *, autostart: bool = True, client_name: str = "midspan") -> None:
        self._autostart = autostart
        self._agent = f"{client_name}/{__version__}"
        self._endpoint: Endpoint | None = None
        self._idle: _Connection | None = None
        self._finding = asyncio.Lock()

    async def infill(self, body: Mapping[str, object]) -> dict[str, Any]:
        """POST /infill. Cancelling the calling task cancels the generation at once."""
        return await self.post("/infill", body)

    async def get(self, path: str, *, timeout: float = 10) -> dict[str, Any]:  # noqa: ASYNC109
        """GET `path`; raises the error the manager answered with."""
        return await self._call("GET", path, b"", timeout)

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        timeout: float = 300,  # noqa: ASYNC109
    ) -> dict[str, Any]:
        """POST `body` as JSON to `path`; raises the error the manager answered with."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        # An editor may hold half of a surrogate pair; JSON on the wire may not.
        return await self._call("POST", path, text.encode("utf-8", "replace"), timeout)

    async def stream(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        patience: float = 600,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST `body` and yield the JSON of each server-sent event, on a connection of its own.

        `patience` is for one event, in seconds. Closing the generator closes the connection, which
        cancels the work. Raises the error that the manager answered with, in mid-stream too.
        """
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )
        try:
            connection = await self._connected()
            try:
                async with aclosing(self._events(connection, path, text)) as events:
                    while True:
                        async with asyncio.timeout(patience):
                            value = await anext(events)
                        yield value
            except StopAsyncIteration:
                return
            finally:
                connection.writer.transport.abort()
        except TimeoutError as exc:
            said = f"The backend manager sent nothing for {patience:g} s."
            raise ManagerUnavailable(said) from exc
        except (OSError, asyncio.IncompleteReadError, _NoAnswer) as exc:
            raise ManagerUnavailable(f"The backend manager went away ({exc!r}).") from exc

    async def _events(
        self, connection: _Connection, path: str, body: bytes
    ) -> AsyncGenerator[dict[str, Any], None]:
        reader = connection.reader
        connection.writer.write(self._head(connection.endpoint, "POST", path, body) + body)
        head = await _read_head(reader)
        if head.status != 200:
            _decode(_Answer(head.status, await _read_body(reader, head), head.keep_alive))
        buffer = b""
        async for piece in _chunks(reader):
            *blocks, buffer = (buffer + piece).split(b"\n\n")
            if len(buffer) > MAX_BODY:
                raise _malformed("an event is too long")
            for block in blocks:
                data = block.partition(b"data: ")[2]
                if data == b"[DONE]":
                    return
                yield _decode(_Answer(head.status, data, False, of_stream=True))
        raise asyncio.IncompleteReadError(buffer, None)

    async def ensure(self) -> Endpoint:
        """Find the manager, or start it. Raises ManagerUnavailable."""
        async with self._finding:
            self._endpoint = launcher.find()
            if self._endpoint is None:
                if not self._autostart:
                    raise ManagerUnavailable("The backend manager is not running.")
                self._endpoint = await asyncio.to_thread(launcher.ensure)
            return self._endpoint

    async def close(self) -> None:
        """Close the idle connection."""
        if self._idle is not None:
            self._idle.writer.transport.abort()
            self._idle = None

    async def _call(self, method: str, path: str, body: bytes, limit: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(limit):
                answer = await self._request(method, path, body)
        except TimeoutError as exc:
            raise ManagerUnavailable(
                f"The backend manager did not answer {path} within {limit:g} s."
            ) from exc
        except (OSError, asyncio.IncompleteReadError, _NoAnswer) as exc:
            raise ManagerUnavailable(f"The backend manager cannot be reached ({exc!r}).") from exc
        return _decode(answer)

    async def _request(self, method: str, path: str, body: bytes) -> _Answer:
        """Send on the idle connection, else on a new one, else to a newly found manager.

        Each step is taken only if the one before got no answer at all.
        """
        idle, self._idle = self._idle, None
        if idle is not None and idle.usable():
            try:
                return await self._exchange(idle, method, path, body)
            except _NoAnswer:
                pass  # the manager closed it while it was idle, or has ended
        if self._endpoint is not None:
            try:
                return await self._exchange(await _connect(self._endpoint), method, path, body)
            except (_NoAnswer, ConnectionError):
                self._endpoint = None
        return await self._exchange(await self._connected(), method, path, body)

    async def _connected(self) -> _Connection:
        """Connect to the manager that is found, or started. Raises ManagerUnavailable, OSError."""
        for pause in ENDING_PAUSES:
            try:
                return await _connect(await self.ensure())
            except ConnectionRefusedError:
                # It is just ending: its socket is closed, its process not yet gone.
                await asyncio.sleep(pause)
        return await _connect(await self.ensure())

    async def _exchange(
        self, connection: _Connection, method: str, path: str, body: bytes
    ) -> _Answer:
        endpoint, reader, writer = connection
        keep = False
        try:
            writer.write(self._head(endpoint, method, path, body) + body)
            answer = await _read_answer(reader)
            keep = answer.keep_alive and self._idle is None
            return answer
        finally:
            if keep:
                self._idle = connection
            else:
                writer.transport.abort()  # also when cancelled: this is what cancels the work

    def _head(self, endpoint: Endpoint, method: str, path: str, body: bytes) -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\n"
            f"Host: {endpoint.host}:{endpoint.port}\r\n"
            f"Authorization: Bearer {endpoint.token}\r\n"
            f"User-Agent: {self._agent}\r\n"
        )
        if method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode("latin-1")


async def _connect(endpoint: Endpoint) -> _Connection:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=MAX_LINE)
    return _Connection(endpoint, reader, writer)


async def _read_answer(reader: asyncio.StreamReader) -> _Answer:
    head = await _read_head(reader)
    return _Answer(head.status, await _read_body(reader, head), head.keep_alive)


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    try:
        line = await reader.readline()
    except ConnectionError as exc:
        raise _NoAnswer(str(exc)) from exc
    except ValueError as exc:
        raise _malformed("its first line is too long") from exc
    if not line:
        raise _NoAnswer("closed before an answer")
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    if version != b"HTTP/1.1" or not status.isdigit():
        raise _malformed("it is not HTTP/1.1")
    return _Head(int(status), await _read_headers(reader))


async def _read_body(reader: asyncio.StreamReader, head: _Head) -> bytes:
    if b"chunked" not in head.headers.get(b"transfer-encoding", b"").lower():
        length = _length(head.headers.get(b"content-length", b""), 10)
        return await reader.readexactly(length)
    body = bytearray()
    async for chunk in _chunks(reader):
        body += chunk
        if len(body) > MAX_BODY:
            raise _malformed("its body is too long")
    return bytes(body)


async def _read_headers(reader: asyncio.StreamReader) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for _ in range(MAX_HEADERS):
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as exc:
            raise _malformed("a header is too long") from exc
        if line in (b"\r\n", b"\n"):
            return headers
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    raise _malformed("it has too many headers")


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := _length((await reader.readuntil(b"\n")).split(b";")[0].strip(), 16):
        chunk = await reader.readexactly(size)
        await reader.readuntil(b"\n")
        yield chunk
    await reader.readuntil(b"\n")


def _length(digits: bytes, base: int) -> int:
    try:
        length = int(digits, base)
    except ValueError as exc:
        raise _malformed("its length is missing") from exc
    if not 0 <= length <= MAX_BODY:
        raise _malformed("its body is too long")
    return length


def _decode(answer: _Answer) -> dict[str, Any]:
    try:
        value = json.loads(answer.body)
    except ValueError as exc:
        raise _malformed("its body is not JSON") from exc
    if not isinstance(value, dict):
        raise _malformed("its body is no object")
    error = value.get("error")
    if answer.status == 200 and not (answer.of_stream and error):
        return value
    if not isinstance(error, dict):
        raise MidspanError(f"The backend manager answered with status {answer.status}.")
    raise from_wire(str(error.get("kind")), str(error.get("message")))


def _malformed(why: str) -> ManagerUnavailable:
    return ManagerUnavailable(f"The backend manager sent a malformed answer: {why}.")
