"""A workspace that is not trusted, in real VS Code: what it may say, and what it may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Env
from tests.e2e.vscode.code_server import CODE, CodeServer, Window

TRUST = {
    "security.workspace.trust.enabled": True,
    "security.workspace.trust.startupPrompt": "never",
    "security.workspace.trust.untrustedFiles": "open",
}


@pytest.fixture
def wary(vscode: CodeServer, vscode_env: Env, tmp_path: Path) -> Iterator[CodeServer]:
    """A VS Code that asks before it trusts a folder."""
    midspan = Path(vscode.machine_settings["midspan.server.path"])
    server = CodeServer(tmp_path / "wary", vscode.vsix, vscode_env, midspan, TRUST)
    yield server
    server.stop()


def test_an_untrusted_workspace_chooses_no_program_and_no_model(
    window: Window, wary: CodeServer, tmp_path: Path
):
    project = tmp_path / "cloned"
    (project / ".vscode").mkdir(parents=True)
    theirs = project / "midspan"
    theirs.write_text(f"#!/bin/sh\ntouch {project}/was-started\n")
    theirs.chmod(0o755)
    settings = {
        "midspan.server.path": str(theirs),
        "midspan.model": "theirs",
        "midspan.autostart": False,
        "midspan.disabledLanguages": ["plaintext"],
    }
    (project / ".vscode" / "settings.json").write_text(json.dumps(settings))
    for name in ("code.py", "notes.txt"):
        (project / name).write_text(CODE)
    untrusted = wary.window(window.page.context.browser, project / "code.py")
    untrusted.page.locator("[id='status.workspaceTrust']").wait_for()
    assert "Model: starter" in untrusted.status("Model: ")
    assert untrusted.ghost_after(CODE, "return a").strip()
    assert not (project / "was-started").exists()
    # What only narrows is theirs to say.
    rows = untrusted.page.locator(".explorer-folders-view .monaco-list-row")
    rows.filter(has_text="notes.txt").dblclick()
    untrusted.page.locator(".tab.active[aria-label^='notes.txt']").wait_for()
    untrusted.page.locator(".monaco-editor .view-lines").first.click()
    untrusted.type("x")
    untrusted.status("No suggestion: suggestions are switched off for plaintext")
    untrusted.page.context.close()
