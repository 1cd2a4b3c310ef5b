"""Chat and completion at real OpenAI-compatible servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backends.backend import ChatRequest, FinishReason, InfillRequest, Message, Role
from backends.config import ModelSettings
from backends.remote.backend import RemoteBackend
from tests.backends.real_servers import MLX, SERVERS, TRANSFORMERS, RealServers
from tests.backends.remote.conftest import collected

# The chat's text is nonsense: the starter only completes.
CHAT = ChatRequest((Message(Role.USER, "hello"),), max_tokens=5)


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, real_servers: RealServers) -> tuple[str, str]:
    """A server's URL and the name it knows the model by."""
    return real_servers.get(request.param)


@pytest_asyncio.fixture
async def backend(served: tuple[str, str]) -> AsyncIterator[RemoteBackend]:
    url, name = served
    # Their models are known by a path, which need not tell the family.
    settings = ModelSettings(endpoint=url, remote_model=name, family="qwen2.5-coder", timeout_s=60)
    backend = await RemoteBackend.connect("starter", settings)
    yield backend
    await backend.close()


async def test_chats(backend: RemoteBackend) -> None:
    text, last = await collected(backend.chat(CHAT))
    assert text
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.cached_tokens <= last.usage.prompt_tokens
    await backend.health()


@pytest.mark.parametrize("served", [TRANSFORMERS], indirect=True)
async def test_completes(backend: RemoteBackend) -> None:
    for typed in ("ret", "return", "return file"):
        request = InfillRequest(
            f"def read(path):\n    with open(path) as file:\n        {typed}",
            "\n\n\nprint(read('x'))\n",
            document="file:///a.py",
            max_tokens=12,
            single_line=True,
        )
        text, last = await collected(backend.infill(request))
        assert text.strip()
        assert "\n" not in text
        assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


@pytest.mark.parametrize("served", [MLX], indirect=True)
async def test_engine_that_breaks_code_says_so(backend: RemoteBackend) -> None:
    assert not backend.capabilities.fim
    assert "first space" in backend.capabilities.no_fim_reason
    assert backend.capabilities.chat
