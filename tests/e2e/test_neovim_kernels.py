"""A kernel in a real Neovim: generated, cancelled, looked at, written, and called by its lens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynvim", reason="pynvim is not installed")
pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from tests.conftest import Env, private_env, stop_manager
from tests.e2e.neovim import Neovim, Start, argv, start

__all__ = ["argv", "start"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]
ESCAPE = "\x1b"
TEXT = """\
import torch


def scale(x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
    return x * factor
"""
LENSES = """
local titles = {}
for _, lens in ipairs(vim.lsp.codelens.get(0)) do
  titles[#titles + 1] = (lens.lens or lens).command.title
end
return titles
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    env = private_env(tmp_path_factory.mktemp("midspan"))
    yield env
    stop_manager(env)


def lenses(neovim: Neovim) -> list[str]:
    """Titles of the code lenses, asked for in every version's way."""
    neovim.lua("if not vim.lsp.codelens.enable then vim.lsp.codelens.refresh() end")
    return list(neovim.lua(LENSES))


def test_kernel_is_generated_written_and_called(start: Start, tmp_path: Path) -> None:
    neovim = start(TEXT, init="vim.o.more = false\n")
    statusline = "return require('midspan').statusline()"
    neovim.type(f"{ESCAPE}:5Midspan kernel c\r")
    neovim.wait_message("`:Midspan kernel` takes no range")
    neovim.type(":5\r:Midspan kernel c x: (N,) float32\r")
    neovim.terminal.wait(lambda: "Generating a c kernel · " in neovim.lua(statusline))
    neovim.type(":Midspan cancel\r")
    neovim.wait_message("cancelled: Generating a c kernel")

    neovim.type(":Midspan kernel c\r")
    neovim.terminal.wait("Shapes: ")
    neovim.type("\r")
    neovim.wait_message("; `:Midspan apply` writes the files", 120)
    assert "midspan: verified on " in neovim.messages()
    assert not list(tmp_path.glob("*scale*"))
    neovim.terminal.wait("Compares scale of scale_c")
    neovim.type(":Midspan apply\r")
    neovim.terminal.wait(lambda: neovim.api.eval("expand('%:t')") == "scale_c.py")
    assert "def scale(" in (tmp_path / "scale_c.py").read_text()
    assert "def test_" in (tmp_path / "test_scale_c.py").read_text()

    neovim.wait_attached()
    neovim.lua("if vim.lsp.codelens.enable then vim.lsp.codelens.enable(true) end")
    neovim.terminal.wait(lambda: any("verified" in title for title in lenses(neovim)))
    titles = lenses(neovim)
    number = 1 + titles.index("Call it from scale")
    neovim.type("/^def scale\r:lua vim.lsp.codelens.run()\r")
    neovim.terminal.wait("Call it from scale")
    neovim.type(f"{number}\r")
    neovim.type(":wall | edit new.py\r")
    neovim.terminal.wait(lambda: "scale_c" in (tmp_path / "new.py").read_text(), 20)
    assert (tmp_path / "new.py").read_text().endswith("    return x * factor\n")
