from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lsp_server.cli.test_main import HEAVY
from tests.lsp_server.session import Session

WRONG = (
    '# ünï 🙂\n[manager]\nport = 1\nprot = 1\n[lsp]\nmaxTokens = 0\n[models."🙂"]\nengine = "e"\n'
)


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("MIDSPAN_CONFIG", str(file))
    return file


async def published(session: Session, uri: str, version: int | None = 1) -> list[dict[str, Any]]:
    found = await session.until(
        lambda m: (
            m.get("method") == "textDocument/publishDiagnostics"
            and m["params"]["uri"] == uri
            and m["params"].get("version") == version
        )
    )
    session.messages.remove(found)
    return found["params"]["diagnostics"]


def places(found: list[dict[str, Any]]) -> list[tuple[int, int, int, str]]:
    return [
        (
            entry["range"]["start"]["line"],
            entry["range"]["start"]["character"],
            entry["range"]["end"]["character"],
            entry["message"].partition(";")[0],
        )
        for entry in found
    ]


async def test_wrong_keys_are_shown_at_their_line(session: Session, config_file: Path) -> None:
    await session.start()
    session.open(WRONG, config_file.as_uri(), "toml")
    assert places(await published(session, config_file.as_uri())) == [
        (3, 0, 4, "unknown key 'prot'"),
        (5, 0, 9, "'maxTokens' must be a whole number from 1 to 4096, not 0"),
        (
            6,
            8,
            12,
            "'🙂' cannot name a model: letters, digits and . _ : + - are allowed, 100 at most",
        ),
        (7, 0, 6, "no engine is called 'e'"),
    ]


async def test_names_of_no_model_are_shown_with_those_that_there_are(
    session: Session, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSPAN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MIDSPAN_MODELS_OTHER_PATH", "/other.gguf")
    text = '[completion]\nmodel = "{}"\n[models.mine]\npath = "/m.gguf"\n'
    uri = config_file.as_uri()
    await session.start()
    session.open(text.format("mein"), uri, "toml")
    (found,) = await published(session, uri)
    assert found["message"] == "no model is called 'mein'; there are mine, other, starter"
    assert (found["range"]["start"]["line"], found["range"]["start"]["character"]) == (1, 0)
    before = "mein"
    for version, name in enumerate(("mine", "other", "starter"), start=2):
        change = session.erase(1, 9, 9 + len(before), uri)
        change["params"]["contentChanges"][0]["text"] = before = name
        session.send(change)
        assert await published(session, uri, version) == []


async def test_diagnostics_follow_the_text_and_go_with_the_document(
    session: Session, config_file: Path
) -> None:
    uri = config_file.as_uri()
    await session.start()
    session.open("[manager]\nprot = 1\n", uri, "toml")
    assert len(await published(session, uri)) == 1
    session.send(session.erase(1, 0, 8, uri))
    assert await published(session, uri, 2) == []
    session.send(session.edit("[", 1, 0, uri))
    assert len(await published(session, uri, 3)) == 1
    session.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    assert await published(session, uri, None) == []


async def test_repositorys_file_is_told_what_it_cannot_do(session: Session, tmp_path: Path) -> None:
    uri = (tmp_path / ".midspan.toml").as_uri()
    await session.start()
    session.open('disable = true\n[models.x]\nendpoint = "http://evil"\n', uri, "toml")
    ((line, start, end, message),) = places(await published(session, uri))
    assert (line, start, end) == (1, 1, 7)
    assert message.startswith("'models' is ignored here: a repository's file can only narrow")


async def test_other_files_of_the_name_are_none_of_our_business(
    session: Session, config_file: Path, tmp_path: Path
) -> None:
    elsewhere = (tmp_path / "project" / "config.toml").as_uri()
    await session.start()
    session.open(WRONG, elsewhere, "toml")
    session.open(WRONG, config_file.as_uri(), "toml")
    await published(session, config_file.as_uri())
    assert not [m for m in session.messages if m.get("params", {}).get("uri") == elsewhere]


async def test_saved_file_takes_effect(session: Session, config_file: Path) -> None:
    uri = config_file.as_uri()
    result = await session.start()
    assert result["capabilities"]["textDocumentSync"]["save"]
    await session.status(kind="Normal")
    assert session.server.settings.max_tokens == 96
    config_file.write_text("[lsp]\nmax_tokens = 5\n")
    session.open(config_file.read_text(), uri, "toml")
    session.notify("textDocument/didSave", {"textDocument": {"uri": uri}})
    async with asyncio.timeout(20):
        while session.server.settings.max_tokens != 5:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (".midspan.toml", "disable = true\n", "switches midspan off in this repository"),
        (".cursorignore", "*.py\n", ".cursorignore ignores it"),
    ],
)
async def test_saved_repositorys_file_takes_effect(
    session: Session, tmp_path: Path, name: str, text: str, why: str
) -> None:
    rules = tmp_path / name
    code = (tmp_path / "a.py").as_uri()
    await session.start()
    await session.status(kind="Normal")  # which takes an earlier reason away
    session.open("x = \n", code)
    assert len(await session.items(session.ghost(0, 4, code))) == 1
    rules.write_text(text)
    session.open(text, rules.as_uri(), "toml")
    session.notify("textDocument/didSave", {"textDocument": {"uri": rules.as_uri()}})
    asked = len(session.manager.asked)
    assert await session.items(session.ghost(0, 4, code)) == []
    assert len(session.manager.asked) == asked
    status = await session.command("midspan.status")
    assert why in status["result"]["reason"]


def test_reading_the_users_configuration_imports_nothing_heavy(config_file: Path) -> None:
    """It happens in the language server, of which there is one for each window."""
    config_file.write_text('[models.m]\npath = "/m.gguf"\n[manager]\nprot = 1\n')
    code = (
        "import sys; from lsp_server import user_config; found = user_config.read(); "
        "print(len(found.problems), [m for m in "
        f"{HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MIDSPAN_CONFIG": str(config_file)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "1 []\n", done.stderr
