from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import engine_settings, starter
from benchmarks import same_weights
from lsp_server.cli.exits import Exit
from tests.backends import gguf_files, shaped_gguf
from tests.backends.shaped_gguf import Attention

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

TOKEN = 6 * 2 * (64 + 64) * 2  # bytes: six layers, two KV heads of 64, f16


def test_models_memory_counts_what_a_budget_holds(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    line = ["models", "memory", "starter", "--context", "1000", "--budget-mb", "10", "--json"]
    done = run_midspan(line, shared_midspan_env)
    answer = one_object(done.stdout)
    assert done.returncode == Exit.OK
    assert answer["token_bytes"] == TOKEN
    assert answer["cache_bytes"] == 1000 * TOKEN
    assert answer["weights_bytes"] == starter.path().stat().st_size
    assert answer["total_bytes"] == answer["weights_bytes"] + answer["cache_bytes"]
    assert answer["fits"] is (answer["total_bytes"] <= answer["free_bytes"])
    blocks = 10 * 2**20 // (256 * TOKEN)
    assert answer["budget"]["blocks"] == blocks
    assert answer["budget"]["tokens"] == 256 * blocks


def test_models_memory_of_a_file_and_a_type_of_cells(
    shared_midspan_env: dict[str, str], run_midspan: Run
) -> None:
    line = ["models", "memory", str(starter.path()), "--kv-type", "q8_0"]
    done = run_midspan(line, shared_midspan_env)
    assert done.returncode == Exit.OK
    assert f"{TOKEN * 34 // 64:,} bytes of KV cells (q8_0)" in done.stdout


def test_models_spec_tells_how_a_model_is_built_and_would_run(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tmp_path: Path
) -> None:
    shape = Attention("gemma3", 6, 4, 1, 32, 32, window=128)
    path = shaped_gguf.write(tmp_path / "tiny-Q4_K_M.gguf", shape)
    done = run_midspan(["models", "spec", str(path), "--json"], shared_midspan_env)
    answer = one_object(done.stdout)
    assert done.returncode == Exit.OK
    assert answer["weights"]["name"] == "F32"
    assert "its name says Q4_K_M" in answer["weights"]["warning"]
    assert [(row["count"], row["window"]) for row in answer["layers"]] == [(5, 128), (1, 0)]
    chosen = {row["name"]: row for row in answer["settings"]}
    assert {"device", "threads", "gpu_layers", "kv_type", "context_length", "batch"} == set(chosen)
    assert all(row["reason"] for row in chosen.values())
    people = run_midspan(["models", "spec", str(path)], shared_midspan_env).stdout
    assert "5 × 1 KV heads, keys of 32, values of 32, sees 128 tokens back" in people
    assert "its name says Q4_K_M" in people


def test_models_spec_shows_the_users_settings_as_theirs(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    text = f'[models.mine]\npath = "{starter.path()}"\nthreads = 1\n'
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(text)
    done = run_midspan(["models", "spec", "mine", "--json"], midspan_env)
    chosen = {row["name"]: row for row in one_object(done.stdout)["settings"]}
    assert (chosen["threads"]["value"], chosen["threads"]["is_users"]) == (1, True)
    assert not chosen["batch"]["is_users"]


@pytest.mark.parametrize("engine", ["transformers", "mlx"])
def test_models_spec_of_a_folder_has_its_engines_settings_alone(
    engine: str,
    midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: OneObject,
    tmp_path: Path,
) -> None:
    folder = same_weights.write(tmp_path).by_engine()[engine]
    text = f'[models.mine]\npath = "{folder}"\nengine = "{engine}"\ndtype = "float32"\n'
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(text)
    answer = one_object(run_midspan(["models", "spec", "mine", "--json"], midspan_env).stdout)
    chosen = {row["name"]: row["value"] for row in answer["settings"]}
    assert answer["engine"] == engine
    assert chosen.keys() <= engine_settings.SETTINGS[engine]
    taken = one_object(run_midspan(["models", "memory", "mine", "--json"], midspan_env).stdout)
    assert chosen["kv_type"] == taken["kv_type"] == "f32"


@pytest.mark.parametrize("command", ["memory", "spec"])
def test_a_model_that_does_not_say_what_it_caches_is_named(
    command: str, shared_midspan_env: dict[str, str], run_midspan: Run, tmp_path: Path
) -> None:
    tensors = [gguf_files.tensor("one", (4, 8))]
    values = [gguf_files.text_value("general.architecture", "qwen2")]
    data = gguf_files.gguf(values, tensors, bytes(128))
    path = gguf_files.write(tmp_path / "m.gguf", data)
    done = run_midspan(["models", command, str(path)], shared_midspan_env)
    assert done.returncode == Exit.UNAVAILABLE
    assert "lacks qwen2.block_count, qwen2.attention.head_count" in done.stderr
    assert done.stdout == ""


def test_a_model_elsewhere_takes_no_memory_here(
    midspan_env: dict[str, str], run_midspan: Run
) -> None:
    text = '[models.far]\nendpoint = "http://127.0.0.1:9"\n'
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(text)
    done = run_midspan(["models", "memory", "far"], midspan_env)
    assert done.returncode != Exit.OK
    assert "takes no memory here" in done.stderr


def test_a_model_of_no_name_is_a_wrong_argument(
    shared_midspan_env: dict[str, str], run_midspan: Run
) -> None:
    done = run_midspan(["models", "memory", "nothing"], shared_midspan_env)
    assert done.returncode == Exit.USAGE
    assert "'nothing'" in done.stderr
