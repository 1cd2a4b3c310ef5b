"""Copilot's dialect, as its clients speak it: what they send, and what they need back."""

from __future__ import annotations

import asyncio

import pytest

from lsp_server.ledger import Count
from tests.lsp_server.session import URI, Session, at

TEXT = "def f(a):\n    \n\nx = 1\n"
PLUGIN = {
    "editorInfo": {"name": "Emacs", "version": "30"},
    "editorPluginInfo": {"name": "copilot.el", "version": "1"},
    "networkProxy": {"host": "proxy"},
}


def counted(session: Session) -> dict[str, int]:
    """What the ledger counts, by name, latencies left out."""
    counts: dict[str, int] = {}
    for row in session.server.ledger.unwritten():
        if isinstance(row.what, Count):
            counts[row.what.value] = counts.get(row.what.value, 0) + row.n
    return counts


async def settled(session: Session) -> None:
    """All that was sent has been handled."""
    await session.command("midspan.didAccept", "nothing")


@pytest.fixture(autouse=True)
def slow_ledger(monkeypatch):
    """Nothing is written: what is counted stays to be looked at."""
    monkeypatch.setattr("lsp_server.ledger.WRITE_AFTER_S", 300)
    monkeypatch.setattr("lsp_server.ledger.Ledger._write", lambda self, rows: True)


async def shown_item(session: Session, content: str = "return a + b") -> dict:
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.content = content
    (item,) = await session.items(session.ghost(1, 4))
    return item


async def test_item_that_is_accepted_is_counted_once(session: Session):
    item = await shown_item(session)
    session.notify("textDocument/didShowCompletion", {"item": item})
    session.notify("textDocument/didShowCompletion", {"item": {"command": item["command"]}})
    for _ in range(2):
        done = await session.call("workspace/executeCommand", item["command"])
        assert done["result"] is None
    assert counted(session) == {
        "offered": 1,
        "shown": 1,
        "accepted": 1,
        "whole": 1,
        "characters": len("return a + b"),
    }


async def test_parts_are_cumulative_and_counted_by_length(session: Session):
    item = await shown_item(session, "x = '😀' + b")

    def accept(units):
        session.notify(
            "textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": units}
        )

    for units in (2, 2, 1, 8, 99):  # "x ", again, less, "= '😀' " and the rest
        accept(units)
    await settled(session)
    assert counted(session) == {
        "offered": 1,
        "shown": 1,
        "accepted": 1,
        "word": 1,
        "line": 2,
        "characters": len("x = '😀' + b"),
    }


async def test_rest_of_a_suggestion_is_the_same_one(session: Session):
    """Clients ask again after each word that was accepted, and after each that was typed."""
    item = await shown_item(session)
    session.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 7})
    session.send(session.edit("return ", 1, 4))
    (rest,) = await session.items(session.ghost(1, 11))
    assert rest["insertText"] == "a + b"
    assert rest["command"]["arguments"] != item["command"]["arguments"]
    session.send(session.edit("a", 1, 11))
    (rest,) = await session.items(session.ghost(1, 12))
    await session.call("workspace/executeCommand", rest["command"])
    counts = counted(session)
    assert counts["offered"] == counts["shown"] == counts["accepted"] == 1
    assert counts["characters"] == len("return ") + len(" + b")


async def test_what_is_not_shown_is_offered_alone_once_the_client_tells(session: Session):
    item = await shown_item(session)
    session.notify("textDocument/didShowCompletion", {"item": item})
    session.manager.content = "other"
    await session.items(session.ghost(0, 9))
    await settled(session)
    assert counted(session) == {"offered": 2, "shown": 1}


@pytest.mark.parametrize(
    "params",
    [
        None,
        [],
        7,
        {},
        {"item": None, "acceptedLength": 1},
        {"item": {"command": {"arguments": []}}, "acceptedLength": 1},
        {"item": {"command": {"arguments": [{"a": 1}]}}, "acceptedLength": 1},
        {"item": {"command": {"arguments": ["nobody's"]}}, "acceptedLength": 1},
        {"item": "it", "acceptedLength": -3},
        {"item": "it", "acceptedLength": 2.5},
        {"item": "it", "acceptedLength": "4"},
        {"item": "it", "acceptedLength": True},
        {"item": "it", "acceptedLength": 0},
        {"item": "it"},
    ],
)
async def test_event_that_cannot_be_counts_nothing_and_pops_up_nothing(session: Session, params):
    item = await shown_item(session)
    if isinstance(params, dict) and params.get("item") == "it":
        params = {**params, "item": item}
    before = counted(session)
    session.notify("textDocument/didPartiallyAcceptCompletion", params)
    session.notify("textDocument/didFocus", params)
    session.notify("textDocument/didShowCompletion", params if params != {"item": item} else {})
    await settled(session)
    counts = counted(session)
    counts.pop("shown", None)
    before.pop("shown", None)
    assert counts == before
    assert not [m for m in session.messages if m.get("method") == "window/showMessage"]


