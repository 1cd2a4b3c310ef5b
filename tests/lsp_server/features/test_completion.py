from __future__ import annotations

import pytest

from tests.lsp_server.session import URI, Session, at


async def popup(session: Session, line, character, kind=1):
    params = at(line, character)
    params["context"] = {"triggerKind": kind}
    return (await session.call("textDocument/completion", params))["result"]


async def test_popup_entry_replaces_the_word_and_passes_the_editors_filter(session: Session):
    await session.start()
    session.open("def f(a):\n    ret\n")
    session.manager.content = "urn a"
    await session.status(kind="Normal")
    result = await popup(session, 1, 7)
    (item,) = result["items"]
    assert result["isIncomplete"] is True
    assert item["textEdit"]["newText"] == "return a"
    assert item["textEdit"]["range"]["start"] == {"line": 1, "character": 4}
    assert item["textEdit"]["range"]["end"] == {"line": 1, "character": 7}
    assert item["filterText"].startswith("ret")
    assert item["label"] == "return a"
    assert item["detail"] == "midspan: fake-1b"
    assert item["sortText"] > "zzz"


async def test_popup_label_is_the_first_line(session: Session):
    await session.start()
    session.open("def f(a):\n    \n")
    session.manager.content = "b = a\n    return b"
    (item,) = (await popup(session, 1, 4))["items"]
    assert item["label"] == "b = a …"
    assert item["textEdit"]["newText"] == "b = a\n    return b"


@pytest.mark.parametrize(
    ("capabilities", "options", "entries", "why"),
    [
        ({}, {}, 1, "no ghost text there"),
        ({"textDocument": {"inlineCompletion": {}}}, {}, 0, "it has ghost text"),
        ({"textDocument": {"inlineCompletion": {}}}, {"popup": "always"}, 1, "the user wants it"),
        ({}, {"popup": "never"}, 0, "the user does not"),
    ],
)
async def test_popup_is_for_editors_without_ghost_text(
    session: Session, capabilities, options, entries, why
):
    result = await session.start(capabilities, options)
    assert ("completionProvider" in result["capabilities"]) == bool(entries), why
    session.open("x = \n")
    assert len((await popup(session, 0, 4))["items"]) == entries, why


async def test_popup_ends_when_the_client_turns_out_to_have_ghost_text(session: Session):
    """lsp-mode uses inline completion and does not announce it."""
    await session.start()
    session.open("x = \n")
    assert len((await popup(session, 0, 4))["items"]) == 1
    await session.items(session.ghost(0, 4))
    assert (await popup(session, 0, 4))["items"] == []


async def test_popup_has_reasons_too(session: Session):
    await session.start(options={"enabled": False})
    session.open("x = \n")
    result = await popup(session, 0, 4)
    assert result == {"isIncomplete": True, "items": []}
    await session.status(reason="suggestions are switched off")
    assert session.manager.asked == []
    assert URI not in str(session.manager.posted)
