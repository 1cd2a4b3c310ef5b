from __future__ import annotations

import asyncio
import sys

import pytest

from lsp_server.cli.editor import MIDSPAN_LSP, Editor, ServerError, ServerGone

SCRIPTED = (sys.executable, "-m", "tests.lsp_server.cli.scripted_server")


def _command(name: str) -> dict[str, object]:
    return {"command": name, "arguments": []}


async def test_editor_talks_to_midspan_and_ends_it(midspan_env: dict[str, str]) -> None:
    async with await Editor.start(MIDSPAN_LSP, midspan_env) as editor:
        answer = await editor.initialize()
        assert answer["serverInfo"]["name"] == "midspan"
        assert answer["capabilities"]["inlineCompletionProvider"] is not None
    assert editor.process.returncode == 0


async def test_editor_answers_the_servers_requests() -> None:
    async with await Editor.start(SCRIPTED) as editor:
        await editor.initialize()
        assert await editor.request("workspace/executeCommand", _command("ask")) == [None, None]


async def test_editor_raises_a_servers_error() -> None:
    async with await Editor.start(SCRIPTED) as editor:
        await editor.initialize()
        with pytest.raises(ServerError):
            await editor.request("no/such/method", {})


async def test_editor_says_the_last_words_of_a_server_that_died() -> None:
    async with await Editor.start(SCRIPTED) as editor:
        await editor.initialize()
        with pytest.raises(ServerGone, match="the last words"):
            await editor.request("workspace/executeCommand", _command("die"))
        # Nor does a later request wait for ever.
        async with asyncio.timeout(10):
            with pytest.raises(ServerGone):
                await editor.request("workspace/executeCommand", _command("ask"))
