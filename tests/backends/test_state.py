from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from backends import state
from backends.state import Endpoint


@pytest.fixture
def endpoint() -> Endpoint:
    started = state.process_start(os.getpid())
    assert started is not None
    return Endpoint("127.0.0.1", 1234, "secret", os.getpid(), started, "0.1.0", 1.5)


def test_read_returns_what_was_written(tmp_path: Path, endpoint: Endpoint) -> None:
    state.write(endpoint, tmp_path)
    assert state.read(tmp_path) == endpoint
    assert (tmp_path / state.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_read_without_a_file_is_none(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None


def test_read_of_a_process_that_ended_is_none(tmp_path: Path, endpoint: Endpoint) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = state.process_start(child.pid)
    assert started is not None
    state.write(replace(endpoint, pid=child.pid, pid_started=started), tmp_path)
    assert state.read(tmp_path) is not None
    child.kill()
    # A zombie, until it is waited for, has ended too.
    while state.process_start(child.pid) is not None:
        pass
    assert state.read(tmp_path) is None
    child.communicate()
    assert state.read(tmp_path) is None


def test_read_of_a_pid_that_was_given_away_is_none(tmp_path: Path, endpoint: Endpoint) -> None:
    state.write(replace(endpoint, pid_started="1"), tmp_path)
    assert state.read(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [{"host": "10.0.0.1"}, {"host": "evil.example"}, {"port": "80"}, {"token": None}, {"pid": "x"}],
)
def test_read_never_sends_the_token_elsewhere(
    tmp_path: Path, endpoint: Endpoint, change: dict[str, object]
) -> None:
    path = tmp_path / state.FILE_NAME
    path.write_text(json.dumps(asdict(endpoint) | change))
    path.chmod(0o600)
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": "127.0.0.1"}'])
def test_read_of_a_torn_file_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / state.FILE_NAME
    path.write_text(content)
    path.chmod(0o600)
    assert state.read(tmp_path) is None


def test_read_of_a_file_others_may_read_or_a_link_is_none(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    state.write(endpoint, tmp_path)
    path = tmp_path / state.FILE_NAME
    path.chmod(0o644)
    assert state.read(tmp_path) is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_read_of_what_is_no_file_is_none(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path / state.FILE_NAME, 0o700)
    assert state.read(tmp_path) is None
    state.remove(os.getpid(), tmp_path)


def test_remove_leaves_another_managers_file(tmp_path: Path, endpoint: Endpoint) -> None:
    state.write(endpoint, tmp_path)
    state.remove(endpoint.pid + 1, tmp_path)
    assert state.read(tmp_path) is not None
    state.remove(endpoint.pid, tmp_path)
    assert not (tmp_path / state.FILE_NAME).exists()


def test_client_and_launcher_import_nothing_heavy() -> None:
    heavy = "starlette uvicorn msgspec psutil platformdirs filelock numpy pygls backends.frames"
    code = (
        f"import sys, backends.client; print(*[m for m in {heavy.split()!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
