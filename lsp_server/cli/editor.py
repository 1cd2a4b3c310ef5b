"""A minimal editor: a client of a language server over stdio, for the demo and the benchmarks.

Rule: standard library only, and no knowledge of midspan beyond LSP: any server can be behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import MidspanError

# -P: a folder in the current directory must not be imported in place of ours.
MIDSPAN_LSP = (sys.executable, "-P", "-m", "lsp_server.cli.main", "lsp")

STDERR_TAIL = 4000  # bytes kept for the message when the server ends


class ServerGone(MidspanError):  # noqa: N818 - named as the rest of the error tree
    """The language server ended while it was needed."""

    kind = "language_server_gone"


class ServerError(MidspanError):
    """The language server answered a request with an error."""

    kind = "language_server_error"


class Editor:
    """One editor window with one language server; use `async with Editor.start(...)`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.notifications: list[tuple[str, Any]] = []  # (method, params), as they came
        self._writer = process.stdin
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._stderr = b""
        self._tasks = [
            asyncio.create_task(self._read(process.stdout)),
            asyncio.create_task(self._read_stderr(process.stderr)),
        ]

    @classmethod
    async def start(
        cls, command: Sequence[str] = MIDSPAN_LSP, env: Mapping[str, str] | None = None
    ) -> Editor:
        """Start the language server `command` with `env` on top of this process's environment."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(env or {})},
            limit=2**26,
        )
        return cls(process)

    async def __aenter__(self) -> Editor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def initialize(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send `initialize` as an editor with inline completion does; return the answer.

        `options` are sent as `initializationOptions`.
        """
        result: dict[str, Any] = await self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "clientInfo": {"name": "midspan demo"},
                "rootUri": None,
                "initializationOptions": options,
                "capabilities": {
                    "general": {"positionEncodings": ["utf-32", "utf-16"]},
                    "textDocument": {"inlineCompletion": {}},
                },
            },
        )
        return result

    async def request(self, method: str, params: Any) -> Any:
        """Send a request and return its result. Raises ServerError or ServerGone.

        Cancelling the caller cancels the request.
        """
        if self._tasks[0].done():  # nobody would ever answer
            raise self._gone()
        number = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await self._send({"id": number, "method": method, "params": params})
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(ServerGone):
                await self.notify("$/cancelRequest", {"id": number})
            raise
        finally:
            self._waiting.pop(number, None)

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification. Raises ServerGone."""
        await self._send({"method": method, "params": params})

    async def close(self) -> None:
        """Shut the server down as an editor does; kill it if it does not end."""
        with contextlib.suppress(MidspanError, TimeoutError):
            async with asyncio.timeout(5):
                await self.request("shutdown", None)
                await self.notify("exit", None)
        # Tells a server that missed "exit"; also frees the transport.
        self._writer.close()
        try:
            async with asyncio.timeout(5):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode()
        try:
            self._writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await self._writer.drain()
        except ConnectionError as exc:
            raise self._gone() from exc

    async def _read(self, stream: asyncio.StreamReader) -> None:
        try:
            while True:
                head = await stream.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(line for line in lines if line.startswith(b"content-length:"))
                await self._receive(json.loads(await stream.readexactly(int(length[15:]))))
        except (asyncio.IncompleteReadError, MidspanError):
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._gone())

    async def _receive(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            future = self._waiting.get(message["id"])
            if future is None or future.done():
                return
            if "error" in message:
                future.set_exception(ServerError(str(message["error"].get("message"))))
            else:
                future.set_result(message.get("result"))
        elif "id" in message:
            # workspace/configuration wants one entry per item; every other request takes null.
            items = (message.get("params") or {}).get("items")
            result = [None] * len(items) if items is not None else None
            await self._send({"id": message["id"], "result": result})
        else:
            self.notifications.append((message["method"], message.get("params")))

    async def _read_stderr(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(4096):
            self._stderr = (self._stderr + data)[-STDERR_TAIL:]

    def _gone(self) -> ServerGone:
        said = self._stderr.decode(errors="replace").strip().splitlines()
        return ServerGone(f"The language server ended: {said[-1] if said else 'it said nothing'}")
