"""Vim with ALE in a real terminal: code actions. Ghost text is llama.vim's, tested by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.e2e.editor_terminals import PATIENCE, Desk, desk

__all__ = ["desk"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(150)]

ALE = Path("/usr/share/vim/vimfiles/pack/dist-bundle/opt/ale")

# The configuration of editors/README.md.
VIMRC = """
set nocompatible noswapfile
packadd! ale
filetype plugin on
let g:ale_linters = {'python': ['midspan']}
call ale#linter#Define('python', {
  \\ 'name': 'midspan', 'lsp': 'stdio', 'executable': 'midspan', 'command': '%e lsp',
  \\ 'project_root': {buffer -> expand('#' .. buffer .. ':p:h')} })
"""


@pytest.mark.skipif(shutil.which("vim") is None, reason="Vim is not installed")
@pytest.mark.skipif(not ALE.exists(), reason="ALE is not installed: apt-get install vim-ale")
def test_code_action_of_ale_completes_the_function(desk: Desk) -> None:
    vimrc = desk.folder / "vimrc"
    vimrc.write_text(VIMRC)
    vim = desk.open("vim", "-u", str(vimrc), "new.py")
    try:
        vim.wait("def multiply")
        for _ in range(10):  # until the server has started
            vim.send("\r\x1bG$:ALECodeAction\r")
            vim.pump(2)
            if "Complete this function body" in vim.text:
                break
        vim.send("2\r")
        vim.wait(lambda: "pass" not in vim.text, PATIENCE)
        vim.send("\r:w\r")
        vim.wait(lambda: "pass" not in desk.file.read_text())
    finally:
        vim.close()
    compile(desk.file.read_text(), "new.py", "exec")
