"""`:Midspan edit` in a real Neovim: the preview, streamed; applied, discarded, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynvim", reason="pynvim is not installed")
pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.conftest import Env, private_env, stop_manager
from tests.e2e.chat_endpoint import ChatEndpoint, chat_endpoint
from tests.e2e.neovim import PATTERN, Neovim, Start, argv, start

__all__ = ["argv", "start"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

ESCAPE = "\x1b"
TEXT = PATTERN + "return first * second\n\n\nprint(add(1, 2))"
BEFORE = TEXT.split("\n")
EDITED = [*BEFORE[:9], "    # the product", "    return first * second", *BEFORE[10:]]
PIECES = ("```python\n    # the product\n", "    return first", " * second\n```")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatEndpoint]:
    with chat_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, endpoint: ChatEndpoint) -> Iterator[Env]:
    env = private_env(tmp_path_factory.mktemp("midspan"))
    Path(env["MIDSPAN_CONFIG"]).write_text(endpoint.config)
    yield env
    stop_manager(env)


def tabs(neovim: Neovim) -> int:
    return int(neovim.api.eval("tabpagenr('$')"))


def buffers(neovim: Neovim) -> list[str]:
    """The buffers that there are, previews included."""
    return [buffer.name for buffer in neovim.api.buffers if buffer.name]


def preview(neovim: Neovim) -> list[str]:
    """The preview's lines."""
    for window in neovim.api.windows:
        if window.buffer.name.startswith("midspan://"):
            return list(window.buffer[:])
    return []


def wait_back(neovim: Neovim) -> None:
    """Wait until the preview is gone without a trace."""
    neovim.terminal.wait(lambda: tabs(neovim) == 1)
    neovim.terminal.wait(lambda: len(buffers(neovim)) == 1)
    assert neovim.api.eval("&diff") == 0
    assert neovim.api.eval("&scrollbind") == 0


def test_edit_is_shown_beside_the_file_and_applied(start: Start, endpoint: ChatEndpoint) -> None:
    endpoint.answers(*PIECES)
    neovim = start(TEXT, init="vim.o.laststatus = 2\n")
    neovim.type(f"{ESCAPE}:10Midspan edit Say  what it returns.\r")
    neovim.wait_message("written by chatty; `:Midspan apply` takes it over")
    asked = endpoint.upstream.to("/v1/chat/completions")[-1].json["messages"][-1]["content"]
    assert "<edit>\n    return first * second\n</edit>" in asked
    assert asked.endswith("Say  what it returns.")
    assert preview(neovim) == EDITED
    neovim.terminal.wait(lambda: neovim.terminal.text.count("return first * second") == 2)
    neovim.terminal.wait(":Midspan apply · :Midspan discard ·")
    neovim.type(":Midspan apply\r")
    wait_back(neovim)
    assert neovim.lines == EDITED
    neovim.type("u")
    neovim.terminal.wait(lambda: neovim.lines == BEFORE)


def test_edit_that_is_left_changes_nothing(start: Start, endpoint: ChatEndpoint) -> None:
    endpoint.answers(*PIECES)
    neovim = start(TEXT)
    neovim.type(ESCAPE)
    for keys in (":Midspan discard\r", ":quit\r", ":tabclose\r"):
        neovim.lua("told = {}")
        neovim.type("10GV:Midspan edit Say what it returns.\r")
        neovim.wait_message("written by chatty")
        neovim.type(keys)
        wait_back(neovim)
        assert neovim.lines == BEFORE
    neovim.type(":Midspan apply\r")
    neovim.wait_message("there is nothing to apply")
    neovim.type(":Midspan discard\r")
    neovim.wait_message("there is nothing to discard")


def test_edit_is_seen_while_it_is_written_and_can_be_cancelled(
    start: Start, endpoint: ChatEndpoint
) -> None:
    endpoint.answers(*PIECES, pause=1.5)
    neovim = start(TEXT)
    neovim.type(f"{ESCAPE}:10Midspan edit Say what it returns.\r")
    neovim.terminal.wait(lambda: "    # the product" in preview(neovim))
    assert preview(neovim) != EDITED
    neovim.type(":Midspan apply\r")
    neovim.wait_message("it is still being written")
    assert "Editing new.py" in neovim.lua("return require('midspan').statusline()")
    endpoint.upstream.closed.clear()
    neovim.type(":Midspan cancel\r")
    neovim.wait_message("cancelled: Editing new.py")
    wait_back(neovim)
    neovim.terminal.wait(endpoint.upstream.closed.is_set)  # the model was stopped
    assert neovim.lines == BEFORE
    assert "Editing" not in neovim.lua("return require('midspan').statusline()")
    neovim.type(":Midspan cancel\r")
    neovim.wait_message("nothing is under way")

    endpoint.upstream.closed.clear()
    neovim.type(":10Midspan edit Say what it returns.\r")
    neovim.terminal.wait(lambda: "    # the product" in preview(neovim))
    neovim.type(":tabclose\r")
    neovim.terminal.wait(endpoint.upstream.closed.is_set)
    wait_back(neovim)
    neovim.terminal.pump(0.5)
    assert neovim.lines == BEFORE
    assert tabs(neovim) == 1  # what came late opened nothing


def test_edit_asks_what_to_do_and_applies_to_the_same_text_only(
    start: Start, endpoint: ChatEndpoint
) -> None:
    endpoint.answers(*PIECES, finish="length")
    neovim = start(TEXT.replace("\n", "\r\n"))
    neovim.type(f"{ESCAPE}10G:Midspan edit\r")
    neovim.terminal.wait("What should become of this line?")
    neovim.type("Say what it returns.\r")
    neovim.wait_message("incomplete, because chatty may write no more")
    neovim.type("\x17hggOimport os" + ESCAPE + ":Midspan apply\r")
    neovim.wait_message("the file changed since the edit was made")
    neovim.type(":Midspan discard\r")
    wait_back(neovim)
    assert neovim.lines == ["import os", *BEFORE]

    neovim.lua("told = {}")
    neovim.type(":11Midspan edit Say what it returns.\r")
    neovim.wait_message("incomplete")
    neovim.type(":Midspan apply\r")
    wait_back(neovim)
    assert neovim.lines == ["import os", *EDITED]  # and no carriage return
    neovim.type(":1,2Midspan status\r")
    neovim.wait_message("`:Midspan status` takes no range")
