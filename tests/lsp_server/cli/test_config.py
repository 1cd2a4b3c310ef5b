from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lsp_server.cli.app import run_command
from lsp_server.settings import Settings, camel, settings_schema
from tests.docs_config import specs

TEXT = """[manager]
port = 8012
prot = 1
[models.q]
path = "/q.gguf"
proxy = "http://me:hunter2@h:1"
api_key = "hunter2"
[lsp]
maxTokens = 12
enabld = false
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(TEXT)
    monkeypatch.setenv("MIDSPAN_CONFIG", str(file))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run_command(["config", *arguments])
    return code, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments)[1])


def test_explain_shows_what_is_set_where_and_problems_last(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSPAN_LSP_DEBOUNCE_MS", "50")
    code, out = run(capsys, "explain", "--set", "manager.memory_mb=7")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[:6] == [
        f"manager.port 8012 {file}:2",
        "manager.memory_mb 7 --set manager.memory_mb",
        f'models.q.path "/q.gguf" {file}:5',
        f'models.q.proxy "http://********@h:1" {file}:6',
        f"lsp.max_tokens 12 {file}:9",
        "lsp.debounce_ms 50 MIDSPAN_LSP_DEBOUNCE_MS",
    ]
    assert [line.partition(": ")[0] for line in lines[6:]] == [
        f"{file}:3:1",
        f"{file}:7:1",
        f"{file}:10:1",
    ]
    assert "hunter2" not in out


@pytest.mark.parametrize(("key", "count"), [("lsp", len(specs(Settings))), ("manager.port", 1)])
def test_explain_of_a_key_shows_defaults_too(
    file: Path, capsys: pytest.CaptureFixture[str], key: str, count: int
) -> None:
    shown = as_json(capsys, "explain", key, "--json")["settings"]
    assert len(shown) == count
    assert all(row["key"].startswith(key) for row in shown)


def test_explain_as_json_gives_layer_source_and_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "explain", "--json")
    rows = {row["key"]: row for row in found["settings"]}
    assert rows["manager.port"] | {"doc": ""} == {
        "key": "manager.port",
        "value": 8012,
        "default": 0,
        "layer": "file",
        "source": str(file),
        "line": 2,
        "doc": "",
    }
    assert rows["manager.memory_mb"]["layer"] == "default"
    assert [(p["line"], p["column"]) for p in found["problems"]] == [(3, 1), (7, 1), (10, 1)]


def test_explain_of_an_unknown_key_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(["config", "explain", "nothing"])
    assert code == 2
    assert "No setting is called 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "meant"),
    [("manager.prot", "manager.port"), ("donwloads", "downloads"), ("models.qq", "models.q")],
)
def test_explain_of_a_misspelt_key_names_the_one_that_was_meant(
    key: str, meant: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["config", "explain", key]) == 2
    assert f"No setting is called {key!r}; did you mean {meant!r}?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["manager.port", "lsp.enabled"])
def test_what_is_set_without_a_value_says_how_it_is_written(
    text: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "explain", "--set", text)[1]
    assert "is not KEY=VALUE, for example manager.port=8012" in out


def test_check_fails_where_something_is_wrong(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "check")
    assert code == 1
    assert len(out.splitlines()) == 3
    file.write_text("[manager]\nport = 1\n")
    assert run(capsys, "check") == (0, f"{file}: nothing is wrong.\n")
    assert as_json(capsys, "check", "--json") == {"ok": True, "problems": []}


NAMES = """[lsp]
maxTokns = 1
model = "none"
[chat]
model = "starter"
[models.q]
path = "/q.gguf"
engine = "lama-cpp"
[models.r]
path = "/r.gguf"
engine = "transformers"
[completion]
model = "qwen"
prot = 1
"""


def test_check_names_what_there_is_where_a_name_is_of_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDSPAN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    file.write_text(NAMES)
    found = as_json(capsys, "check", "--json")["problems"]
    assert [problem["line"] for problem in found] == [2, 3, 8, 13, 14], "line by line"
    said = [problem["message"] for problem in found]
    assert said[1] == "no model is called 'none'; there are q, r, starter"
    assert said[2].startswith("no engine is called 'lama-cpp'; there are llama-cpp, llama-server")
    assert said[3] == "no model is called 'qwen'; there are q, r, starter"
    assert run(capsys, "check")[0] == 1
    # Only told: the manager has its own answer, and the values stay as they are.
    assert (
        as_json(capsys, "explain", "completion.model", "--json")["settings"][0]["value"] == "qwen"
    )


def test_check_says_of_a_model_of_the_hub_how_it_is_had(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDSPAN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    file.write_text('[completion]\nmodel = "granite-3b-code"\n')
    code, out = run(capsys, "check")
    assert code == 1
    assert "it can be downloaded: midspan models pull granite-3b-code" in out


def test_check_takes_models_that_the_state_cannot_tell_of_as_they_are(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDSPAN_MODELS_DIR", str(file))  # no folder
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path / "state"))
    file.write_text('[completion]\nmodel = "starter"\n')
    assert run(capsys, "check")[0] == 0


def test_path_is_that_of_the_file_that_is_read(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "path") == (0, f"{file}\n")
    file.rename(file.with_suffix(".json"))
    assert as_json(capsys, "path", "--json") == {
        "path": str(file.with_suffix(".json")),
        "exists": True,
    }


def test_everything_works_where_nothing_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSPAN_CONFIG", str(tmp_path / "no" / "config.toml"))
    code, out = run(capsys, "explain")
    assert (code, out.count("\n")) == (0, 1)
    assert run(capsys, "check")[0] == 0
    assert as_json(capsys, "path", "--json")["exists"] is False


# --- the schemas --------------------------------------------------------------------------------


@pytest.fixture
def validator(capsys: pytest.CaptureFixture[str]) -> jsonschema.Draft202012Validator:
    schema = as_json(capsys, "schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, True),
        ({"manager": {"port": 1}, "models": {"m": {"path": "x", "mmap": False}}}, True),
        ({"lsp": {"multiline": "never", "disabled_languages": ["c"]}}, True),
        ({"models": {"m": {"kv_type": "", "device": "", "endpoint": ""}}}, True),
        ({"models": {"m": {"kv_type": "f16", "device": "cuda:1"}}}, True),
        ({"manager": {"prot": 1}}, False),
        ({"manager": {"port": 65536}}, False),
        ({"manager": {"port": "1"}}, False),
        ({"models": {"m": {"kv_type": "f17"}}}, False),
        ({"models": {"m": {"device": "cuda:x"}}}, False),
        ({"models": {"m": {"endpoint": "ftp://x"}}}, False),
        ({"lsp": {"multiline": "sometimes"}}, False),
        ({"other": {}}, False),
    ],
)
def test_schema_says_the_same_as_the_reader(
    validator: jsonschema.Draft202012Validator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
    valid: bool,
) -> None:
    from lsp_server import user_config

    file = tmp_path / "config.json"
    for model in document.get("models", {}).values():
        model.setdefault("engine", "e")  # a model must come from somewhere
    file.write_text(json.dumps(document))
    monkeypatch.setenv("MIDSPAN_CONFIG", str(file))
    assert validator.is_valid(document) is valid
    assert (user_config.read({}).problems == ()) is valid


def test_editors_schema_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    schema = as_json(capsys, "schema", "--editor")
    assert schema == json.loads(json.dumps(settings_schema()))
    assert set(schema["properties"]) == {f"midspan.{camel(name)}" for name in specs(Settings)}
    for entry in schema["properties"].values():
        assert entry["description"]
        assert entry["scope"] in ("window", "machine")
        bare = {key: value for key, value in entry.items() if key != "scope"}
        jsonschema.Draft202012Validator.check_schema(bare)
        jsonschema.validate(entry["default"], bare)
