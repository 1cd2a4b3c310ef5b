from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends import availability, engines, starter
from backends.availability import Availability
from backends.availability_probe import REMOTE
from backends.catalogue import Model, Source
from backends.config import ModelSettings
from backends.hardware import CommandResult
from tests.backends import gguf_files

SECRET = "sk-never-shown-0123456789"
GOOD = CommandResult(json.dumps({"version": "1.2", "detail": "runs"}))


def model(path: Path | None = None, **settings: Any) -> Model:
    own = ModelSettings(path=str(path or ""), **settings)
    return Model("mine", path or Path(), Source.CONFIG, own)


@pytest.fixture
def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_is_there", lambda module: True)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def lacking(*modules: str) -> None:
        monkeypatch.setattr(availability, "_is_there", lambda module: module not in modules)

    return lacking


# -- importable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*engines.ENGINES, REMOTE])
def test_what_is_missing_is_named_with_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "_is_there", lambda module: False)
    found = availability.check(name, probe=lambda *_: pytest.fail("nothing to try"))
    assert not found.importable
    assert not found.ok
    assert found.loadable is None
    assert f'pip install "midspan[{name}]"' in found.reason


@pytest.mark.parametrize(
    ("name", "modules", "reason"),
    [
        ("transformers", ["torch"], "torch is not installed: pip install"),
        ("transformers", ["transformers"], "transformers is not installed: pip install"),
        ("llama-cpp", ["numpy"], "numpy is not installed: pip install"),
        (REMOTE, ["httpx2"], 'httpx2 is not installed: pip install "midspan[remote]"'),
    ],
)
def test_half_an_installation_names_the_other_half(
    name: str, modules: list[str], reason: str, without: Callable[..., None]
) -> None:
    without(*modules)
    found = availability.installed(name)
    assert not found.importable
    assert found.reason.startswith(reason)


def test_a_module_that_python_blocks_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert not availability.installed("llama-server").importable
    assert not availability._is_there("no_such_parent.child")


# -- loadable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (
            CommandResult(problem="crashes (SIGILL)"),
            "crashes (SIGILL) here, in safe mode too. Reinstall it: pip",
        ),
        (CommandResult(problem="does not answer within 1 s"), "does not answer within 1 s when"),
        (CommandResult(problem="fails: no space"), "fails: no space when it is used"),
        (CommandResult("garbage"), "says what cannot be read"),
        (CommandResult("[]"), "says what cannot be read"),
        (
            CommandResult(json.dumps({"error": "OSError: libcudart.so.12: no such file"})),
            "is broken: OSError: libcudart.so.12: no such file. Reinstall it: pip install",
        ),
    ],
)
def test_installed_is_not_loadable(result: CommandResult, reason: str, all_there: None) -> None:
    found = availability.check("llama-cpp", probe=lambda *_: result)
    assert found.importable
    assert found.loadable is False
    assert not found.ok
    assert reason in found.reason


def test_what_was_used_says_what_it_can_do(all_there: None) -> None:
    found = availability.check("mlx", probe=lambda *_: GOOD)
    assert found == Availability("mlx", True, loadable=True, version="1.2", detail="runs")
    assert found.ok


def test_what_crashes_is_tried_in_safe_mode(all_there: None) -> None:
    crash = CommandResult(problem="crashes (SIGSEGV)")
    found = availability.check("llama-cpp", probe=lambda _, safe: GOOD if safe else crash)
    assert found.ok
    assert found.detail == "runs, in safe mode"
    other = availability.check("mlx", probe=lambda _, safe: GOOD if safe else crash)
    assert (other.ok, "crashes (SIGSEGV) here. Reinstall" in other.reason) == (False, True)


