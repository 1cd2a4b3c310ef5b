"""A configuration as KernelAgent's users have it, all the way to a completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import starter

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.engine
def test_kernelagents_file_selects_the_model_that_completes(
    midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    file = Path(midspan_env["MIDSPAN_CONFIG"]).with_suffix(".json")
    table = {"model_path": str(starter.path()), "n_ctx": 512, "n_threads": 1, "verbose": False}
    file.write_text(json.dumps({"backend_type": "llama-cpp", "llama-cpp": table}))
    code = tmp_path / "a.py"
    code.write_text("def add(a, b):\n    return \n")
    done = run_midspan(["complete", f"{code}:2:12", "--json"], midspan_env)
    answer = one_object(done.stdout)
    assert answer["model"] == "llama-cpp"
    assert answer["usage"]["completion_tokens"] > 0
    assert run_midspan(["config", "check"], midspan_env).returncode == 0
