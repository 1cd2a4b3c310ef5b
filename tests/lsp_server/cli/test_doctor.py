from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends.errors import ManagerUnavailable
from backends.remembered import Remembered
from lsp_server.cli import doctor
from lsp_server.cli.doctor import Check, Status
from lsp_server.cli.exits import Exit

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]


def _by_name(answer: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in answer["checks"]}


@pytest.mark.engine
def test_doctor_finds_a_whole_installation_well(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    done = run_midspan(["doctor", "--json"], shared_midspan_env)
    answer = one_object(done.stdout)
    assert done.returncode == Exit.OK
    assert answer["ok"] is True
    assert list(_by_name(answer)) == [name for name, _, _ in doctor.CHECKS]
    assert all(check["status"] in ("ok", "warn") for check in answer["checks"])
    assert "starter" in _by_name(answer)["Completion"]["detail"]


def test_doctor_without_an_engine_says_what_to_install(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['llama_cpp'] = None\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_midspan(["doctor", "--json"], midspan_env | {"PYTHONPATH": path})
    checks = _by_name(one_object(done.stdout))
    assert done.returncode == Exit.FAILURE
    assert checks["Engines"]["status"] == "fail"
    assert 'pip install "midspan[llama-cpp]"' in checks["Engines"]["advice"]
    assert checks["Manager"]["status"] == "ok"
    assert checks["Completion"]["status"] == "fail"


def test_doctor_shows_a_wrong_setting_at_its_line(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text("[manager]\nidle_minutes = 'soon'\n")
    checks = _by_name(one_object(run_midspan(["doctor", "--json"], midspan_env).stdout))
    assert checks["Configuration"]["status"] == "warn"
    assert "config.toml:2" in checks["Configuration"]["detail"]


def test_check_safe_mode_says_why_it_is_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path))
    assert doctor.check_safe_mode().detail.startswith("off")
    machine = doctor.catalogue.build_and_processor("llama-cpp")
    Remembered(tmp_path).use_safe_mode(machine)
    check = doctor.check_safe_mode()
    assert check.detail.startswith("on")
    assert machine in check.detail
    assert check.advice


@pytest.mark.parametrize(
    ("limit", "used", "said"),
    [
        ("max", str(2**30), None),  # no limit: the machine's memory counts
        (str(2**30), str(2**30 - 2**20), "0.0 GiB free, of this container's 1.0"),
    ],
)
def test_check_memory_knows_the_containers_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, used: str, said: str | None
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(doctor, "CGROUPS", tmp_path)
    check = doctor.check_memory()
    if said is None:
        assert "container" not in check.detail
    else:
        assert (check.status, check.detail) == (Status.WARN, said)


def test_run_checks_turns_an_error_into_a_failed_check() -> None:
    def broken() -> Check:
        raise ManagerUnavailable("It is gone.")

    assert doctor.run_checks((("Manager", broken, "Start it."),)) == [
        Check("Manager", Status.FAIL, "It is gone.", "Start it.")
    ]