def test_all_backends_are_checked_in_the_mode_they_need(all_there: None) -> None:
    asked: dict[str, bool] = {}

    def probe(name: str, safe: bool) -> CommandResult:
        asked[name] = safe
        return GOOD

    found = availability.check_all(probe=probe, safe_modes=frozenset({"llama-cpp"}))
    assert [one.backend for one in found] == [*engines.ENGINES, REMOTE]
    assert asked == {name: name == "llama-cpp" for name in asked}
    assert found[0].detail == "runs, in safe mode"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "ImportError: libfoo"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashes (SIGILL)"),
        ("import os; os._exit(3)", "fails: 3"),
        ("pass", "AttributeError: module 'xllamacpp' has no attribute 'CommonParams'"),
    ],
)
def test_a_broken_native_library_is_found_out_in_a_process_of_its_own(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_there: None
) -> None:
    (tmp_path / "xllamacpp.py").write_text(source + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = availability.check("llama-server")
    assert found.loadable is False
    assert problem in found.reason


def test_a_library_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = time.monotonic()
    result = availability.run_probe("llama-server", timeout=1)
    assert result.problem == "does not answer within 1 s"
    assert time.monotonic() - started < 30


@pytest.mark.engine
def test_llama_cpp_really_runs_the_starter_model() -> None:
    found = availability.check("llama-cpp", safe=True)
    assert found.ok, found.reason
    assert "the starter model runs" in found.detail
    assert found.version


# -- file ---------------------------------------------------------------------------------------


def test_a_model_with_a_good_file(all_there: None) -> None:
    found = availability.check_model(model(starter.path()))
    assert (found.backend, found.file, found.key, found.reason) == ("llama-cpp", True, None, "")
    assert found.model == "mine"


@pytest.mark.parametrize("content", [None, b"", b"not a model", gguf_files.good()[:-1]])
def test_a_model_whose_file_is_missing_or_torn(
    content: bytes | None, tmp_path: Path, all_there: None
) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    found = availability.check_model(model(path))
    assert found.file is False
    assert not found.ok
    assert str(path) in found.reason


def test_a_model_of_no_known_kind(tmp_path: Path, all_there: None) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    found = availability.check_model(model(path))
    assert (found.backend, found.file, found.ok) == ("none", False, False)
    assert found.reason


def test_a_model_whose_engine_is_missing(without: Callable[..., None]) -> None:
    without("llama_cpp")
    found = availability.check_model(model(starter.path(), engine="llama-cpp"))
    assert (found.importable, found.file) == (False, True)
    assert 'pip install "midspan[llama-cpp]"' in found.reason


def test_a_program_of_the_users_own_needs_no_wheel(
    tmp_path: Path, without: Callable[..., None]
) -> None:
    without("xllamacpp")
    program = tmp_path / "llama-server"
    wanted = model(starter.path(), engine="llama-server", binary=str(program))
    assert "no such file" in availability.check_model(wanted).reason
    program.write_text("#!/bin/sh\n")
    assert "chmod +x" in availability.check_model(wanted).reason
    program.chmod(0o755)
    found = availability.check_model(wanted)
    assert (found.backend, found.ok, found.reason) == ("llama-server", True, "")


# -- key ----------------------------------------------------------------------------------------


def key_file(tmp_path: Path, content: str, mode: int = 0o600) -> str:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def remote(environment: dict[str, str], **settings: Any) -> Availability:
    settings = {"endpoint": "http://127.0.0.1:9", **settings}
    found = availability.check_model(model(**settings), environment)
    assert SECRET not in repr(found)
    assert found.backend == REMOTE
    return found


def test_a_key_that_nobody_wants_is_none(all_there: None) -> None:
    found = remote({})
    assert (found.key, found.reason, found.ok) == (None, "", True)


def test_a_key_in_the_environment(all_there: None) -> None:
    assert remote({"MY_KEY": SECRET}, api_key_env="MY_KEY").key is True
    found = remote({}, api_key_env="MY_KEY")
    assert (found.key, found.ok) == (False, False)
    assert "MY_KEY" in found.reason


def test_a_key_in_a_file(tmp_path: Path, all_there: None) -> None:
    assert remote({}, api_key_file=key_file(tmp_path, SECRET)).key is True
    empty = remote({}, api_key_file=key_file(tmp_path, ""))
    assert (empty.key, "holds no key" in empty.reason) == (False, True)
    shared = remote({}, api_key_file=key_file(tmp_path, SECRET, 0o644))
    assert (shared.key, "chmod 600" in shared.reason) == (False, True)
    missing = remote({}, api_key_file=str(tmp_path / "none"))
    assert (missing.key, missing.ok) == (False, False)


def test_a_key_in_a_keyring_that_waits_for_somebody(
    monkeypatch: pytest.MonkeyPatch, all_there: None
) -> None:
    from backends.remote import keys

    monkeypatch.setattr(availability, "KEYRING_TIMEOUT", 0.05)
    monkeypatch.setattr(keys, "find", lambda *_: time.sleep(1))
    found = remote({}, api_key_keyring="midspan/me")
    assert (found.key, "unlock it" in found.reason) == (False, True)


def test_a_provider_that_wants_a_key_says_where_to_put_it(all_there: None) -> None:
    from backends.remote.profiles import PROFILES

    hosted = next(row for row in PROFILES.values() if row.hosted and row.key_env and row.endpoint)
    there = {"profile": hosted.name, "endpoint": hosted.endpoint}
    found = remote({}, **there)
    assert (found.key, hosted.key_env in found.reason) == (False, True)
    assert remote({hosted.key_env: SECRET}, **there).key is True
    # That variable is that provider's, and goes to no other place.
    elsewhere = remote({hosted.key_env: SECRET}, profile=hosted.name)
    assert elsewhere.key is False


def test_endpoints_need_their_packages(without: Callable[..., None]) -> None:
    without("openai")
    found = remote({})
    assert not found.importable
    assert 'pip install "midspan[remote]"' in found.reason
