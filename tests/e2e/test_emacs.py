"""Emacs in a real terminal: ghost text with lsp-mode, completion and code actions with eglot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.e2e.editor_terminals import PATIENCE, Desk, desk
from tests.e2e.terminal import Terminal

__all__ = ["desk"]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(200),
    pytest.mark.skipif(shutil.which("emacs") is None, reason="Emacs is not installed"),
]

# A folder with lsp-mode 10 and what it needs, each in a folder of its own; compiled, or it takes
# a minute to load.
LSP_MODE = os.environ.get("MIDSPAN_TEST_LSP_MODE", "")
has_lsp_mode = pytest.mark.skipif(
    not LSP_MODE, reason="no lsp-mode 10: $MIDSPAN_TEST_LSP_MODE names no folder"
)

QUIET = """
(setq inhibit-startup-screen t make-backup-files nil auto-save-default nil create-lockfiles nil
      native-comp-async-report-warnings-errors nil)
"""

# The configurations of editors/README.md.
LSP_MODE_CONFIG = """
(require 'lsp-mode)
(require 'lsp-inline-completion)
(lsp-register-client
 (make-lsp-client :new-connection (lsp-stdio-connection '("midspan" "lsp"))
                  :activation-fn (lambda (&rest _) t) :add-on? t :server-id 'midspan
                  :notification-handlers (lsp-ht ("midspan/status" #'ignore))))
(add-hook 'lsp-mode-hook #'lsp-inline-completion-mode)
(add-hook 'python-mode-hook #'lsp)
(setq lsp-restart 'auto-restart)
(defun midspan-use-model (name)
  "Have another model complete."
  (interactive
   (let ((listed (lsp-workspace-command-execute "midspan.listModels")))
     (list (completing-read "Model: " (mapcar (lambda (row) (lsp-get row :name))
                                              (lsp-get listed :models))))))
  (let ((used (lsp-workspace-command-execute "midspan.selectModel" (vector name))))
    (message "%s completes now" (lsp-get used :name))))
"""
EGLOT_CONFIG = """
(require 'eglot)
(add-to-list 'eglot-server-programs '(python-mode . ("midspan" "lsp")))
(add-hook 'python-mode-hook #'eglot-ensure)
"""
TO_END, CTRL_RETURN = "\x1b>", "\x1b[27;5;13~"
SAVE, QUIT, COMMAND = "\x18\x13", "\x07", "\x1bx"


def has_eglot() -> bool:
    done = subprocess.run(
        ["emacs", "--batch", "--eval", "(progn (package-initialize) (require 'eglot))"],
        capture_output=True,
        timeout=60,
    )
    return done.returncode == 0


def open_lsp_mode(desk: Desk) -> Terminal:
    """Open the file with lsp-mode connected, at its end."""
    init = desk.folder / "init.el"
    paths = f'(dolist (d (file-expand-wildcards "{LSP_MODE}/*")) (add-to-list \'load-path d))'
    extras = "(setq lsp-auto-guess-root t lsp-lens-enable nil lsp-enabled-clients '(midspan))"
    init.write_text(QUIET + paths + extras + LSP_MODE_CONFIG)
    desk.file.write_text(desk.file.read_text().replace("pass\n", ""))
    emacs = desk.open("emacs", "-nw", "-Q", "-l", str(init), "new.py")
    emacs.wait("LSP[midspan", PATIENCE)
    emacs.pump(2)
    emacs.send(TO_END)
    return emacs


def shows(emacs: Terminal, times: int) -> None:
    """Wait until the screen has the statement so often, ghost text included."""
    emacs.wait(lambda: emacs.text.count("return first") == times, PATIENCE)


def accept(emacs: Terminal, desk: Desk, times: int) -> None:
    """Accept the ghost text and save; the file has the statement so often then."""
    emacs.send(CTRL_RETURN)
    emacs.pump(1)
    emacs.send(SAVE)
    emacs.wait(lambda: desk.file.read_text().count("return first") == times)


@has_lsp_mode
def test_ghost_text_of_lsp_mode_is_shown_and_accepted(desk: Desk) -> None:
    emacs = open_lsp_mode(desk)
    try:
        emacs.send("ret")
        shows(emacs, 2)
        emacs.send(SAVE)  # as it is: the ghost text is no text
        emacs.wait(lambda: desk.file.read_text().endswith("    ret\n"))
        emacs.send("\x7ft")
        shows(emacs, 2)
        accept(emacs, desk, 2)
    finally:
        emacs.close()


@has_lsp_mode
def test_lsp_mode_switches_models_fills_in_and_survives_kill_9(
    desk: Desk, tiny_model: Path
) -> None:
    command = str(desk.folder.parent / "programs" / "midspan")
    add = [command, "models", "add", str(tiny_model)]
    subprocess.run(add, env=desk.env, check=True, capture_output=True, timeout=PATIENCE)
    emacs = open_lsp_mode(desk)
    try:
        emacs.send(f"{COMMAND}midspan-use-model\r")
        emacs.wait("Model:", PATIENCE)
        emacs.send(f"{tiny_model.stem}\r")
        emacs.wait(f"{tiny_model.stem} completes now", PATIENCE)
        emacs.send(f"{COMMAND}midspan-use-model\r")
        emacs.wait("Model:", PATIENCE)
        emacs.send("starter\r")
        emacs.wait("starter completes now", PATIENCE)

        emacs.send(f"return {COMMAND}lsp-execute-code-action\r")
        emacs.wait("Select code action", PATIENCE)
        emacs.send("Fill in here\r")
        shows(emacs, 2)

        (server,) = servers(emacs)
        server.kill()
        emacs.send(f"{TO_END}\n\ndef third(first, second):\n")
        emacs.wait(lambda: [one.pid for one in servers(emacs)] not in ([], [server.pid]), PATIENCE)
        emacs.pump(2)
        emacs.send("    ret")
        shows(emacs, 3)
        accept(emacs, desk, 3)
    finally:
        emacs.close()


def servers(emacs: Terminal) -> list[psutil.Process]:
    """The language servers that an Emacs started, those alive."""
    return [
        process
        for process in psutil.Process(emacs.pid).children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[-1:] == ["lsp"]
    ]


def test_eglot_completes_and_lists_code_actions(desk: Desk) -> None:
    if not has_eglot():
        pytest.skip("no eglot: Emacs 29, or apt-get install elpa-eglot")
    init = desk.folder / "init.el"
    init.write_text(QUIET + "(package-initialize)" + EGLOT_CONFIG)
    desk.file.write_text(desk.file.read_text().replace("pass\n", ""))
    emacs = desk.open("emacs", "-nw", "-q", "-l", str(init), "new.py")
    try:
        emacs.wait("[eglot:", PATIENCE)
        emacs.pump(3)
        emacs.send(TO_END)
        emacs.send("ret\x1b\t")
        shows(emacs, 2)
        emacs.send("\x1bxeglot-code-actions\r")
        emacs.wait("Fill in here", PATIENCE)
        emacs.send("\x07")
    finally:
        emacs.close()
