"""Vim in a real terminal: ALE's code actions, and llama.vim's ghost text where it is at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
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


# As in the README, with the private folder in place of the user's.
LLAMA_VIMRC = """
set nocompatible noswapfile
let s:manager = json_decode(join(readfile($MIDSPAN_RUNTIME_DIR .. '/manager.json')))
let g:llama_config = {
  \\ 'endpoint_fim': 'http://127.0.0.1:' .. s:manager.port .. '/infill',
  \\ 'api_key': s:manager.token }
filetype plugin on
"""
LLAMA_VIM = os.environ.get("MIDSPAN_TEST_LLAMA_VIM", "")
VIM = os.environ.get("MIDSPAN_TEST_VIM") or shutil.which("vim") or ""


@pytest.mark.skipif(not VIM, reason="Vim is not installed")
@pytest.mark.skipif(
    not LLAMA_VIM, reason="$MIDSPAN_TEST_LLAMA_VIM names no checkout of ggml-org/llama.vim"
)
def test_ghost_text_of_llama_vim_is_shown_and_accepted(desk: Desk) -> None:
    vimrc = desk.folder / "vimrc"
    vimrc.write_text(f"{LLAMA_VIMRC}set runtimepath^={LLAMA_VIM}\n")
    start = [str(desk.folder.parent / "programs" / "midspan"), "models", "use", "starter"]
    subprocess.run(start, env=desk.env, check=True, capture_output=True, timeout=PATIENCE)
    desk.file.write_text(desk.file.read_text().replace("    pass\n", ""))
    vim = desk.open(VIM, "-u", str(vimrc), "new.py")
    try:
        vim.wait("def multiply")
        vim.send("Go    ret")
        vim.wait(lambda: vim.text.count("return first") == 2, PATIENCE)  # grey text
        assert desk.file.read_text().count("return first") == 1
        vim.send("\t\x1b:w\r")
        vim.wait(lambda: desk.file.read_text().count("return first") == 2)
    finally:
        vim.close()
    compile(desk.file.read_text(), "new.py", "exec")
