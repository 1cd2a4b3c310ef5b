from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import starter
from lsp_server.cli.exits import Exit

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]


@pytest.mark.engine
def test_models_test_tries_a_file_and_starts_no_manager(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    done = run_midspan(["models", "test", str(starter.path()), "--json"], midspan_env)
    assert done.returncode == Exit.OK, done.stderr
    answer = one_object(done.stdout)
    assert answer["ok"] is True
    names = [step["name"] for step in answer["steps"]]
    assert names[:5] == ["file", "cache", "memory", "settings", "load"]
    assert {"completes", "speed", "next key", "from cache"} <= set(names)
    assert not (Path(midspan_env["MIDSPAN_RUNTIME_DIR"]) / "manager.json").exists()


def test_models_test_says_what_failed(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    done = run_midspan(["models", "test", str(folder / "model.gguf")], shared_midspan_env)
    assert done.returncode == Exit.UNAVAILABLE
    assert done.stderr.splitlines()[-1].startswith("midspan: ")
    unknown = run_midspan(["models", "test", "no-such", "--json"], shared_midspan_env)
    assert unknown.returncode == Exit.USAGE
    assert one_object(unknown.stdout)["error"]["kind"] == "unknown_model"


def test_models_test_takes_another_engine(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    line = ["models", "test", "starter", "--engine", "transformers", "--json"]
    done = run_midspan(line, shared_midspan_env)
    assert done.returncode == Exit.UNAVAILABLE
    (step,) = one_object(done.stdout)["steps"]
    assert (step["name"], step["outcome"]) == ("file", "failed")
    assert "transformers" in step["said"]