@pytest.mark.parametrize("arguments", [None, [], [5], [{"x": 1}], ["unknown"], [None]])
async def test_accept_command_is_harmless_with_any_arguments(session: Session, arguments):
    await session.start()
    params = {"command": "midspan.didAccept", "arguments": arguments}
    assert (await session.call("workspace/executeCommand", params))["result"] is None


async def test_status_is_sent_in_copilots_words(session: Session):
    await session.start(options={"editorInfo": {"name": "x", "version": "1"}})
    message = await session.until(
        lambda m: m.get("method") == "didChangeStatus" and m["params"]["kind"] == "Normal"
    )
    assert set(message["params"]) == {"kind", "busy", "message"}


async def test_other_clients_are_not_sent_copilots_status(session: Session):
    await session.start()
    await session.status(kind="Normal")
    assert not [m for m in session.messages if m.get("method") == "didChangeStatus"]


async def test_copilots_clients_count_in_utf16_whatever_their_editor_offers(session: Session):
    capabilities = {"general": {"positionEncodings": ["utf-8", "utf-16"]}}
    result = await session.start(capabilities, PLUGIN)
    assert result["capabilities"]["positionEncoding"] == "utf-16"
    assert "completionProvider" not in result["capabilities"]
    assert not [m for m in session.messages if m.get("method") == "window/logMessage"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("checkStatus", {"status": "OK", "user": "local"}),
        ("signIn", {"status": "AlreadySignedIn", "user": "local"}),
        ("signInInitiate", {"status": "AlreadySignedIn", "user": "local"}),
        ("signInConfirm", {"status": "OK", "user": "local"}),
        ("signOut", {"status": "NotSignedIn"}),
        ("setEditorInfo", "OK"),
        ("notifyRejected", "OK"),
        ("notifyShown", "OK"),
        ("notifyAccepted", "OK"),
    ],
)
@pytest.mark.parametrize("params", [None, {}, {"options": {"localChecksOnly": True}, "_": True}])
async def test_questions_at_start_are_answered(session: Session, method, expected, params):
    await session.start(options=PLUGIN)
    assert (await session.call(method, params))["result"] == expected


async def test_version_and_models_are_told(session: Session):
    await session.start(options=PLUGIN)
    assert (await session.call("getVersion", {}))["result"]["version"]
    assert (await session.call("copilot/models", {}))["result"] == []


# --- the panel -----------------------------------------------------------------------------------


