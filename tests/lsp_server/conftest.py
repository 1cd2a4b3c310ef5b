from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.lsp_server.session import Session
from tests.lsp_server.wire import Wire


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Wire]]:
    """Start language servers, with extra environment variables; they end with the test."""
    started: list[Wire] = []

    def one(**environment: str) -> Wire:
        folder = tmp_path / f"server-{len(started)}"
        folder.mkdir()
        started.append(Wire(folder, **environment))
        return started[-1]

    yield one
    for wire in started:
        wire.close()


@pytest.fixture
def wire(start: Callable[..., Wire]) -> Wire:
    """A language server before `initialize`."""
    return start()


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    """A conversation in this process that has not begun."""
    session = Session()
    yield session
    await session.stop()
