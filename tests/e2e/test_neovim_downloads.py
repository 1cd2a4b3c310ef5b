"""`:Midspan pull` in a real Neovim, from a hub on loopback: progress, cancelled, resumed, used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("pynvim", reason="pynvim is not installed")
pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.backends.downloads.hub import Hub, add_starter, serving
from tests.conftest import Env, private_env, stop_manager
from tests.e2e.neovim import PATIENCE, Start, argv, start, version

__all__ = ["argv", "start"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]
ESCAPE = "\x1b"

# Answers what the user would be asked, and notes it.
SELECT = """
asked, answer = {}, ...
vim.ui.select = function(items, options, chosen)
  local lines = vim.tbl_map(options.format_item or tostring, items)
  asked[#asked + 1] = { prompt = options.prompt, lines = lines }
  for index, line in ipairs(lines) do
    if vim.startswith(line, answer) then
      return chosen(items[index], index)
    end
  end
  chosen(nil)
end
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Env]:
    env = private_env(tmp_path_factory.mktemp("midspan"))
    env["MIDSPAN_DOWNLOADS_ENDPOINT"] = hub.url
    yield env
    stop_manager(env)


def test_a_download_is_cancelled_goes_on_and_its_model_is_used(
    start: Start, hub: Hub, argv: list[str]
) -> None:
    repository = f"midspan/starter-{'-'.join(map(str, version(argv)))}-GGUF"
    size = len(add_starter(hub, repository))
    neovim = start()
    statusline = "return require('midspan').statusline()"
    hub.faults.hold = threading.Event()
    neovim.type(f"{ESCAPE}:Midspan pull {repository}\r")
    neovim.terminal.wait(lambda: " MiB" in neovim.lua(statusline), PATIENCE)
    assert neovim.lua(statusline).startswith(f"midspan: Downloading {repository} · ")
    neovim.terminal.wait(f"midspan: Downloading {repository} · ")  # echoed, where nobody types
    neovim.type(":Midspan status\r")
    neovim.wait_message(f"  Downloading {repository} · ")
    neovim.type(":Midspan cancel\r")
    neovim.wait_message(f"cancelled: Downloading {repository}")
    assert "Downloading" not in neovim.lua(statusline)
    hub.faults.hold.set()
    hub.faults.hold = None
    neovim.terminal.pump(1)

    before = hub.sent
    neovim.type(f":Midspan pull {repository}\r")
    neovim.terminal.wait("Use ", PATIENCE)  # Neovim's own list, by number
    assert hub.sent - before < size  # it went on from where it stopped
    neovim.type("1\r")
    neovim.wait_message(" completes now")
    neovim.type("Aret")
    assert neovim.wait_ghost()


def test_models_to_download_are_listed_with_what_fits(start: Start) -> None:
    neovim = start()
    neovim.type(ESCAPE)
    names = neovim.api.call("getcompletion", "Midspan pull qwen2.5-coder-0", "cmdline")
    assert "qwen2.5-coder-0.5b" in names
    neovim.lua(SELECT, "qwen2.5-coder-0.5b")
    neovim.type(":Midspan pull\r")
    neovim.wait_message("qwen2.5-coder-0.5b was not downloaded: ")  # the hub has it not
    (question,) = neovim.lua("return asked")
    assert question["prompt"] == "Download a model"
    lines = question["lines"]
    assert sum("recommended" in line for line in lines) <= 1
    (line,) = (line for line in lines if line.startswith("qwen2.5-coder-0.5b "))
    assert "MiB, apache-2.0" in line
    neovim.lua(SELECT, "Download a model")
    neovim.type(":Midspan use\r")
    neovim.terminal.wait(lambda: len(neovim.lua("return asked")) == 2, PATIENCE)
    assert neovim.lua("return asked")[1]["prompt"] == "Download a model"
