from __future__ import annotations

from pathlib import Path

import pytest

from backends import config
from backends.config import Settings


def load(tmp_path: Path, text: str, **environment: str) -> tuple[Settings, list[str]]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    settings, problems = config.load(path, environment)
    return settings, [str(problem).removeprefix(f"{path}:") for problem in problems]


def lines(tmp_path: Path, text: str) -> list[tuple[int, str]]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return [(problem.line, problem.message) for problem in config.load(path, {})[1]]


def test_load_without_a_file_gives_the_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path / "none.toml", {}) == (Settings(), [])


def test_load_reads_every_table(tmp_path: Path) -> None:
    settings, problems = load(
        tmp_path,
        '[manager]\nidle_minutes = 3\nport = 8012\n[completion]\nmodel = "m"\n'
        '[models.m]\npath = "/m.gguf"\nthreads = 2\n[lsp]\nanything = "goes"\n',
    )
    assert problems == []
    assert (settings.manager.idle_minutes, settings.manager.port) == (3.0, 8012)
    assert settings.completion.model == "m"
    assert (settings.models["m"].path, settings.models["m"].threads) == ("/m.gguf", 2)


def test_load_lets_the_environment_win(tmp_path: Path) -> None:
    settings, problems = load(
        tmp_path,
        '[completion]\nmodel = "file"\n',
        MIDSPAN_COMPLETION_MODEL="environment",
        MIDSPAN_MANAGER_PORT="99",
    )
    assert (settings.completion.model, settings.manager.port, problems) == ("environment", 99, [])


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[manager]\n\nprot = 1\n", 3, "unknown key 'prot'"),
        ("[manager]\nport = '1'\n", 2, "'port' must be a whole number"),
        ("[manager]\nport = true\n", 2, "'port' must be a whole number"),
        ("[manager]\nidle_minutes = 'x'\n", 2, "must be a number"),
        ("manager.port = 1.5\n", 1, "whole number"),
        ("\n[other]\nx = 1\n", 2, "unknown table or key 'other'"),
        ("\nmanager = 3\n", 2, "must be a table"),
        ("[models]\nm = 3\n", 2, "'models.m' must be a table"),
        ('[models."m"]\npath = 3\n', 2, "'path' must be a string"),
        ("[manager\nport = 1\n", 1, "Expected ']'"),
        ("port = 1\n[manager]\nx = 'a\n", 3, "Expected"),
    ],
)
def test_load_reports_where_and_keeps_the_default(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    settings, _ = load(tmp_path, text)
    ((found, message),) = lines(tmp_path, text)
    assert found == line
    assert said in message
    assert settings == Settings()


def test_load_reports_a_wrong_variable(tmp_path: Path) -> None:
    settings, problems = load(tmp_path, "", MIDSPAN_MANAGER_PORT="http")
    assert problems == ["MIDSPAN_MANAGER_PORT: must be a whole number from 0 to 65535, not 'http'"]
    assert settings == Settings()
