"""A backend that says what a test wants, behind the real API on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from backends.backend import (
    Capabilities,
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Sampling,
    Usage,
)
from backends.catalogue import Model, Source
from backends.config import ModelSettings
from backends.errors import MidspanError, UnknownModel
from backends.manager import Manager
from tests.backends.conftest import TOKEN, Served, serving

USAGE = Usage(prompt_tokens=10, cached_tokens=7, completion_tokens=3)
END = Chunk("", finish_reason=FinishReason.STOP, usage=USAGE)
CAN = Capabilities(fim=True, chat=True, tools=True, steering=True, counting=True)


@dataclass
class ScriptedBackend:
    """Says `script`, one chunk or error after the other; each attempt at an answer its own."""

    script: Sequence[Chunk | MidspanError] = (Chunk("Hel"), Chunk("lo"), END)
    more: Sequence[Sequence[Chunk | MidspanError]] = ()  # of the second attempt and later ones
    capabilities: Capabilities = CAN
    token_seconds: float = 0.0
    requests: list[Any] = field(default_factory=list)
    sent: int = 0
    under_way: int = 0

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        return self._say(request)

    def infill(self, request: InfillRequest) -> AsyncIterator[Chunk]:
        return self._say(request)

    async def _say(self, request: Any) -> AsyncGenerator[Chunk, None]:
        scripts = [self.script, *self.more]
        script = scripts[min(len(self.requests), len(scripts) - 1)]
        self.requests.append(request)
        self.under_way += 1
        try:
            for item in script:
                await asyncio.sleep(self.token_seconds)
                if isinstance(item, MidspanError):
                    raise item
                self.sent += 1
                yield item
        finally:
            self.under_way -= 1

    @property
    def sampling(self) -> list[Sampling]:
        return [request.sampling for request in self.requests]


class ScriptedManager:
    """Routes everything to one backend, called "a"."""

    def __init__(self, backend: ScriptedBackend, folder: Path) -> None:
        self.backend_of_a = backend
        file = folder / "a.gguf"
        file.touch()
        model = Model("a", file, Source.CONFIG, ModelSettings())
        self.catalogue = SimpleNamespace(models=lambda: {"a": model})
        self.refusal: MidspanError | None = None

    async def ready(self, model: str | None = None) -> tuple[str, ScriptedBackend]:
        if self.refusal is not None:
            raise self.refusal
        if model not in (None, "a"):
            raise UnknownModel(f"No model is called {model!r}; there are a.")
        return "a", self.backend_of_a

    ready_for_chat = ready

    async def close(self) -> None:
        pass


@dataclass
class Scripted:
    """The API over a scripted backend."""

    served: Served
    backend: ScriptedBackend
    manager: ScriptedManager

    @property
    def port(self) -> int:
        return self.served.port

    @property
    def request(self) -> Any:
        """The last request that the backend got."""
        return self.backend.requests[-1]

    def script(self, *script: Chunk | MidspanError) -> None:
        self.backend.script = script

    def can(self, **changes: Any) -> None:
        self.backend.capabilities = replace(CAN, **changes)

    def head(self, method: str, path: str, length: int, **changes: str | None) -> bytes:
        headers: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.port}",
            "Authorization": f"Bearer {TOKEN}",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(length),
        }
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()

    async def raw(self, method: str, path: str, body: object, **changes: str | None) -> bytes:
        data = b"" if body is None else json.dumps(body).encode()
        return await self.served.raw(self.head(method, path, len(data), **changes) + data)

    async def ask(
        self, path: str, body: object = None, method: str = "POST", **changes: str | None
    ) -> tuple[int, Any]:
        """Return the status and the JSON that came back."""
        raw = await self.raw(method, path, body, **changes)
        head, _, rest = raw.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(rest)

    async def events(self, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return a stream's events as (name, JSON or text)."""
        raw = await self.raw("POST", path, {**body, "stream": True})
        assert raw.startswith(b"HTTP/1.1 200"), raw
        assert b"content-type: text/event-stream" in raw.lower()
        found = []
        for block in dechunked(raw.partition(b"\r\n\r\n")[2]).decode().split("\n\n")[:-1]:
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            data = lines["data"]
            found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
        return found

    async def vanish(self, path: str, body: dict[str, Any], after: int) -> None:
        """Ask, and close the connection once the backend has sent `after` chunks."""
        data = json.dumps(body).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self.head("POST", path, len(data)) + data)
        async with asyncio.timeout(20):
            while self.backend.sent < after:
                await asyncio.sleep(0.005)
            writer.transport.abort()
            while self.backend.under_way:
                await asyncio.sleep(0.005)


def dechunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found, body = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


@asynccontextmanager
async def scripted_api(folder: Path) -> AsyncIterator[Scripted]:
    """Serve the API over a scripted backend while in the context."""
    backend = ScriptedBackend()
    manager = ScriptedManager(backend, folder)
    async with serving(cast(Manager, manager)) as served:
        yield Scripted(served, backend, manager)


@pytest_asyncio.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """The API over a scripted backend."""
    async with scripted_api(tmp_path) as scripted:
        yield scripted


@pytest.fixture(params=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "stream")
