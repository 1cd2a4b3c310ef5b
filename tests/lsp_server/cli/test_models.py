from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lsp_server.cli.exits import Exit

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]


@pytest.mark.engine
def test_models_add_use_remove_and_back(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tiny_model: Path
) -> None:
    def object_of(*arguments: str) -> dict[str, Any]:
        done = run_midspan(["models", *arguments, "--json"], midspan_env)
        assert done.returncode == Exit.OK, done.stderr
        return one_object(done.stdout)

    assert object_of("add", str(tiny_model), "--name", "second")["name"] == "second"
    assert {row["name"] for row in object_of("list")["models"]} == {"starter", "second"}
    assert object_of("use", "second")["state"] == "ready"
    assert object_of("list")["current"] == "second"
    in_use = run_midspan(["models", "remove", "second"], midspan_env)
    assert in_use.returncode == Exit.FAILURE
    assert "in use" in in_use.stderr
    object_of("use", "starter")
    listed = run_midspan(["models", "list"], midspan_env).stdout
    assert any(line.startswith("* starter") for line in listed.splitlines())
    # On standby it is loaded, but not in use.
    assert object_of("remove", "second")["removed"] == "second"
    assert tiny_model.exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["use", "no-such"], "unknown_model", Exit.USAGE),
        (["remove", "no-such"], "unknown_model", Exit.USAGE),
        (["add", "no-such.gguf"], "model_file", Exit.UNAVAILABLE),
        (["add", __file__], "model_file", Exit.UNAVAILABLE),
    ],
)
def test_models_explains_what_cannot_be(
    shared_midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: OneObject,
    arguments: list[str],
    kind: str,
    code: Exit,
) -> None:
    done = run_midspan(["models", *arguments, "--json"], shared_midspan_env)
    assert done.returncode == code, done.stderr
    assert one_object(done.stdout)["error"]["kind"] == kind
    assert done.stderr.splitlines()[-1].startswith("midspan: ")


def test_models_list_shows_endpoints_and_no_secret(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(
        "[models.far]\n"
        'endpoint = "https://user:hunter2@gpu.example/v1"\n'
        'profile = "vllm"\n'
        'api_key_env = "FAR_KEY"\n'
    )
    env = midspan_env | {"FAR_KEY": "hunter2"}
    listed = run_midspan(["models", "list"], env)
    assert "vllm at https://gpu.example/v1" in listed.stdout, listed.stderr
    as_json = run_midspan(["models", "list", "--json"], env).stdout
    rows = {row["name"]: row for row in one_object(as_json)["models"]}
    assert (rows["far"]["fim"], rows["far"]["chat"]) == (None, None)
    assert (rows["starter"]["fim"], rows["starter"]["chat"]) == (True, False)
    assert "hunter2" not in listed.stdout + as_json


def test_models_list_and_status_say_why_an_endpoint_failed(
    midspan_env: dict[str, str], run_midspan: Run
) -> None:
    name = "an-endpoint-of-a-long-name-that-nobody-serves"
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text(
        f'[models.{name}]\nendpoint = "http://127.0.0.1:9"\nretries = 0\n'
    )
    used = run_midspan(["models", "use", name], midspan_env)
    assert used.returncode == Exit.UNAVAILABLE, used.stderr
    reason = used.stderr.strip().partition("is not available: ")[2]
    assert "cannot be reached" in reason
    lines = run_midspan(["models", "list"], midspan_env).stdout.splitlines()
    (failed,) = (line for line in lines if name in line)
    assert failed.endswith(reason)
    assert {line[len(name) + 3 :].split()[0] for line in lines} == {"failed", "stopped"}
    assert reason in run_midspan(["models", "status"], midspan_env).stdout


@pytest.mark.engine
def test_models_status_tells_what_is_loaded(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    assert run_midspan(["models", "status"], midspan_env).stdout.startswith("No model is loaded")
    run_midspan(["models", "use", "starter"], midspan_env)
    status = one_object(run_midspan(["models", "status", "--json"], midspan_env).stdout)
    assert (status["current"], status["serving"], status["chat"]) == ("starter",) * 3
    (row,) = (row for row in status["models"] if row["state"] == "ready")
    assert row["roles"] == ["completion"]  # it would be the one to chat, and can't
    assert row["engine"]
    assert row["fim"]
    text = run_midspan(["models", "status"], midspan_env).stdout
    assert text.split()[:3] == ["starter", "ready", "completion,"]
    assert "qwen2 " in text
    assert "?" not in text


def test_models_add_of_nothing_says_that_there_is_nothing(
    shared_midspan_env: dict[str, str], run_midspan: Run, tmp_path: Path
) -> None:
    done = run_midspan(["models", "add", str(tmp_path / "gone")], shared_midspan_env)
    assert done.returncode == Exit.UNAVAILABLE
    assert f"{tmp_path / 'gone'} cannot be read: No such file or directory." in done.stderr


def test_models_add_of_an_endpoint_says_where_it_belongs(run_midspan: Run) -> None:
    done = run_midspan(["models", "add", "https://gpu.example/v1", "--name", "far"], {})
    assert done.returncode == Exit.USAGE
    assert "[models.far]" in done.stderr
    assert 'endpoint = "https://gpu.example/v1"' in done.stderr
