from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import availability, catalogue, engines, hardware, launcher, memory
from backends.availability import Availability
from backends.availability_probe import REMOTE
from backends.errors import ManagerUnavailable
from backends.hardware import Probe
from backends.remembered import Remembered
from lsp_server.cli import doctor, doctor_checks
from lsp_server.cli.doctor_checks import Check, Installation, Status
from lsp_server.cli.exits import Exit

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

RUNTIMES = ("llama_cpp", "xllamacpp", "torch", "transformers", "mlx", "mlx_lm", "openai", "httpx2")


def _by_name(answer: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in answer["checks"]}


def blocked(env: dict[str, str], folder: Path, *modules: str) -> dict[str, str]:
    """Return `env` in which Python finds none of `modules`."""
    lines = "".join(f"sys.modules[{module!r}] = None\n" for module in modules)
    (folder / "sitecustomize.py").write_text(f"import sys\n{lines}")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return env | {"PYTHONPATH": path}


@pytest.mark.engine
def test_doctor_finds_a_whole_installation_well(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    done = run_midspan(["doctor", "--json", "--quick"], shared_midspan_env)
    answer = one_object(done.stdout)
    assert done.returncode == Exit.OK
    assert answer["ok"] is True
    assert list(_by_name(answer)) == [name for name, _, _ in doctor_checks.CHECKS]
    assert all(check["status"] in ("ok", "warn") for check in answer["checks"])
    assert "starter" in _by_name(answer)["Completion"]["detail"]
    assert [one["backend"] for one in answer["backends"]] == [*engines.ENGINES, REMOTE]
    assert answer["hardware"]["cores"] >= 1
    assert all(device["reason"] for device in answer["hardware"]["devices"])
    assert answer["manager"]["pid"] > 0
    assert answer["cache"]["folder"].endswith("cells")
    assert answer["safe_mode"] == {}
    assert answer["problems"] == []


def test_doctor_on_a_bare_environment_names_each_missing_extra(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tmp_path: Path
) -> None:
    done = run_midspan(["doctor", "--json"], blocked(midspan_env, tmp_path, *RUNTIMES))
    answer = one_object(done.stdout)
    assert done.returncode == Exit.FAILURE
    assert answer["ok"] is False
    reasons = {one["backend"]: one["reason"] for one in answer["backends"]}
    for name in ("llama-cpp", "llama-server", "transformers", "mlx", "remote"):
        assert f'pip install "midspan[{name}]"' in reasons[name]
    assert not any(one["importable"] or one["loadable"] for one in answer["backends"])
    checks = _by_name(answer)
    assert checks["Engines"]["status"] == "fail"
    assert 'pip install "midspan[llama-cpp]"' in checks["Engines"]["advice"]
    assert checks["Manager"]["status"] == "ok"
    assert checks["Completion"]["status"] == "fail"


def test_doctor_for_people_is_calm_and_says_what_to_do(
    midspan_env: dict[str, str], run_midspan: Run, tmp_path: Path
) -> None:
    env = blocked(midspan_env, tmp_path, *RUNTIMES)
    done = run_midspan(["doctor"], env | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == Exit.FAILURE
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✓ Python")
    assert any(line.startswith("✗ Engines") for line in lines)
    assert any(line.startswith("  · mlx") and "midspan[mlx]" in line for line in lines)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Trying each engine" in done.stderr
    plain = run_midspan(["doctor", "--quick"], env | {"PYTHONIOENCODING": "ascii"})
    assert plain.stdout.splitlines()[0].startswith("+ Python")
    assert "Trying" not in plain.stderr


def test_doctor_shows_a_wrong_setting_at_its_line(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    Path(midspan_env["MIDSPAN_CONFIG"]).write_text("[manager]\nidle_minutes = 'soon'\n")
    answer = one_object(run_midspan(["doctor", "--json", "--quick"], midspan_env).stdout)
    check = _by_name(answer)["Configuration"]
    assert check["status"] == "warn"
    assert "config.toml:2" in check["detail"]
    assert [(one["line"], "idle_minutes" in str(one)) for one in answer["problems"]] == [(2, True)]


def test_doctor_refuses_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hardware.OVERRIDE, "cuda")
    (check,) = doctor_checks.run(machine(Probe()), (only("Device"),))
    assert check.status is Status.FAIL
    assert "no NVIDIA driver" in check.detail
    assert hardware.OVERRIDE in check.advice


def test_doctor_names_models_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path))
    config = tmp_path / "config.toml"
    config.write_text(
        f'[models.gone]\npath = "{tmp_path}/gone.gguf"\n'
        '[models.far]\nendpoint = "http://127.0.0.1:9"\napi_key_env = "NO_SUCH_KEY"\n'
    )
    monkeypatch.setenv("MIDSPAN_CONFIG", str(config))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    installation = Installation()
    (check,) = doctor_checks.run(installation, (only("Models"),))
    assert check.status is Status.WARN
    assert "gone.gguf" in check.advice
    assert "NO_SUCH_KEY" in check.advice
    rows = {one.model: one for one in installation.models}
    assert (rows["gone"].file, rows["far"].key) == (False, False)


