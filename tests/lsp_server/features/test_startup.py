from __future__ import annotations

import asyncio

from backends import errors
from tests.lsp_server.session import Session


async def test_initialize_waits_for_no_model_and_starts_nothing(session: Session):
    """Only `initialized` does."""
    notify = session.notify
    session.notify = lambda method, params: None  # type: ignore[method-assign]
    await session.start()
    await session.call("midspan/none", {})
    assert session.manager.warmed == 0
    session.notify = notify  # type: ignore[method-assign]
    session.notify("initialized", {})
    await session.status(kind="Normal", model="fake-1b")
    assert session.manager.warmed == 1


async def test_status_is_busy_while_the_model_starts(session: Session):
    await session.start()
    first = await session.status(busy=True)
    assert first["message"] == "Starting the model"
    await session.status(busy=False, kind="Normal", message="")


async def test_failure_to_start_is_shown_and_the_next_key_tries_again(session: Session):
    session.manager.error = errors.ManagerUnavailable("No manager.")
    await session.start()
    await session.status(kind="Error", message="No manager.")
    session.manager.error = None
    session.open("x = \n")
    assert len(await session.items(session.ghost(0, 4))) == 1
    await session.status(kind="Normal", message="")


async def test_switched_off_starts_no_manager(session: Session):
    await session.start(options={"enabled": False})
    await session.status(kind="Inactive", message="suggestions are switched off")
    await asyncio.sleep(0.05)
    assert session.manager.warmed == 0
