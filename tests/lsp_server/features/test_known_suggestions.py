"""Keys that a known suggestion answers: nobody is asked."""

from __future__ import annotations

import pytest

from tests.lsp_server.session import URI, Session

TEXT = "def f(a):\n    \n\nx = 1\n"
SHOWN = "return a + 1\n    # done"
QUIET = {"prefetch": False, "alternatives": 0}


@pytest.fixture
async def shown(session: Session) -> Session:
    """SHOWN is shown at 1:4."""
    await session.start(options=QUIET)
    session.open(TEXT)
    session.manager.content = SHOWN
    assert await texts(session, 1, 4) == [SHOWN]
    session.manager.content = "something else"
    return session


async def texts(session: Session, line: int, character: int, **context: object) -> list[str]:
    items = await session.items(session.ghost(line, character, **context))
    return [item["insertText"] for item in items]


async def test_typing_through_and_deleting_back_ask_nobody(shown: Session):
    at = 4
    for key in "return a":
        shown.send(shown.edit(key, 1, at))
        at += 1
        assert await texts(shown, 1, at) == [SHOWN[at - 4 :]]
    for _ in range(3):
        shown.send(shown.erase(1, at - 1, at))
        at -= 1
        assert await texts(shown, 1, at) == [SHOWN[at - 4 :]]
    assert len(shown.manager.asked) == 1
    stats = (await shown.command("midspan.status"))["result"]["stats"]
    assert (stats["typedThrough"], stats["deletedBack"], stats["evaluated"]) == (8, 3, 1)


async def test_word_and_line_accepted_leave_the_rest(shown: Session):
    shown.send(shown.edit("return ", 1, 4))
    assert await texts(shown, 1, 11, triggerKind=1) == ["a + 1\n    # done"]
    shown.send(shown.edit("a + 1\n    ", 1, 11))
    assert await texts(shown, 2, 4) == ["# done"]
    assert len(shown.manager.asked) == 1


async def test_all_accepted_is_asked_anew(shown: Session):
    shown.send(shown.edit(SHOWN, 1, 4))
    assert await texts(shown, 2, 10) == ["something else"]
    assert len(shown.manager.asked) == 2


async def test_other_text_typed_is_asked_anew_and_deleting_it_is_not(shown: Session):
    shown.send(shown.edit("x", 1, 4))
    assert await texts(shown, 1, 5) == ["something else"]
    shown.send(shown.erase(1, 4, 5))
    assert await texts(shown, 1, 4) == [SHOWN]
    assert len(shown.manager.asked) == 2


async def test_changed_text_behind_the_cursor_is_asked_anew(shown: Session):
    shown.send(shown.edit("y = 2", 2, 0))
    assert await texts(shown, 1, 4) == ["something else"]


async def test_entry_of_the_popup_is_extended_from_what_is_known(shown: Session):
    shown.send(shown.edit("re", 1, 4))
    start, end = {"line": 1, "character": 4}, {"line": 1, "character": 6}
    chosen = {"range": {"start": start, "end": end}, "text": "return"}
    (item,) = await shown.items(shown.ghost(1, 6, selectedCompletionInfo=chosen))
    assert (item["insertText"], item["range"]) == (SHOWN, chosen["range"])
    assert len(shown.manager.asked) == 1
    other = {**chosen, "text": "reduce"}
    assert await texts(shown, 1, 6, selectedCompletionInfo=other) == ["reducesomething else"]


async def test_switched_off_is_off_for_what_is_known(shown: Session):
    await shown.command("midspan.toggle")
    assert await texts(shown, 1, 4) == []
    await shown.command("midspan.toggle")
    assert await texts(shown, 1, 4) == [SHOWN]


async def test_another_model_does_not_answer_for_the_old(shown: Session):
    await shown.command("midspan.selectModel", "other-2b")
    assert await texts(shown, 1, 4) == ["something else"]


async def test_failed_switch_keeps_what_is_known(shown: Session):
    await shown.command("midspan.selectModel", "")
    assert await texts(shown, 1, 4) == [SHOWN]


async def test_closed_document_is_forgotten(shown: Session):
    shown.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    shown.open(TEXT)
    assert await texts(shown, 1, 4) == ["something else"]


async def test_known_suggestion_cancels_the_generation_under_way(shown: Session):
    shown.manager.hang = True
    older = shown.ghost(0, 3)
    while len(shown.manager.asked) < 2:
        await shown.command("midspan.didAccept")
    assert await texts(shown, 1, 4) == [SHOWN]
    assert await shown.items(older) == []
    assert shown.manager.cancelled == 1


async def test_crlf_document_gets_crlf_of_what_is_known(session: Session):
    await session.start(options=QUIET)
    session.open(TEXT.replace("\n", "\r\n"))
    session.manager.content = "b = a\n    return b"
    for _ in range(2):
        assert await texts(session, 1, 4) == ["b = a\r\n    return b"]
    session.send(session.edit("b = a\r\n    ", 1, 4))
    assert await texts(session, 2, 4) == ["return b"]
    assert len(session.manager.asked) == 1


async def test_by_hand_on_a_line_with_more_is_not_answered_with_a_single_line(session: Session):
    await session.start(options=QUIET)
    session.open(TEXT)
    await texts(session, 0, 6)
    await texts(session, 0, 6, triggerKind=1)
    assert [body["single_line"] for body in session.manager.asked] == [True, False]
