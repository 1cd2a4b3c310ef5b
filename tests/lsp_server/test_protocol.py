"""What handlers may do wrong, with a server in this process."""

from __future__ import annotations

import asyncio
import logging

from tests.lsp_server.session import Session


async def test_failing_notification_handler_is_logged_and_not_shown(session: Session, caplog):
    """pygls would pop up its message, and log its text."""
    caplog.set_level(logging.INFO, logger="lsp_server")

    @session.server.feature("test/fails")
    async def fails(ls: object, params: object) -> None:
        raise ValueError("hunter2")

    await session.start()
    session.notify("test/fails", {})
    async with asyncio.timeout(20):
        while "JsonRpcInternalError" not in caplog.text:
            await asyncio.sleep(0.01)
    await session.command("midspan.status")
    assert not [m for m in session.messages if m.get("method", "").startswith("window/")]
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("lsp_server")]
    assert "hunter2" not in "".join(ours)  # pygls's own logger is silenced by `run`


async def test_failing_request_handler_is_answered(session: Session):
    @session.server.feature("test/fails")
    async def fails(ls: object, params: object) -> None:
        raise ValueError("x")

    await session.start()
    assert (await session.call("test/fails", {}))["error"]["code"] == -32603
    assert "result" in await session.command("midspan.status")


async def test_answer_that_cannot_be_written_is_an_error_answer(session: Session):
    @session.server.feature("test/odd")
    async def odd(ls: object, params: object) -> object:
        return {"value": {1, 2}.__iter__()}

    await session.start()
    assert (await session.call("test/odd", {}))["error"]["code"] == -32603


async def test_lone_surrogate_in_a_document_is_survived(session: Session):
    await session.start()
    session.open("s = '\ud83d'\nx = \n")
    (item,) = await session.items(session.ghost(1, 4))
    assert item["insertText"] == "pass"


async def test_every_handler_is_a_coroutine(session: Session):
    """pygls runs any other to its end, also when it was cancelled."""
    manager = session.server.protocol.fm
    handlers = {**manager.features, **manager.commands}
    handlers.pop("initialize")  # answered before anything can be cancelled
    assert len(handlers) > 10
    assert [n for n, h in handlers.items() if not asyncio.iscoroutinefunction(h)] == []
    await session.start()
