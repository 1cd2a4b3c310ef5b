from __future__ import annotations

import asyncio
import json
import random

import pytest

from benchmarks import edits
from benchmarks.edited_text import LINE_ENDS, EditedText, RandomEdits


def test_random_edits_are_those_that_the_client_is_told_of():
    """The changes, applied by character to a list of lines, give the text."""
    text = EditedText("utf-32", lines_from=["\n"])
    random_edits = RandomEdits(text, seed=3, length=200)
    mirror = text.text = random_edits.words(60)
    for _ in range(400):
        for change in random_edits.batch():
            if "range" not in change:
                mirror = change["text"]
                continue
            lines = mirror.split("\n")
            start, end = change["range"]["start"], change["range"]["end"]
            head = "\n".join([*lines[: start["line"]], lines[start["line"]][: start["character"]]])
            tail = "\n".join([lines[end["line"]][end["character"] :], *lines[end["line"] + 1 :]])
            mirror = head + change["text"] + tail
    assert mirror == text.text


def test_a_server_with_another_text_is_found_out(tmp_path):
    async def check() -> None:
        env = {"MIDSPAN_RUNTIME_DIR": str(tmp_path), "MIDSPAN_STATE_DIR": str(tmp_path)}
        async with await edits.start(edits.MIDSPAN_LSP, "utf-16", env) as editor:
            await edits.open_document(editor, "a😀b\u2028c\r\n")
            await edits.compare(editor, EditedText("utf-16", "a😀b\u2028c\r\n"), 0)
            with pytest.raises(edits.Differs):
                await edits.compare(editor, EditedText("utf-16", "a😀b\u2028c\n"), 0)

    asyncio.run(check())


@pytest.mark.parametrize("ending", LINE_ENDS)
def test_edits_of_one_seed_are_the_same(ending):
    def some() -> str:
        text = EditedText("utf-16", lines_from=LINE_ENDS[ending])
        random_edits = RandomEdits(text, seed=random.Random(1).randint(0, 9))
        return json.dumps([random_edits.batch() for _ in range(50)])

    assert some() == some()
