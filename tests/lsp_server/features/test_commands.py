from __future__ import annotations

import asyncio

import pytest

from backends import errors
from tests.lsp_server.session import NO_ANSWER, URI, Session


async def test_select_model_answers_with_the_new_one_and_tells_the_status(session: Session):
    await session.start()
    await session.status(model="fake-1b")
    answer = await session.command("midspan.selectModel", "other-2b")
    assert answer["result"] == {"name": "other-2b", "state": "ready"}
    assert session.manager.posted == [("/api/models/select", {"name": "other-2b"})]
    await session.status(model="other-2b", busy=False)


async def test_select_model_fails_with_the_sentence_for_the_user(session: Session):
    await session.start()
    await session.status(kind="Normal")
    session.manager.error = errors.UnknownModel("There is no model 'x'.")
    answer = await session.command("midspan.selectModel", "x")
    assert answer["error"]["code"] == -32803
    assert answer["error"]["message"] == "There is no model 'x'."
    assert answer["error"]["data"] == {"kind": "unknown_model"}


@pytest.mark.parametrize("arguments", [(), ("",), (5,), (None,), ({"name": "x"},)])
async def test_select_model_needs_a_name(session: Session, arguments):
    await session.start()
    answer = await session.command("midspan.selectModel", *arguments)
    assert answer["error"]["code"] == -32602
    assert session.manager.posted == []


async def test_select_model_shows_progress_and_can_be_cancelled(session: Session):
    await session.start({"window": {"workDoneProgress": True}})
    session.manager.hang = True
    asked = session.request(
        "workspace/executeCommand", {"command": "midspan.selectModel", "arguments": ["other"]}
    )
    begun = await session.until(lambda m: m.get("method") == "$/progress")
    assert begun["params"]["value"]["title"] == "Loading other"
    assert begun["params"]["value"]["cancellable"] is True
    session.notify("window/workDoneProgress/cancel", {"token": begun["params"]["token"]})
    assert (await session.answer(asked))["error"]["code"] == -32800
    await session.until(lambda m: m.get("params", {}).get("value", {}).get("kind") == "end")


async def test_select_model_uses_the_requests_own_progress_token(session: Session):
    await session.start()
    await session.call(
        "workspace/executeCommand",
        {"command": "midspan.selectModel", "arguments": ["m"], "workDoneToken": "mine"},
    )
    kinds = [m["params"]["value"]["kind"] for m in session.messages if m["method"] == "$/progress"]
    assert kinds == ["begin", "end"]
    assert not [m for m in session.messages if m["method"] == "window/workDoneProgress/create"]


async def test_client_that_never_answers_progress_gets_its_result(session: Session):
    session.client_answers["window/workDoneProgress/create"] = lambda params: NO_ANSWER
    await session.start({"window": {"workDoneProgress": True}})
    answer = await session.command("midspan.selectModel", "m")
    assert answer["result"]["name"] == "m"


async def test_list_models_passes_on_what_the_manager_says(session: Session):
    await session.start()
    answer = await session.command("midspan.listModels")
    assert answer["result"]["path"] == "/api/models/available"


async def test_status_says_what_is_wrong_without_failing(session: Session):
    await session.start()
    session.manager.error = errors.ManagerUnavailable("Nobody there.")
    result = (await session.command("midspan.status"))["result"]
    assert (result["models"], result["manager"]) == (None, "Nobody there.")
    assert result["positionEncoding"] == "utf-16"
    assert result["enabled"] is True


async def test_restart_asks_the_manager(session: Session):
    await session.start()
    assert (await session.command("midspan.restart"))["result"]["state"] == "ready"
    assert session.manager.posted == [("/api/manager/restart-worker", {})]


@pytest.mark.parametrize(
    ("arguments", "elsewhere"),
    [((), 0), (("language", "python"), 0), (("document", URI), 1)],
)
async def test_toggle_switches_off_and_on_again(session: Session, arguments, elsewhere):
    await session.start()
    other = "file:///work/folder/other.py"
    session.open("x = \n")
    session.open("x = \n", other)
    assert (await session.command("midspan.toggle", *arguments))["result"]["enabled"] is False
    assert await session.items(session.ghost(0, 4)) == []
    assert len(await session.items(session.ghost(0, 4, other))) == elsewhere
    assert (await session.command("midspan.toggle", *arguments))["result"]["enabled"] is True
    assert len(await session.items(session.ghost(0, 4))) == 1


async def test_toggle_refuses_an_unknown_scope(session: Session):
    await session.start()
    answer = await session.command("midspan.toggle", "galaxy")
    assert answer["error"]["code"] == -32602


async def test_commands_do_not_block_ghost_text(session: Session):
    await session.start()
    session.open("x = \n")
    session.manager.hang = True
    asked = session.request(
        "workspace/executeCommand", {"command": "midspan.selectModel", "arguments": ["m"]}
    )
    while not session.manager.posted:
        await asyncio.sleep(0.01)
    session.manager.hang = False
    assert len(await session.items(session.ghost(0, 4))) == 1
    session.manager.release.set()
    assert (await session.answer(asked))["result"]["name"] == "m"


async def test_add_model_keeps_a_file_under_a_name(session: Session):
    await session.start()
    answer = await session.command("midspan.addModel", {"path": "/m/a.gguf", "name": "a", "x": 1})
    assert answer["result"]["name"] == "a"
    assert session.manager.posted == [("/api/models/add", {"path": "/m/a.gguf", "name": "a"})]


@pytest.mark.parametrize("arguments", [(), (None,), ("/m/a.gguf",), ({},), ({"path": 5},)])
async def test_add_model_needs_a_path(session: Session, arguments):
    await session.start()
    answer = await session.command("midspan.addModel", *arguments)
    assert answer["error"]["code"] == -32602
    assert session.manager.posted == []
