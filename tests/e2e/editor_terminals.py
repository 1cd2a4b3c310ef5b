"""What the tests of terminal editors share: a file, a private environment, the command."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MIDSPAN, Env
from tests.e2e.terminal import Terminal

PATTERN = """\
def add(first, second):
    return first + second


def multiply(first, second):
    pass
"""
PATIENCE = 60.0  # seconds; a first start on a busy machine included


@dataclass
class Desk:
    """A folder with `new.py` and the command `midspan` of this checkout on the PATH."""

    folder: Path
    env: Env

    def open(self, *argv: str) -> Terminal:
        """Start an editor."""
        return Terminal(argv, self.env, self.folder)

    @property
    def file(self) -> Path:
        """The file that is edited."""
        return self.folder / "new.py"


@pytest.fixture
def desk(tmp_path: Path, midspan_env: Env) -> Desk:
    """A new desk."""
    programs = tmp_path / "programs"
    programs.mkdir()
    command = programs / "midspan"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(MIDSPAN)} "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / "new.py").write_text(PATTERN)
    home = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("CONFIG", "DATA", "CACHE")}
    path = f"{programs}{os.pathsep}{midspan_env['PATH']}"
    # Helix and Vim look for pyproject and the like upwards: HOME keeps them in here.
    return Desk(folder, {**midspan_env, **home, "PATH": path, "HOME": str(tmp_path)})
