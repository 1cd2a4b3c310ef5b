from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from backends import errors
from lsp_server.documents import Document
from lsp_server.features.edit import whole_lines
from tests.lsp_server.session import URI, Session

TEXT = "def f():\r\n    a = 1\r\n    return a\r\n"
RANGE = {"start": {"line": 1, "character": 6}, "end": {"line": 1, "character": 7}}
LINE = {"start": {"line": 1, "character": 0}, "end": {"line": 2, "character": 0}}


class Chat:
    """What the manager's chat endpoint streams; asked and closed are what the server did."""

    def __init__(self, *pieces: str | Exception, finish: str = "stop", hang: bool = False) -> None:
        self.pieces, self.finish, self.hang = pieces, finish, hang
        self.asked: list[Mapping[str, Any]] = []
        self.closed = False

    async def stream(
        self, path: str, body: Mapping[str, Any], **_: object
    ) -> AsyncGenerator[dict[str, Any], None]:
        assert path == "/v1/chat/completions"
        self.asked.append(body)
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield self._event({"content": piece}, None)
            if self.hang:
                await asyncio.sleep(60)
            yield self._event({}, self.finish)
        finally:
            self.closed = True

    def _event(self, delta: object, finish: str | None) -> dict[str, Any]:
        return {"model": "chatty", "choices": [{"delta": delta, "finish_reason": finish}]}


async def started(session: Session, chat: Chat) -> None:
    session.manager.stream = chat.stream  # type: ignore[attr-defined]
    await session.start()
    session.open(TEXT)


def wish(**more: object) -> dict[str, object]:
    return {"uri": URI, "range": RANGE, "prompt": "Make it 2.", **more}


async def test_edit_answers_with_the_new_text_of_the_whole_lines(session: Session):
    chat = Chat("```python\n    a", " = 2\n    # two\n", "```")
    await started(session, chat)
    result = (await session.command("midspan.edit", wish()))["result"]
    assert result == {
        "range": LINE,
        "text": "    a = 2\r\n    # two\r\n",
        "model": "chatty",
        "truncated": False,
    }
    sent = chat.asked[0]["messages"][-1]["content"]
    assert "<edit>\n    a = 1\n</edit>" in sent
    assert "/work" not in sent.replace("folder/a.py", "")


async def test_edit_streams_what_is_written_so_far(session: Session):
    await started(session, Chat("```python\n    a = 2\n", "```"))
    await session.command("midspan.edit", wish(partialResultToken="t"))
    told = [m["params"] for m in session.messages if m["method"] == "$/progress"]
    assert told[0] == {"token": "t", "value": {"range": LINE, "text": "    a = 2\r\n"}}


async def test_edit_says_that_it_was_cut_off(session: Session):
    await started(session, Chat("```\n    a = 2", finish="length"))
    assert (await session.command("midspan.edit", wish()))["result"]["truncated"] is True


async def test_edit_of_a_model_that_cannot_chat_gives_its_sentence(session: Session):
    await started(session, Chat(errors.Unsupported("starter cannot chat: it has no template.")))
    error = (await session.command("midspan.edit", wish()))["error"]
    assert error["code"] == -32803
    assert error["message"] == "starter cannot chat: it has no template."
    assert error["data"] == {"kind": "unsupported"}


async def test_edit_that_is_cancelled_stops_the_model(session: Session):
    chat = Chat("```\n    a", hang=True)
    await started(session, chat)
    params = {"command": "midspan.edit", "arguments": [wish(partialResultToken="t")]}
    asked = session.request("workspace/executeCommand", params)
    await session.until(lambda m: m.get("method") == "$/progress")
    session.notify("$/cancelRequest", {"id": asked})
    assert (await session.answer(asked))["error"]["code"] == -32800
    assert chat.closed


async def test_edit_of_nothing_is_told(session: Session):
    await started(session, Chat("```\n```"))
    error = (await session.command("midspan.edit", wish()))["error"]
    assert error == {"code": -32803, "message": "Nothing was edited: the model had nothing to add."}


async def test_edit_shows_no_secret_file_to_a_model(session: Session):
    chat = Chat("```\nX=2\n```")
    await started(session, chat)
    session.open("KEY=1\n", "file:///work/folder/.env")
    error = (await session.command("midspan.edit", wish(uri="file:///work/folder/.env")))["error"]
    assert error["code"] == -32803
    assert chat.asked == []


@pytest.mark.parametrize(
    "wrong", [None, {}, {"range": {}}, {"uri": URI, "range": RANGE}, wish(prompt=" ")]
)
async def test_edit_needs_a_place_and_a_wish(session: Session, wrong: object):
    await started(session, Chat())
    assert (await session.command("midspan.edit", wrong))["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("marked", "lines"),
    [
        ("a[b\nc]d\ne", "ab\ncd\n"),
        ("a\n[b\n]c", "b\n"),
        ("a\n[]b\nc", "b\n"),
        ("a\n[b]", "b"),
        ("a\n[]", ""),
        ("[]", ""),
    ],
)
def test_whole_lines_are_those_that_the_selection_touches(marked: str, lines: str):
    start = marked.index("[")
    end = marked.index("]") - 1
    text = marked.replace("[", "").replace("]", "")
    document = Document("file:///a", text, 1, "python", "utf-8")
    first, last = whole_lines(document, start, end)
    assert text[first:last] == lines