async def test_panel_streams_what_differs(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.contents = ["return a", "return 1", "return a", "pass"]
    params = {**at(1, 4), "partialResultToken": "t"}
    answer = await session.call("textDocument/copilotPanelCompletion", params)
    assert answer["result"] == {"items": []}
    sent = [m["params"] for m in session.messages if m.get("method") == "$/progress"]
    assert {progress["token"] for progress in sent} == {"t"}
    texts = [item["insertText"] for progress in sent for item in progress["value"]["items"]]
    assert texts == ["return a", "return 1", "pass"]
    assert [body.get("seed") for body in session.manager.asked] == [None, *range(1, 10)]
    item = sent[1]["value"]["items"][0]
    await session.call("workspace/executeCommand", item["command"])
    assert counted(session)["accepted"] == 1


async def test_panel_without_a_token_answers_with_all(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.contents = ["return a", "return 1"]
    answer = await session.call("textDocument/copilotPanelCompletion", at(1, 4))
    texts = [item["insertText"] for item in answer["result"]["items"]]
    assert texts == ["return a", "return 1", "pass"]


async def test_panel_ends_when_the_document_changes(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.hang_from = 2
    params = {**at(1, 4), "partialResultToken": 5}
    asked = session.request("textDocument/copilotPanelCompletion", params)
    while len(session.manager.asked) < 2:
        await asyncio.sleep(0.01)
    session.send(session.edit("y", 0, 0))
    await settled(session)
    session.manager.release.set()
    assert (await session.answer(asked))["result"] == {"items": []}
    assert len([m for m in session.messages if m.get("method") == "$/progress"]) == 1


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"textDocument": 5, "position": 5},
        {"textDocument": {"uri": "file:///nowhere"}, "position": {"line": 0, "character": 0}},
        {"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}},
        {"textDocument": {"uri": URI}, "position": {"line": "0", "character": 0}},
        {"textDocument": {"uri": URI, "version": 9}, "position": {"line": 0, "character": 0}},
    ],
)
async def test_panel_at_no_place_is_empty(session: Session, params):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    answer = await session.call("textDocument/copilotPanelCompletion", params)
    assert answer["result"] == {"items": []}
    assert session.manager.asked == []


# --- as it was before ----------------------------------------------------------------------------


def doc(**more):
    return {"doc": {"uri": URI, "version": 1, "position": {"line": 1, "character": 4}}, **more}


async def test_old_request_is_answered_in_its_words(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.content = "return a"
    answer = await session.call("getCompletions", doc())
    (completion,) = answer["result"]["completions"]
    place = {"line": 1, "character": 4}
    assert completion.pop("uuid")
    assert completion == {
        "text": "    return a",  # from the start of the line, whose blanks it replaces
        "displayText": "return a",
        "position": place,
        "range": {"start": {"line": 1, "character": 0}, "end": place},
        "docVersion": 1,
    }
    await session.until(lambda m: m.get("method") == "statusNotification")


async def test_old_cycling_gives_several_and_their_events_count(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.contents = ["return a", "return b", "pass"]
    answer = await session.call("getCompletionsCycling", doc())
    first, second, _ = answer["result"]["completions"]
    assert second["text"] == "    return b"
    await session.call("notifyShown", {"uuid": first["uuid"]})
    await session.call("notifyAccepted", {"uuid": second["uuid"], "acceptedLength": 6})
    counts = counted(session)
    assert (counts["offered"], counts["shown"], counts["accepted"], counts["word"]) == (1, 1, 1, 1)


async def test_old_request_about_another_version_is_empty(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.send(session.edit("y", 3, 5))
    assert (await session.call("getCompletions", doc()))["result"] == {"completions": []}
    assert (await session.call("getCompletions", None))["result"] == {"completions": []}


async def test_old_panel_sends_solutions_and_their_end(session: Session):
    await session.start(options=PLUGIN)
    session.open(TEXT)
    session.manager.contents = ["return a", "return b"]
    answer = await session.call("getPanelCompletions", doc(panelId="copilot:///1"))
    assert answer["result"]["solutionCountTarget"] >= 2
    end = await session.until(lambda m: m.get("method") == "PanelSolutionsDone")
    assert end["params"] == {"panelId": "copilot:///1", "status": "OK"}
    sent = [m["params"] for m in session.messages if m.get("method") == "PanelSolution"]
    assert [s["completionText"] for s in sent] == ["return a", "return b", "pass"]
    assert len({s["solutionId"] for s in sent}) == 3
    assert [s["score"] for s in sent] == sorted((s["score"] for s in sent), reverse=True)


# --- kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rewrite", "kept"), [(None, 1), ("nothing of it", 0), ("closed", None)])
async def test_accepted_text_is_looked_for_later(session: Session, monkeypatch, rewrite, kept):
    monkeypatch.setattr("lsp_server.offers.KEPT_AFTER_S", 0.1)
    monkeypatch.setattr("lsp_server.ledger.WRITE_AFTER_S", 0.02)
    written = []
    monkeypatch.setattr(
        "lsp_server.ledger.Ledger._write", lambda self, rows: written.extend(rows) or True
    )
    item = await shown_item(session, "return a + b")
    session.send(session.edit("return a + b", 1, 4))
    session.notify("workspace/executeCommand", item["command"])
    await session.call("workspace/executeCommand", item["command"])
    if rewrite == "closed":
        session.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    elif rewrite is not None:
        session.send(session.erase(1, 4, 16), session.edit(rewrite, 1, 4))
    await asyncio.sleep(0.3)
    for _ in range(200):
        counts = {row.what: row.n for row in written}
        if kept is None or Count.CHECKED in counts:
            break
        await asyncio.sleep(0.05)
    assert counts.get(Count.KEPT, 0) == (kept or 0)
    assert (Count.CHECKED in counts) is (kept is not None)


async def test_ledger_is_switched_off_by_its_setting(session: Session):
    await session.start(options={"ledger": False})
    session.open(TEXT)
    (item,) = await session.items(session.ghost(1, 4))
    await session.call("workspace/executeCommand", item["command"])
    assert counted(session) == {}
