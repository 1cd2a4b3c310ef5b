from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends import config, config_legacy
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
    loaded, _ = load(tmp_path, text)
    ((found, message),) = lines(tmp_path, text)
    assert found == line
    assert said in message
    assert loaded == Settings()


def test_load_reports_a_wrong_variable(tmp_path: Path) -> None:
    settings, problems = load(tmp_path, "", MIDSPAN_MANAGER_PORT="http")
    assert problems == ["MIDSPAN_MANAGER_PORT: must be a whole number from 0 to 65535, not 'http'"]
    assert settings == Settings()


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([1, "x"])
)
KEYS = (
    *("manager", "completion", "chat", "models", "lsp", "port", "model", "path", "m", "api_key"),
    *("proxy", "endpoint", "backend_type", *config_legacy.BACKENDS, *config_legacy.FIELDS),
)
VARIABLES = (
    *("MODEL_BACKEND", "OPENAI_MODEL", "DEEPSEEK_R1_MODEL_PATH", "LLAMA_CPP_N_CTX"),
    *("LLAMA_CPP_F16_KV", "MIDSPAN_MANAGER_PORT", "MIDSPAN_MODELS_M_PATH", "MIDSPAN_MODELS__"),
)
NAMES = st.one_of(st.sampled_from(KEYS), st.text(max_size=3))
DOCUMENTS = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS, st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=9), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_load_never_raises_for_what_a_user_wrote(
    tmp_path: Path, document: dict[str, object], environment: dict[str, str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    found, problems = config.load(file, environment)
    assert isinstance(found, Settings)
    for problem in problems:
        assert problem.message
        assert problem.source
