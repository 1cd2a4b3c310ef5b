from __future__ import annotations

import asyncio

import pytest

from backends import errors
from tests.lsp_server.session import URI, Session, at

TEXT = "def f(a):\n    \n\nx = 1\n"


def place(line, character):
    return {"line": line, "character": character}


async def test_item_is_inserted_at_the_cursor(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.content = "return a"
    (item,) = await session.items(session.ghost(1, 4))
    assert item["insertText"] == "return a"
    assert item["range"] == {"start": place(1, 4), "end": place(1, 4)}
    assert item["command"]["command"] == "midspan.didAccept"
    done = await session.command(item["command"]["command"], *item["command"]["arguments"])
    assert done["result"] is None


async def test_request_body_is_what_the_manager_expects(session: Session):
    await session.start()
    session.open(TEXT)
    await session.items(session.ghost(1, 4))
    assert session.manager.asked == [
        {
            "input_prefix": "def f(a):\n    ",
            "input_suffix": "\n\nx = 1\n",
            "n_predict": 96,
            "single_line": False,
            "limit_scope": True,
            "deadline_ms": 2000,
            "temperature": 0,
            "document": URI,
            "path": "a.py",  # from the workspace folder on
        }
    ]


@pytest.mark.parametrize(
    ("multiline", "kind", "where", "single", "why"),
    [
        ("auto", 2, (1, 4), False, "the rest of the line is empty"),
        ("auto", 2, (0, 6), True, "text behind the cursor"),
        ("auto", 1, (0, 6), False, "asked for by hand"),
        ("never", 1, (1, 4), True, "the user wants single lines"),
        ("always", 2, (0, 6), False, "the user wants all of it"),
    ],
)
async def test_single_line_follows_the_setting_and_the_line(
    session: Session, multiline, kind, where, single, why
):
    await session.start(options={"multiline": multiline, "maxTokens": 50, "maxTokensLine": 9})
    session.open(TEXT)
    await session.items(session.ghost(*where, triggerKind=kind))
    body = session.manager.asked[0]
    assert (body["single_line"], body["n_predict"]) == (single, 9 if single else 50), why


async def test_trigger_kinds_counted_from_zero_are_understood(session: Session):
    """languageclient 9 sends VS Code's 0 and 1; after the first 0 a 1 means automatic."""
    await session.start(options={"alternatives": 0})
    session.open(TEXT)
    for character, kind in enumerate((1, 0, 1, 2), start=2):
        await session.items(session.ghost(0, character, triggerKind=kind))
    single = [body["single_line"] for body in session.manager.asked]
    assert single == [False, False, True, True]


async def test_request_without_a_context_is_answered(session: Session):
    await session.start()
    session.open(TEXT)
    params = {"textDocument": {"uri": URI, "version": 1}, "position": place(1, 4)}
    answer = await session.call("textDocument/inlineCompletion", params)
    assert len(answer["result"]["items"]) == 1


async def test_item_extends_what_the_popup_has_chosen(session: Session):
    await session.start()
    session.open("import os\nos.pa\n")
    session.manager.content = ".join(a)"
    chosen = {"range": {"start": place(1, 3), "end": place(1, 5)}, "text": "path"}
    (item,) = await session.items(session.ghost(1, 5, selectedCompletionInfo=chosen))
    assert item["insertText"] == "path.join(a)"
    assert item["range"] == chosen["range"]
    assert session.manager.asked[0]["input_prefix"] == "import os\nos.path"
    assert session.manager.asked[0]["input_suffix"] == "\n"


async def test_chosen_popup_entry_elsewhere_is_ignored(session: Session):
    await session.start()
    session.open("one\ntwo\n")
    chosen = {"range": {"start": place(0, 0), "end": place(1, 3)}, "text": "three"}
    (item,) = await session.items(session.ghost(1, 3, selectedCompletionInfo=chosen))
    assert item["range"] == {"start": place(1, 3), "end": place(1, 3)}


async def test_newer_request_cancels_the_older(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.hang = True
    older = session.ghost(1, 4)
    await session.manager.started.wait()
    session.manager.hang = False
    newer = session.ghost(1, 4)
    assert await session.items(older) == []
    assert len(await session.items(newer)) == 1
    assert session.manager.cancelled == 1


async def test_requests_of_two_documents_do_not_disturb_each_other(session: Session):
    await session.start()
    other = "file:///work/folder/b.py"
    session.open(TEXT)
    session.open(TEXT, other)
    session.manager.hang = True
    ids = [session.ghost(1, 4), session.ghost(1, 4, other)]
    while len(session.manager.asked) < 2:
        await asyncio.sleep(0.01)
    session.manager.release.set()
    assert [len(await session.items(msg_id)) for msg_id in ids] == [1, 1]


async def test_cancel_request_reaches_the_manager(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.hang = True
    asked = session.ghost(1, 4)
    await session.manager.started.wait()
    session.notify("$/cancelRequest", {"id": asked})
    answer = await session.answer(asked)
    assert answer["error"]["code"] == -32800
    assert session.manager.cancelled == 1


async def test_edit_during_the_generation_leaves_no_suggestion(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.hang = True
    asked = session.ghost(1, 4)
    await session.manager.started.wait()
    session.send(session.edit("y", 1, 4))
    assert await session.items(asked) == []
    assert session.manager.cancelled == 1
    await session.status(reason="the document changed meanwhile")


async def test_edit_right_behind_the_request_is_not_in_its_snapshot(session: Session):
    """Both in one read: the request is about the text before the edit, and is then stale."""
    await session.start()
    session.open(TEXT)
    session.manager.hang = True
    await session.status(kind="Normal")
    session._waiting[77] = asyncio.get_running_loop().create_future()
    session.send(
        {
            "id": 77,
            "method": "textDocument/inlineCompletion",
            "params": {
                "textDocument": {"uri": URI},
                "position": place(1, 4),
                "context": {"triggerKind": 2},
            },
        },
        session.edit("NEW", 0, 0),
    )
    assert await session.items(77) == []
    assert all("NEW" not in body["input_prefix"] for body in session.manager.asked)


async def test_close_during_the_generation_leaves_no_suggestion(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.hang = True
    asked = session.ghost(1, 4)
    await session.manager.started.wait()
    session.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert await session.items(asked) == []


async def test_crlf_document_gets_crlf_and_the_model_does_not(session: Session):
    await session.start()
    session.open("def f(a):\r\n    \r\nx = 1\r\n")
    session.manager.content = "b = a\n    return b"
    (item,) = await session.items(session.ghost(1, 4))
    assert item["insertText"] == "b = a\r\n    return b"
    assert "\r" not in session.manager.asked[0]["input_prefix"]
    assert "\r" not in session.manager.asked[0]["input_suffix"]


@pytest.mark.parametrize(("encoding", "character"), [("utf-8", 9), ("utf-16", 7), ("utf-32", 6)])
async def test_position_is_in_the_agreed_encoding(session: Session, encoding, character):
    await session.start({"general": {"positionEncodings": [encoding]}})
    session.open("s = '😀', \n")
    (item,) = await session.items(session.ghost(0, character))
    assert session.manager.asked[0]["input_prefix"] == "s = '😀"
    assert item["range"]["start"]["character"] == character


@pytest.mark.parametrize(
    ("uri", "options", "reason"),
    [
        ("file:///w/.env", {}, ".env may hold secrets"),
        ("file:///w/server.pem", {}, "server.pem may hold secrets"),
        (URI, {"enabled": False}, "switched off"),
        (URI, {"disabledLanguages": ["python"]}, "switched off for python"),
    ],
)
async def test_no_suggestion_has_a_reason_and_asks_nobody(session: Session, uri, options, reason):
    await session.start(options=options)
    session.open(TEXT, uri)
    assert await session.items(session.ghost(1, 4, uri)) == []
    await session.until(
        lambda m: m.get("method") == "midspan/status" and reason in m["params"]["reason"]
    )
    assert session.manager.asked == []


async def test_unopened_document_has_no_suggestion(session: Session):
    await session.start()
    assert await session.items(session.ghost(1, 4)) == []
    await session.status(reason="the editor has not opened this document")


async def test_huge_document_is_declined(session: Session, monkeypatch):
    monkeypatch.setattr("lsp_server.snapshot.MAX_DOCUMENT", 10)
    await session.start()
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4)) == []
    message = await session.until(lambda m: "too large" in str(m))
    assert message["params"]["reason"].startswith("the document is too large")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.NoFim("x is a chat model."), "Inactive"),
        (errors.ManagerUnavailable("No manager."), "Error"),
        (errors.LoadFailed("Too big."), "Error"),
        (errors.EngineMissing("Install it."), "Error"),
        (errors.WorkerDied("It died."), "Warning"),
        (errors.BadRequest("What?"), "Warning"),
    ],
)
async def test_errors_become_a_status_and_pop_up_nothing(session: Session, error, kind):
    await session.start()
    session.open(TEXT)
    await session.status(kind="Normal")
    session.manager.error = error
    assert await session.items(session.ghost(1, 4)) == []
    await session.status(kind=kind, reason=str(error), busy=False)
    session.manager.error = None
    assert len(await session.items(session.ghost(1, 4))) == 1
    await session.status(kind="Normal", reason="", model="fake-1b")
    assert not [m for m in session.messages if "window/" in m.get("method", "")]


