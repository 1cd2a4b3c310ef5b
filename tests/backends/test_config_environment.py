from __future__ import annotations

from pathlib import Path

import pytest

from backends import config
from backends.config import ModelSettings
from backends.config_environment import variable
from backends.config_schema import specs


def load(text: str, tmp_path: Path, **environment: str) -> tuple[config.Settings, list[str]]:
    file = tmp_path / "config.toml"
    file.write_text(text)
    settings, problems = config.load(file, environment)
    return settings, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    "key",
    [(name, field) for name, kind in config.SHAPE.tables.items() for field in specs(kind)]
    + [("models", "Some.Model", field) for field in specs(ModelSettings)],
    ids=".".join,
)
def test_every_setting_has_a_variable(tmp_path: Path, key: tuple[str, ...]) -> None:
    kind = {**config.SHAPE.tables, **config.SHAPE.named}[key[0]]
    spec = specs(kind)[key[-1]]
    numbers = {int: "1", float: "1", bool: str(not spec.default)}
    texts = {"device": "cpu", "endpoint": "http://h", "proxy": "http://h"}
    words = spec.choices[0] if spec.choices else texts.get(spec.name, "A/b")
    text = numbers.get(spec.kind, "KEY" if spec.name == "api_key_env" else words)
    settings, problems = load(
        "[models.'Some.Model']\nengine = 'e'\n", tmp_path, **{variable(key): text}
    )
    assert problems == []
    table = settings.models[key[1]] if key[0] == "models" else getattr(settings, key[0])
    expected = str(Path.cwd() / text) if spec.path else spec.parse(text)
    assert getattr(table, key[-1]) == expected != spec.default


def test_a_model_that_is_in_no_file_is_called_as_its_variable(tmp_path: Path) -> None:
    settings, problems = load(
        "",
        tmp_path,
        MIDSPAN_MODELS_QWEN_1_5B_PATH="/q.gguf",
        MIDSPAN_MODELS_QWEN_1_5B_API_KEY_FILE="/k",
    )
    assert problems == []
    assert settings.models == {"qwen-1-5b": ModelSettings(path="/q.gguf", api_key_file="/k")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MIDSPAN_MANAGER_PROT", "[manager] has no 'prot'; did you mean 'port'?"),
        ("MIDSPAN_MODELS_M_PATHS", "must end with a setting of [models.NAME]"),
        ("MIDSPAN_MODELS_PATH", "must end with a setting of [models.NAME]"),
        ("MIDSPAN_MODELS_M_API_KEY", "put the name of its variable in …_API_KEY_ENV"),
    ],
)
def test_a_variable_that_sets_nothing_is_named(tmp_path: Path, name: str, said: str) -> None:
    settings, problems = load("", tmp_path, **{name: "secret-value"})
    assert settings == config.Settings()
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")
    assert said in problems[0]
    assert "secret-value" not in problems[0]


def test_a_name_that_two_models_share_is_refused(tmp_path: Path) -> None:
    settings, problems = load(
        "[models.'a.b']\nengine = 'e'\n[models.a-b]\nengine = 'e'\n",
        tmp_path,
        MIDSPAN_MODELS_A_B_THREADS="3",
    )
    assert [model.threads for model in settings.models.values()] == [0, 0]
    assert problems == ["MIDSPAN_MODELS_A_B_THREADS: may mean a-b or a.b; set it in the file"]


@pytest.mark.parametrize(
    "name",
    ["MIDSPAN_CONFIG", "MIDSPAN_MODELS_DIR", "MIDSPAN_LOG_LEVEL", "MIDSPAN_DEVICE", "MIDSPAN_X"],
)
def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path, name: str) -> None:
    assert load("", tmp_path, **{name: "x"}) == (config.Settings(), [])


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    settings, problems = load("[manager]\nport = 7\n", tmp_path, MIDSPAN_MANAGER_PORT="")
    assert (settings.manager.port, problems) == (7, [])


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("YES", True), ("on", True), ("1", True), ("False", False), ("0", False)],
)
def test_true_and_false_as_people_write_them(tmp_path: Path, text: str, value: bool) -> None:
    settings, problems = load("[models.m]\nengine = 'e'\n", tmp_path, MIDSPAN_MODELS_M_MMAP=text)
    assert (settings.models["m"].mmap, problems) == (value, [])


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", "hunter2"),
        ("api_key_env", "sk-hunter2"),
        ("api_key_env", "hunter2lowercase"),
        ("api_key_keyring", "hunter2"),
        ("token", "hunter2"),
        ("proxy", "me:hunter2@host"),
        ("proxy", "http://me:hunter2@host:1"),
        ("endpoint", "http://me:hunter2@host/v1"),
        ("endpoint", "https://host/v1?key=hunter2"),
        ("endpoint", "hunter2@host"),
    ],
)
def test_secrets_are_in_no_message_and_no_explanation(tmp_path: Path, key: str, value: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[models.m]\nengine = "e"\n{key} = "{value}"\n')
    found = config.resolve(file, {})
    told = [str(problem) for problem in found.problems]
    told += [repr(row) for row in found.explain()]
    assert not any("hunter2" in text for text in told)


def test_explain_shows_what_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[models.m]\nendpoint = "https://h/v1"\napi_key_env = "MY_KEY"\n'
        'api_key_keyring = "midspan/me"\n'
    )
    shown = {row.key: row.value for row in config.resolve(file, {}).explain()}
    assert shown["models.m.endpoint"] == "https://h/v1"
    assert shown["models.m.api_key_env"] == "MY_KEY"
    assert shown["models.m.api_key_keyring"] == "midspan/me"


def test_borrowed_names_lie_below_our_own(tmp_path: Path) -> None:
    def endpoint(**environment: str) -> tuple[str, str]:
        found = config.resolve(tmp_path / "none.toml", environment)
        key = ("downloads", "endpoint")
        origin = found.origins.get(key)
        return found.values.get(key, "default"), str(origin)

    assert endpoint(HF_ENDPOINT="https://a.example") == ("https://a.example", "HF_ENDPOINT")
    ours = endpoint(HF_ENDPOINT="https://a.example", MIDSPAN_DOWNLOADS_ENDPOINT="https://b.example")
    assert ours[0] == "https://b.example"
    assert endpoint(HF_ENDPOINT="")[0] in ("default", "https://huggingface.co")
