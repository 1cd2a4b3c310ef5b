from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from backends import errors
from lsp_server import idle
from lsp_server.documents import Document
from lsp_server.idle import next_indent, upcoming
from lsp_server.snapshot import take
from tests.lsp_server.session import PATIENCE, URI, Session

TEXT = "def f(a):\n    \n\nx = 1\n"
BEFORE = "def f(a):\n    "


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def rest() -> None:
    """Longer than anything waits before it begins."""
    await asyncio.sleep(idle.PREFETCH_AFTER_S + idle.WARM_AFTER_S)


def prefixes(session: Session) -> list[str]:
    return [body["input_prefix"] for body in session.manager.asked]


@pytest.mark.parametrize(
    ("before", "indent", "why"),
    [
        ("", "", "nothing is there"),
        ("    x = 1", "    ", "as the line before"),
        ("def f():", "    ", "four spaces where nothing tells otherwise"),
        ("if a:\n  b\nif c:", "  ", "as the document does it"),
        ("  if (a) {", "    ", "one level deeper"),
        ("func f() {\n\tg()\n\tif x {", "\t\t", "tabs"),
        ("f(a,", "", "the bracket does not end the line"),
    ],
)
def test_next_indent_is_an_editors(before: str, indent: str, why: str):
    assert next_indent(before) == indent, why


def test_upcoming_is_behind_the_text_and_on_the_next_line():
    document = Document(URI, TEXT, 1, "python")
    snapshot = take(document, 14)
    places = upcoming(snapshot, "return a")
    assert [place.before for place in places] == [
        BEFORE + "return a",
        BEFORE + "return a\n    ",
    ]
    assert {place.after for place in places} == {snapshot.after}
    assert len(upcoming(snapshot, "b = a\n    return b")) == 1, "several lines"
    assert len(upcoming(take(document, 6), "b")) == 1, "the line goes on"


async def test_accepted_suggestion_is_followed_by_one_fetched_ahead(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.content = "b = a"
    assert await session.items(session.ghost(1, 4))
    await until(lambda: len(session.manager.asked) == 3)
    assert prefixes(session)[1:] == [BEFORE + "b = a", BEFORE + "b = a\n    "]
    session.manager.content = "asked too late"
    session.send(session.edit("b = a\n    ", 1, 4))
    (item,) = await session.items(session.ghost(2, 4))
    assert item["insertText"] == "b = a"
    stats = (await session.command("midspan.status"))["result"]["stats"]
    assert (stats["prefetched"], stats["evaluated"], stats["ahead"]) == (1, 1, 2)


async def test_typing_cancels_what_is_fetched_ahead(session: Session):
    await session.start()
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    session.manager.hang = True
    await until(lambda: len(session.manager.asked) == 2)
    session.send(session.edit("p", 1, 4))
    await until(lambda: session.manager.cancelled == 1)
    await rest()
    assert len(session.manager.asked) == 2


@pytest.mark.parametrize("what", ["edit", "close", "request elsewhere"])
async def test_nothing_is_fetched_ahead_once_something_happened(
    session: Session, monkeypatch: pytest.MonkeyPatch, what: str
):
    monkeypatch.setattr(idle, "PREFETCH_AFTER_S", 1.0)
    await session.start()
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    session.manager.content = ""
    if what == "edit":
        session.send(session.edit("q", 1, 4))
    elif what == "close":
        session.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    else:
        await session.items(session.ghost(3, 5))
    await rest()
    assert BEFORE + "pass" not in prefixes(session)


async def test_same_state_is_not_fetched_twice(session: Session):
    await session.start()
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    session.manager.content = ""  # nothing follows
    await until(lambda: len(session.manager.asked) == 3)
    for _ in range(2):
        assert await session.items(session.ghost(1, 4))
        await rest()
    assert len(session.manager.asked) == 3


async def test_prefetch_can_be_switched_off(session: Session):
    await session.start(options={"prefetch": False})
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    await rest()
    assert len(session.manager.asked) == 1
    assert session.manager.warmed_for == []


async def test_failure_of_what_nobody_asked_for_is_not_shown(session: Session):
    await session.start()
    await until(lambda: session.manager.warmed)  # what was asked for on `initialized`
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    session.manager.error = errors.WorkerDied("It died.")
    await until(lambda: len(session.manager.asked) >= 2)
    await rest()
    assert not [m for m in session.messages if "It died" in str(m)]


# --- warming ----------------------------------------------------------------------------------


def look(session: Session, line: int, character: int, uri: str = URI) -> int:
    """What editors send when the cursor has moved."""
    place = {"line": line, "character": character}
    return session.request(
        "textDocument/codeAction",
        {
            "textDocument": {"uri": uri},
            "range": {"start": place, "end": place},
            "context": {"diagnostics": [], "triggerKind": 2},
        },
    )


def warmed(session: Session) -> list[tuple[str, str]]:
    return [(body["document"], body["input_prefix"]) for body in session.manager.warmed_for]


async def test_last_of_many_opened_documents_is_warmed(session: Session):
    await session.start()
    for name in "abc":
        session.open(TEXT, f"file:///{name}.py")
    await until(lambda: session.manager.warmed_for)
    await rest()
    assert warmed(session) == [("file:///c.py", "")]


async def test_place_that_the_cursor_moved_to_is_warmed(session: Session):
    await session.start()
    session.open(TEXT)
    assert (await session.answer(look(session, 0, 3)))["result"] == []
    assert (await session.answer(look(session, 1, 4)))["result"] == []
    await until(lambda: session.manager.warmed_for)
    await rest()
    assert warmed(session) == [(URI, BEFORE)]
    body = session.manager.warmed_for[0]
    assert (body["n_predict"], body["input_suffix"]) == (0, "\n\nx = 1\n")


async def test_place_that_was_asked_about_is_not_warmed(session: Session):
    await session.start()
    session.open(TEXT)
    assert await session.items(session.ghost(1, 4))
    await session.answer(look(session, 1, 4))
    await until(lambda: len(session.manager.asked) > 1)  # the prefetch was not disturbed
    assert session.manager.warmed_for == []


async def test_document_in_focus_is_warmed_where_it_was_left(session: Session):
    await session.start()
    session.open(TEXT)
    session.manager.content = ""
    await session.items(session.ghost(1, 4))
    session.notify("textDocument/didFocus", {"textDocument": {"uri": URI}})
    session.notify("textDocument/didFocus", {"uri": None})
    session.notify("textDocument/didFocus", None)
    await until(lambda: session.manager.warmed_for)
    assert warmed(session) == [(URI, BEFORE)]


@pytest.mark.parametrize(
    ("uri", "options"),
    [("file:///w/.env", {}), (URI, {"enabled": False}), (URI, {"disabledLanguages": ["python"]})],
)
async def test_what_is_not_completed_is_not_warmed(session: Session, uri: str, options: object):
    await session.start(options=options)
    session.open(TEXT, uri)
    await session.answer(look(session, 1, 4, uri))
    await rest()
    assert session.manager.warmed_for == []


async def test_edit_cancels_warming(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idle, "WARM_AFTER_S", 1.0)
    await session.start()
    session.open(TEXT)
    session.send(session.edit("x", 1, 4))
    await rest()
    assert session.manager.warmed_for == []
