from __future__ import annotations

import pytest

from backends import errors
from tests.lsp_server.session import URI, Session

LITERALS = {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": []}}}
RESOLVES = {
    "textDocument": {
        "codeAction": {
            **LITERALS,
            "dataSupport": True,
            "resolveSupport": {"properties": ["edit"]},
        }
    }
}
VERSIONED = {"workspace": {"workspaceEdit": {"documentChanges": True}}}
TEXT = "def f(a, b):\n    pass\n\n\nx = \n"


async def listed(session: Session, line, character, **context):
    position = {"line": line, "character": character}
    params = {
        "textDocument": {"uri": URI},
        "range": {"start": position, "end": position},
        "context": {"diagnostics": [], **context},
    }
    return (await session.call("textDocument/codeAction", params))["result"]


def edited(text: str, edit: dict) -> str:
    """Apply one text edit to a document of single-unit characters."""
    lines = text.splitlines(keepends=True)

    def offset(place):
        return sum(map(len, lines[: place["line"]])) + place["character"]

    start, end = (offset(edit["range"][name]) for name in ("start", "end"))
    return text[:start] + edit["newText"] + text[end:]


async def test_listing_generates_nothing(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    actions = await listed(session, 1, 4)
    assert [action["title"] for action in actions] == [
        "Fill in here",
        "Complete this function body",
    ]
    assert all("edit" not in action and "command" not in action for action in actions)
    assert session.manager.asked == []


async def test_body_is_not_offered_outside_a_function(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    assert [action["title"] for action in await listed(session, 4, 4)] == ["Fill in here"]


async def test_resolve_fills_in_at_the_cursor(session: Session):
    await session.start({**RESOLVES, **VERSIONED})
    session.open(TEXT)
    session.manager.content = "f(1, 2)"
    (action,) = await listed(session, 4, 4)
    resolved = (await session.call("codeAction/resolve", action))["result"]
    (change,) = resolved["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": URI, "version": 1}
    assert edited(TEXT, change["edits"][0]) == TEXT.replace("x = ", "x = f(1, 2)")
    assert session.manager.asked[0]["n_predict"] == 256


async def test_resolve_replaces_the_functions_body(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    session.manager.content = "return a + b"
    action = (await listed(session, 1, 4))[1]
    resolved = (await session.call("codeAction/resolve", action))["result"]
    ((edit,),) = resolved["edit"]["changes"].values()
    assert edited(TEXT, edit) == TEXT.replace("pass", "return a + b")
    assert session.manager.asked[0]["input_prefix"] == "def f(a, b):\n    "


async def test_resolve_of_a_text_that_changed_is_refused(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    (action,) = await listed(session, 4, 4)
    session.send(session.edit("#", 0, 0))
    answer = await session.call("codeAction/resolve", action)
    assert answer["error"]["code"] == -32801
    assert session.manager.asked == []


async def test_edit_during_resolve_gives_no_edit(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    (action,) = await listed(session, 4, 4)
    session.manager.hang = True
    asked = session.request("codeAction/resolve", action)
    await session.manager.started.wait()
    session.send(session.edit("#", 0, 0))
    await session.call("midspan/none", {})
    session.manager.release.set()
    assert (await session.answer(asked))["error"]["code"] == -32801


async def test_typing_does_not_cancel_what_was_asked_for_by_hand(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    (action,) = await listed(session, 4, 4)
    session.manager.hang = True
    asked = session.request("codeAction/resolve", action)
    await session.manager.started.wait()
    assert await session.items(session.ghost(4, 4)) == []
    session.manager.release.set()
    assert "edit" in (await session.answer(asked))["result"]


async def test_resolve_shows_progress_and_its_cancel_stops_the_generation(session: Session):
    await session.start({**RESOLVES, "window": {"workDoneProgress": True}})
    session.open(TEXT)
    (action,) = await listed(session, 4, 4)
    session.manager.hang = True
    asked = session.request("codeAction/resolve", action)
    begun = await session.until(lambda m: m.get("method") == "$/progress")
    assert begun["params"]["value"]["title"] == "Fill in here"
    await session.manager.started.wait()
    session.notify("window/workDoneProgress/cancel", {"token": begun["params"]["token"]})
    assert (await session.answer(asked))["error"]["code"] == -32800
    assert session.manager.cancelled == 1


async def test_failure_of_resolve_says_why(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT)
    (action,) = await listed(session, 4, 4)
    session.manager.error = errors.NoFim("fake-1b is a chat model.")
    answer = await session.call("codeAction/resolve", action)
    assert answer["error"] == {"code": -32803, "message": "fake-1b is a chat model."}


@pytest.mark.parametrize("data", [None, 5, {}, {"uri": URI}, {"uri": URI, "revision": "x"}])
async def test_resolve_of_what_is_not_ours_is_refused(session: Session, data):
    await session.start(RESOLVES)
    session.open(TEXT)
    answer = await session.call("codeAction/resolve", {"title": "Fill in here", "data": data})
    assert answer["error"]["code"] == -32602


async def test_client_that_cannot_resolve_gets_a_command(session: Session):
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": True}
    await session.start(
        {
            "textDocument": {"codeAction": LITERALS},
            "workspace": {"applyEdit": True, "workspaceEdit": {"documentChanges": True}},
        }
    )
    session.open(TEXT)
    session.manager.content = "f(1, 2)"
    (action,) = await listed(session, 4, 4)
    command = action["command"]
    answer = await session.command(command["command"], *command["arguments"])
    assert "error" not in answer
    applied = await session.until(lambda m: m.get("method") == "workspace/applyEdit")
    (change,) = applied["params"]["edit"]["documentChanges"]
    assert edited(TEXT, change["edits"][0]) == TEXT.replace("x = ", "x = f(1, 2)")


async def test_client_without_action_literals_gets_bare_commands(session: Session):
    await session.start()
    session.open(TEXT)
    (command,) = await listed(session, 4, 4)
    assert command["command"] == "midspan.fill"
    answer = await session.command(command["command"], *command["arguments"])
    assert answer["error"]["message"] == "This editor cannot apply edits."


async def test_client_that_refuses_the_edit_is_an_error(session: Session):
    session.client_answers["workspace/applyEdit"] = lambda params: {"applied": False}
    await session.start({"workspace": {"applyEdit": True}})
    session.open(TEXT)
    (command,) = await listed(session, 4, 4)
    answer = await session.command(command["command"], *command["arguments"])
    assert answer["error"]["message"] == "The editor did not apply the edit."


@pytest.mark.parametrize(
    ("context", "offered", "why"),
    [
        ({}, True, "no kinds named"),
        ({"triggerKind": 1}, True, "asked for by hand"),
        ({"triggerKind": 2}, False, "a light bulb that is always lit says nothing"),
        ({"only": ["refactor"]}, True, "a parent of our kind"),
        ({"only": ["refactor.rewrite"]}, True, "our kind"),
        ({"only": ["refactor.rewrite.fill"]}, True, "the very action"),
        ({"only": ["refactor.rewrite.body"]}, False, "another of our actions"),
        ({"only": ["refactor.rewrite.fill.more"]}, False, "a child of our kind"),
        ({"only": ["quickfix"]}, False, "another kind"),
        ({"only": ["refactor"], "triggerKind": 2}, True, "named, so wanted"),
    ],
)
async def test_actions_are_listed_when_wanted(session: Session, context, offered, why):
    await session.start(RESOLVES)
    session.open(TEXT)
    assert bool(await listed(session, 4, 4, **context)) == offered, why


async def test_secret_files_have_no_actions(session: Session):
    await session.start(RESOLVES)
    session.open(TEXT, "file:///w/.env")
    position = {"line": 0, "character": 0}
    answer = await session.call(
        "textDocument/codeAction",
        {
            "textDocument": {"uri": "file:///w/.env"},
            "range": {"start": position, "end": position},
            "context": {"diagnostics": []},
        },
    )
    assert answer["result"] == []
