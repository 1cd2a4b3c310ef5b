"""A language server in this process, a client on pipes, and a manager that says what it is told.

For what does not depend on a model: everything but the manager is real, the wire included.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lsp_server.server import create_server

PATIENCE = 20.0
URI = "file:///work/folder/a.py"
GHOST = {"triggerKind": 2}


@dataclass
class FakeManager:
    """Stands in for `backends.client.ManagerClient`."""

    content: str = "pass"
    contents: list[str] = field(default_factory=list)  # of the first answers, before `content`
    reasons: list[str] = field(default_factory=list)  # why these ended
    hang_from: int | None = None  # the number of the first request that hangs
    error: Exception | None = None
    hang: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    posted: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    warmed: int = 0
    warmed_for: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def infill(self, body: dict[str, Any]) -> dict[str, Any]:
        if "document" in body and body["n_predict"] == 0:
            self.warmed_for.append(body)
            return self._answer("")
        if body["n_predict"] == 0:  # the warm-up on `initialized`
            await asyncio.sleep(0.02)  # a model is never there at once
            self.warmed += 1
            return self._answer("")
        self.asked.append(body)
        self.started.set()
        if self.hang or (self.hang_from is not None and len(self.asked) >= self.hang_from):
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        content = self.contents.pop(0) if self.contents else self.content
        return self._answer(content, self.reasons.pop(0) if self.reasons else "stop")

    def _answer(self, content: str, reason: str = "stop") -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"content": content, "model": "fake-1b", "finish_reason": reason}

    async def get(self, path: str, **_: object) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"path": path, "name": "fake-1b", "models": [], "current": "fake-1b"}

    async def post(self, path: str, body: Mapping[str, object], **_: object) -> dict[str, Any]:
        self.posted.append((path, body))
        if self.hang:
            await self.release.wait()
        if self.error:
            raise self.error
        return {"name": body.get("name", "fake-1b"), "state": "ready"}

    async def close(self) -> None:
        pass


class Session:
    """One conversation. `messages` holds all that came and was not asked for by a call."""

    def __init__(self) -> None:
        self.server = create_server()
        self.manager = FakeManager()
        self.server._manager = self.manager  # type: ignore[assignment]
        self.messages: list[dict[str, Any]] = []
        self.client_answers: dict[str, Callable[[Any], Any]] = {}
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._arrived = asyncio.Event()
        self._versions: dict[str, int] = {}

    async def start(self, capabilities: object = None, options: object = None) -> Any:
        to_server, self._to = os.pipe()
        self._from, from_server = os.pipe()
        self._serving = asyncio.ensure_future(self.server.serve(to_server, from_server))
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=2**26)
        pipe = os.fdopen(self._from, "rb", buffering=0)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), pipe
        )
        self._receiving = asyncio.ensure_future(self._receive_all())
        params = {
            "processId": None,
            "rootUri": "file:///work/folder",
            "capabilities": capabilities or {},
            "initializationOptions": options,
        }
        result = (await self.call("initialize", params))["result"]
        self.notify("initialized", {})
        return result

    async def stop(self) -> None:
        os.close(self._to)
        await asyncio.wait_for(self._serving, PATIENCE)
        self._receiving.cancel()
        self._transport.close()

    def send(self, *messages: dict[str, Any]) -> None:
        data = b""
        for message in messages:
            body = json.dumps({"jsonrpc": "2.0", **message}).encode()
            data += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        os.write(self._to, data)

    def notify(self, method: str, params: object) -> None:
        self.send({"method": method, "params": params})

    def request(self, method: str, params: object) -> int:
        self._next_id += 1
        self._waiting[self._next_id] = asyncio.get_running_loop().create_future()
        self.send({"id": self._next_id, "method": method, "params": params})
        return self._next_id

    async def answer(self, msg_id: int) -> Any:
        return await asyncio.wait_for(self._waiting[msg_id], PATIENCE)

    async def call(self, method: str, params: object) -> Any:
        return await self.answer(self.request(method, params))

    async def until(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first message, come or still to come, for which `wanted` holds."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for message in self.messages:
                    if wanted(message):
                        return message
                self._arrived.clear()
                await self._arrived.wait()

    async def status(self, **fields: object) -> dict[str, Any]:
        """Wait until a status with these fields was sent, and forget those up to it."""
        message = await self.until(
            lambda m: m.get("method") == "midspan/status" and fields.items() <= m["params"].items()
        )
        at = self.messages.index(message) + 1
        later = [m for m in self.messages[:at] if m.get("method") != "midspan/status"]
        self.messages[:at] = later
        return message["params"]

    async def _receive_all(self) -> None:
        while head := await self._reader.readuntil(b"\r\n\r\n"):
            message = json.loads(await self._reader.readexactly(int(head.split(b":")[1])))
            if "method" in message and "id" in message:
                give = self.client_answers.get(message["method"], lambda params: None)
                answer = give(message.get("params"))
                if answer is not NO_ANSWER:
                    self.send({"id": message["id"], "result": answer})
                self.messages.append(message)
            elif "method" in message:
                self.messages.append(message)
            else:
                future = self._waiting[message["id"]]
                assert not future.done(), "a second answer to one request"
                future.set_result(message)
            self._arrived.set()

    # --- what a person at an editor does ------------------------------------------------------

    def open(self, text: str, uri: str = URI, language: str = "python") -> None:
        self._versions[uri] = 1
        item = {"uri": uri, "languageId": language, "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def edit(self, text: str, line: int, character: int, uri: str = URI) -> dict[str, Any]:
        """The notification of an insertion, not yet sent."""
        self._versions[uri] += 1
        place = {"line": line, "character": character}
        return {
            "method": "textDocument/didChange",
            "params": {
                "textDocument": {"uri": uri, "version": self._versions[uri]},
                "contentChanges": [{"range": {"start": place, "end": place}, "text": text}],
            },
        }

    def erase(self, line: int, start: int, end: int, uri: str = URI) -> dict[str, Any]:
        """The notification of a deletion in a line, not yet sent."""
        change = self.edit("", line, start, uri)
        change["params"]["contentChanges"][0]["range"]["end"] = {"line": line, "character": end}
        return change

    def ghost(self, line: int, character: int, uri: str = URI, **context: object) -> int:
        return self.request("textDocument/inlineCompletion", at(line, character, uri, **context))

    async def items(self, msg_id: int) -> list[dict[str, Any]]:
        result = (await self.answer(msg_id))["result"]
        return result["items"]

    async def command(self, name: str, *arguments: object) -> Any:
        return await self.call(
            "workspace/executeCommand", {"command": name, "arguments": list(arguments)}
        )


NO_ANSWER = object()


def at(line: int, character: int, uri: str = URI, **context: object) -> dict[str, Any]:
    return {
        "textDocument": {"uri": uri},
        "position": {"line": line, "character": character},
        "context": {**GHOST, **context},
    }
