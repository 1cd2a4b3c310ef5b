"""Helix in a real terminal: completion and code actions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.e2e.editor_terminals import PATIENCE, Desk, desk

__all__ = ["desk"]
HELIX = os.environ.get("MIDSPAN_TEST_HELIX") or shutil.which("hx") or ""
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(150),
    pytest.mark.skipif(not HELIX, reason="Helix is not installed (Debian 12 has none)"),
]

# The configuration of editors/README.md.
LANGUAGES = """
[language-server.midspan]
command = "midspan"
args = ["lsp"]

[[language]]
name = "python"
language-servers = ["midspan"]
"""


def test_completion_and_code_actions(desk: Desk) -> None:
    folder = Path(desk.env["XDG_CONFIG_HOME"]) / "helix"
    folder.mkdir(parents=True)
    (folder / "languages.toml").write_text(LANGUAGES)
    desk.file.write_text(desk.file.read_text().replace("pass\n", ""))
    helix = desk.open(HELIX, "new.py")
    try:
        helix.wait("def multiply")
        helix.send("geA")
        for _ in range(15):  # until the server has started
            helix.send("ret")
            helix.pump(2)
            if "return first + second text" in helix.text:  # with the kind beside it
                break
            helix.send("\x7f" * len("ret"))
        helix.send("\t\r")
        helix.wait(lambda: " text" not in helix.text)
        assert helix.text.count("return first + second") == 2
        helix.send("\x1b")
        helix.pump(0.5)  # or it is Alt and the next key
        helix.send(" a")
        helix.wait("Fill in here", PATIENCE)
        assert "Complete this function body" in helix.text
        helix.send("\x1b")
        helix.pump(0.5)
        helix.send(":wq\r")
        helix.wait(lambda: desk.file.read_text().count("return first + second") == 2)
    finally:
        helix.close()