def only(name: str) -> doctor_checks.Row:
    return next(row for row in doctor_checks.CHECKS if row[0] == name)


def machine(probe: Probe) -> Installation:
    installation = Installation()
    installation.__dict__["hardware"] = hardware.describe(probe)
    return installation


def with_backends(*found: Availability) -> Installation:
    installation = Installation()
    installation.__dict__["backends"] = list(found)
    return installation


LLAMA = Availability("llama-cpp", True, loadable=True)
BROKEN = Availability("mlx", True, loadable=False, reason="mlx is broken.")
MISSING = Availability("transformers", False, reason='pip install "midspan[transformers]".')
ENDPOINTS = Availability(REMOTE, True, loadable=True)


@pytest.mark.parametrize(
    ("found", "status", "advice"),
    [
        ((LLAMA, MISSING), Status.OK, ""),
        ((LLAMA, BROKEN), Status.WARN, "mlx is broken."),
        ((MISSING, ENDPOINTS), Status.FAIL, doctor_checks.INSTALL_ONE),
        ((replace(LLAMA, loadable=None),), Status.OK, ""),
        ((BROKEN,), Status.FAIL, "mlx is broken."),
    ],
)
def test_one_engine_for_local_models_is_enough(
    found: tuple[Availability, ...], status: Status, advice: str
) -> None:
    check = doctor_checks.usable_engines(with_backends(*found))
    assert (check.status, check.advice) == (status, advice)


def test_safe_mode_says_why_it_is_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(tmp_path))
    assert doctor_checks.safe_mode(Installation()).detail.startswith("off")
    build = catalogue.build_and_processor("llama-cpp")
    Remembered(tmp_path).use_safe_mode(build)
    installation = Installation()
    assert installation.safe_modes == {"llama-cpp": build}
    check = doctor_checks.safe_mode(installation)
    assert check.detail.startswith("on")
    assert build in check.detail
    assert check.advice


@pytest.mark.parametrize(
    ("limit", "available", "status", "said"),
    [
        (None, 2**33, Status.OK, "8.0 GiB free of 16.0"),
        (2**33, 2**33, Status.OK, "8.0 GiB free below the container's limit"),
        (2**29, 2**29, Status.WARN, "0.5 GiB free below the container's limit"),
    ],
)
def test_memory_knows_the_containers_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, available: int, status: Status, said: str
) -> None:
    monkeypatch.setattr(memory, "cgroup_available", lambda: limit)
    check = doctor_checks.memory_left(
        machine(Probe(memory_total=2**34, memory_available=available))
    )
    assert (check.status, check.detail) == (status, said)


def test_run_turns_an_error_into_a_failed_check() -> None:
    def broken(_: Installation) -> Check:
        raise ManagerUnavailable("It is gone.")

    assert doctor_checks.run(Installation(), (("Manager", broken, "Start it."),)) == [
        Check("Manager", Status.FAIL, "It is gone.", "Start it.")
    ]


def test_report_has_null_for_what_could_not_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise ManagerUnavailable("It is gone.")

    monkeypatch.setattr(launcher, "find", gone)
    assert doctor.report(with_backends(LLAMA), [])["manager"] is None


@pytest.mark.skipif("MIDSPAN_TEST_NETWORK" not in os.environ, reason="downloads packages")
def test_doctor_in_a_real_bare_environment(
    midspan_env: dict[str, str], one_object: OneObject, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=True)
    binaries = tmp_path / "bare" / "bin"
    root = Path(__file__).parents[3]
    subprocess.run([binaries / "pip", "install", "-q", root], check=True, timeout=280)
    done = subprocess.run(
        [binaries / "midspan", "doctor", "--json"],
        env=midspan_env,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    answer = one_object(done.stdout)
    assert done.returncode == Exit.FAILURE
    reasons = {one["backend"]: one["reason"] for one in answer["backends"]}
    for name in ("llama-cpp", "llama-server", "transformers", "mlx", "remote"):
        assert f'pip install "midspan[{name}]"' in reasons[name]
    for extra in answer["extras"]:
        assert extra["installed"] is False
        assert f'pip install "midspan[{extra["name"]}]"' in _by_name(answer)["Extras"]["advice"]
    assert sys.executable not in _by_name(answer)["Python"]["detail"]


def test_every_extra_of_the_package_is_known_to_doctor() -> None:
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    known = {engine.extra for engine in engines.ENGINES.values()} | {REMOTE}
    known |= {extra.name for extra in availability.EXTRAS}
    assert known == {name for name in declared if name != "all" and not name.startswith("test")}


def test_extras_that_are_missing_are_named_with_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(availability, "_is_there", lambda module: module != "keyring")
    check = doctor_checks.extras(Installation())
    assert (check.status, check.detail) == (Status.OK, "not installed: keyring")
    assert 'pip install "midspan[keyring]" for endpoints\' keys' in check.advice
    monkeypatch.setattr(availability, "_is_there", lambda module: True)
    assert doctor_checks.extras(Installation()).detail == "all installed"
