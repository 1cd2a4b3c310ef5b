"""Who wins, for one setting of each kind, over every set of layers that can have set it."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backends import config, config_environment
from backends.cache_spec import KV_TYPES
from backends.config_schema import Layer, Spec, UnfitError, specs
from backends.remote.profiles import PROFILES

TABLES = {**config.SHAPE.tables, "models": config.ModelSettings}
LAYERS = ("file", "environment", "command line")
# (key, the value each layer gives, how the environment and the command line write it)
VALUES: dict[tuple[str, ...], tuple[Any, Any, Any]] = {
    ("manager", "port"): (1, 2, 3),
    ("manager", "idle_minutes"): (1.5, 2.5, 3.5),
    ("completion", "model"): ("a", "b", "c"),
    ("chat", "model"): ("a", "b", "c"),
    ("models", "m", "mlock"): (True, False, True),
    ("models", "m", "kv_type"): ("f16", "f32", "q8_0"),
    ("models", "m", "endpoint"): ("http://a", "http://b", "http://c"),
}


@pytest.mark.parametrize("key", VALUES, ids=".".join)
@pytest.mark.parametrize(
    "layers",
    [set(chosen) for n in range(4) for chosen in itertools.combinations(LAYERS, n)],
    ids=lambda layers: "+".join(sorted(layers)) or "none",
)
def test_the_highest_layer_that_sets_a_value_wins(
    tmp_path: Path, key: tuple[str, ...], layers: set[str]
) -> None:
    in_file, in_environment, on_command_line = VALUES[key]
    file = tmp_path / "config.toml"
    table = ".".join(key[:-1])
    written = f"{key[-1]} = {json.dumps(in_file)}\n" if "file" in layers else ""
    file.write_text(
        f"[models.m]\nengine = 'e'\n[{table}]\n{written}".replace(
            "[models.m]\nengine = 'e'\n[models.m]", "[models.m]\nengine = 'e'"
        )
    )
    variable = config_environment.variable(key)
    environment = {variable: str(in_environment)} if "environment" in layers else {}
    assignments = [f"{'.'.join(key)}={on_command_line}"] if "command line" in layers else []

    found = config.resolve(file, environment, assignments=assignments)
    assert found.problems == ()
    explained = {row.key: row for row in found.explain()}[".".join(key)]
    expected = {
        "command line": (on_command_line, Layer.COMMAND_LINE, f"--set {'.'.join(key)}", 0),
        "environment": (in_environment, Layer.ENVIRONMENT, variable, 0),
        "file": (in_file, Layer.FILE, str(file), 4 if table != "models.m" else 3),
    }
    highest = next((layer for layer in reversed(LAYERS) if layer in layers), None)
    origin = explained.origin
    if highest is None:
        assert (explained.value, origin.layer) == (explained.default, Layer.DEFAULT)
    else:
        assert (explained.value, origin.layer, origin.source, origin.line) == expected[highest]
    settings, _ = config.load(file, environment, assignments=assignments)
    in_table = settings.models["m"] if key[0] == "models" else getattr(settings, key[0])
    assert getattr(in_table, key[-1]) == explained.value


def test_kernelagents_names_are_above_the_file_and_below_ours(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[models.llama-cpp]\ncontext_length = 1\nthreads = 1\nbatch = 1\n")
    environment = {
        "LLAMA_CPP_MODEL_PATH": "/m.gguf",
        "LLAMA_CPP_N_CTX": "2",
        "LLAMA_CPP_N_THREADS": "2",
        "MIDSPAN_MODELS_LLAMA_CPP_CONTEXT_LENGTH": "3",
    }
    settings, problems = config.load(file, environment)
    model = settings.models["llama-cpp"]
    assert (model.context_length, model.threads, model.batch, problems) == (3, 2, 1, [])


def test_overrides_of_a_program_win_over_everything(tmp_path: Path) -> None:
    settings, problems = config.load(
        tmp_path / "none.toml",
        {"MIDSPAN_MANAGER_PORT": "2"},
        overrides={"manager": {"port": 3}, "models": {"m": {"path": "/m.gguf", "n_ctx": 1}}},
    )
    assert (settings.manager.port, settings.models["m"].path) == (3, "/m.gguf")
    (problem,) = problems
    assert (problem.source, problem.message[:19]) == ("models.m.n_ctx", "unknown key 'n_ctx'")


@pytest.mark.parametrize("layer", ["environment", "command line"])
def test_a_wrong_value_above_leaves_the_value_below(tmp_path: Path, layer: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[manager]\nport = 1\n")
    environment = {"MIDSPAN_MANAGER_PORT": "99999"} if layer == "environment" else {}
    assignments = ["manager.port=99999"] if layer == "command line" else []
    settings, problems = config.load(file, environment, assignments=assignments)
    assert settings.manager.port == 1
    assert [problem.message for problem in problems] == [
        "must be a whole number from 0 to 65535, not '99999'"
    ]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("manager.port", "is not KEY=VALUE, for example manager.port=8012"),
        ("port=1", "unknown table or key 'port'"),
        ("manager.prot=1", "did you mean 'port'"),
        ("models.m=1", "'models.m' must be a table"),
        ("=", "is not KEY=VALUE, for example manager.port=8012"),
    ],
)
def test_assignments_that_cannot_be_meant(tmp_path: Path, assignment: str, message: str) -> None:
    settings, problems = config.load(tmp_path / "c.toml", {}, assignments=[assignment])
    assert settings == config.Settings()
    assert message in problems[0].message


def test_assignments_reach_models_with_dots_in_their_names(tmp_path: Path) -> None:
    settings, problems = config.load(
        tmp_path / "c.toml", {}, assignments=["models.qwen2.5.path=/q.gguf"]
    )
    assert (settings.models["qwen2.5"].path, problems) == ("/q.gguf", [])


# --- what each field takes ------------------------------------------------------------------------


ALL = [(name, spec) for name, kind in TABLES.items() for spec in specs(kind).values()]


@pytest.mark.parametrize(("table", "spec"), ALL, ids=lambda part: getattr(part, "name", part))
def test_every_setting_is_documented_and_takes_its_own_default(table: str, spec: Spec) -> None:
    assert spec.doc.endswith((".", "…"))
    assert spec.read(spec.default) == spec.default
    assert not (spec.choices and spec.pattern)
    with pytest.raises(UnfitError):
        spec.read({"a": "table"})
    if spec.kind in (int, float):
        assert spec.low is not None, "nothing says what is too small"
        for number in (spec.low - 1, float("nan"), float("inf"), True):
            with pytest.raises(UnfitError):
                spec.read(number)
    if spec.choices or spec.pattern:
        with pytest.raises(UnfitError):
            spec.read("no such thing, surely")


def test_choices_are_those_that_the_engines_know() -> None:
    known = specs(config.ModelSettings)
    assert known["kv_type"].choices == tuple(KV_TYPES)
    assert set(known["profile"].choices) == set(PROFILES), "a profile is added at its field too"


def test_settings_of_a_kind_that_is_not_read_are_refused() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Odd:
        table: dict  # type: ignore[type-arg]

    Odd.__annotations__["table"] = dict
    with pytest.raises(TypeError, match=r"Odd\.table"):
        specs(Odd)


def test_settings_have_one_field_for_each_table() -> None:
    names = {item.name for item in fields(config.Settings)}
    assert names == {*config.SHAPE.tables, *config.SHAPE.named}
