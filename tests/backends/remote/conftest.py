"""Endpoints on loopback: a scripted one, and a real llama-server with the starter model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from backends.backend import Chunk
from backends.config import ModelSettings
from backends.remote.backend import RemoteBackend
from tests.backends.remote.upstream import Upstream, as_json, serving

# A name of a family that is told by it, so that prompts as text can be made.
MODEL = "Qwen2.5-Coder-1.5B"

Connect = Callable[..., Awaitable[RemoteBackend]]


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as server:
        server.answers("/v1/models", as_json({"data": [{"id": MODEL, "owned_by": "somebody"}]}))
        yield server


@pytest_asyncio.fixture
async def connect(upstream: Upstream) -> AsyncIterator[Connect]:
    """Connect to the scripted endpoint with some settings; all backends end with the test."""
    async with AsyncExitStack() as stack:

        async def make(token: str = "", **settings: Any) -> RemoteBackend:
            from backends.remote.transport import Options

            chosen = {"endpoint": upstream.url, **settings}
            backend = await RemoteBackend.connect(
                MODEL, ModelSettings(**chosen), token=token, http=Options(pause=0.01)
            )
            stack.push_async_callback(backend.close)
            return backend

        yield make


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """Yield the URL of a llama-server with the starter model."""
    pytest.importorskip("xllamacpp", reason="the extra 'llama-server' is not installed")
    from backends import starter
    from benchmarks.peer import llama_server as serve

    with serve(str(starter.path()), threads=1, slots=2, batch=512) as address:
        yield f"http://{address}"


async def collected(chunks: AsyncIterator[Chunk]) -> tuple[str, Chunk]:
    """Return the text of all chunks, and the last one."""
    found = [chunk async for chunk in chunks]
    return "".join(chunk.text for chunk in found), found[-1]
