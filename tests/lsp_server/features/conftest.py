from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.lsp_server.session import Session


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    """A conversation that has not begun."""
    session = Session()
    yield session
    await session.stop()