async def test_only_a_slow_suggestion_is_shown_to_be_under_way(session: Session):
    await session.start()
    session.open(TEXT)
    await session.status(kind="Normal")
    for _ in range(3):
        await session.items(session.ghost(1, 4))
    assert not [m for m in session.messages if m.get("method") == "midspan/status"]
    session.manager.hang = True
    asked = session.ghost(1, 3)
    await session.status(busy=True, message="Completing")
    session.manager.release.set()
    assert await session.items(asked)
    await session.status(busy=False, message="")


async def test_nothing_left_after_tidying_has_a_reason(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.content = "   "
    assert await session.items(session.ghost(1, 4)) == []
    message = await session.until(lambda m: "reason" in str(m) and m["params"].get("reason"))
    assert message["params"]["reason"]


async def test_debounce_waits_and_gives_way(session: Session):
    await session.start(options={"debounceMs": 200})
    session.open(TEXT)
    older = session.ghost(1, 4)
    newer = session.ghost(1, 4)
    assert await session.items(older) == []
    assert len(await session.items(newer)) == 1
    assert len(session.manager.asked) == 1


async def test_asked_for_by_hand_gives_several_to_choose_from(session: Session):
    """As the specification says of `Invoked`; drawn with fixed seeds, each text once."""
    await session.start(options={"alternatives": 3})
    session.open(TEXT)
    session.manager.contents = ["return a", "return a + 1", "return a", "pass"]
    items = await session.items(session.ghost(1, 4, triggerKind=1))
    assert [item["insertText"] for item in items] == ["return a", "return a + 1", "pass"]
    assert len({item["command"]["arguments"][0] for item in items}) == 3
    # One more is wanted: it is drawn for a while, and given up.
    assert [body.get("seed") for body in session.manager.asked] == [None, *range(1, 10)]
    assert [body["temperature"] > 0 for body in session.manager.asked] == [False, *[True] * 9]


async def test_drawing_ends_when_there_are_as_many_as_are_wanted(session: Session):
    await session.start(options={"alternatives": 2})
    session.open(TEXT)
    session.manager.contents = ["return a", "return a", "return 1", "return a", "pass", "a = 1"]
    items = await session.items(session.ghost(1, 4, triggerKind=1))
    assert [item["insertText"] for item in items] == ["return a", "return 1", "pass"]
    assert [body.get("seed") for body in session.manager.asked] == [None, 1, 2, 3, 4]


async def test_text_whose_time_was_up_is_no_alternative(session: Session):
    await session.start(options={"alternatives": 1})
    session.open(TEXT)
    session.manager.contents = ["return a", "return a +"]
    session.manager.reasons = ["stop", "deadline"]
    items = await session.items(session.ghost(1, 4, triggerKind=1))
    assert [item["insertText"] for item in items] == ["return a"]


async def test_edit_while_alternatives_are_drawn_leaves_no_suggestion(session: Session):
    await session.start(options={"alternatives": 1})
    session.open(TEXT)
    session.manager.hang_from = 2
    asked = session.ghost(1, 4, triggerKind=1)
    while len(session.manager.asked) < 2:
        await asyncio.sleep(0.01)
    session.send(session.edit("y", 1, 4))
    assert await session.items(asked) == []
    assert session.manager.cancelled == 1


@pytest.mark.parametrize(("version", "count"), [(1, 0), (2, 1), (3, 0), (None, 1), ("2", 1)])
async def test_request_about_another_version_is_empty(session: Session, version, count):
    await session.start()
    session.open(TEXT)
    session.send(session.edit("y", 3, 5))  # to version 2
    params = at(1, 4)
    params["textDocument"]["version"] = version
    params["formattingOptions"] = {"tabSize": 4, "insertSpaces": True}
    answer = await session.call("textDocument/inlineCompletion", params)
    assert len(answer["result"]["items"]) == count
