"""The manager as a real process: started by many, stopped, killed, replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from backends import launcher, state
from backends.client import ManagerClient
from backends.errors import ManagerUnavailable

SERVE = [sys.executable, "-P", "-m", "backends.serve"]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def folders(private_dirs: Path) -> Iterator[Path]:
    yield private_dirs
    endpoint = launcher.find()
    if endpoint is not None:
        launcher.stop(endpoint)
        assert not psutil.pid_exists(endpoint.pid) or state.process_start(endpoint.pid) is None


def test_ensure_ten_times_at_once_gives_one_manager() -> None:
    code = "from backends import launcher; print(launcher.ensure().pid)"
    with ThreadPoolExecutor(10) as pool:
        starters = [
            pool.submit(
                subprocess.run,
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            for _ in range(10)
        ]
        pids = {starter.result().stdout.strip() for starter in starters}
    assert len(pids) == 1
    endpoint = launcher.find()
    assert endpoint is not None
    assert str(endpoint.pid) in pids


def test_stop_ends_it_and_withdraws_its_file(folders: Path) -> None:
    endpoint = launcher.ensure()
    assert launcher.ensure() == endpoint
    launcher.stop(endpoint)
    assert launcher.find() is None
    assert not (folders / "runtime" / state.FILE_NAME).exists()


def test_ensure_takes_over_from_a_manager_that_was_killed(folders: Path) -> None:
    first = launcher.ensure()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: launcher.find() is None)
    assert (folders / "runtime" / state.FILE_NAME).exists()
    second = launcher.ensure()
    assert second.pid != first.pid
    assert second.token != first.token


@pytest.mark.parametrize(("version", "replaced"), [("0.0.1", True), ("999.0", False)])
def test_ensure_replaces_an_older_manager_only(version: str, replaced: bool) -> None:
    running = launcher.ensure()
    state.write(type(running)(**(asdict(running) | {"version": version})))
    endpoint = launcher.ensure()
    assert (endpoint.pid != running.pid) is replaced
    if replaced:
        assert state.process_start(running.pid) is None


def test_ensure_says_why_the_manager_could_not_start(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "broken" / "backends").mkdir(parents=True)
    (folders / "broken" / "backends" / "__init__.py").write_text("")
    (folders / "broken" / "backends" / "serve.py").write_text("raise SystemExit('no luck today')")
    monkeypatch.setenv("PYTHONPATH", str(folders / "broken"))
    with pytest.raises(ManagerUnavailable, match="no luck today"):
        launcher.ensure()


def test_a_folder_of_the_working_directory_is_never_run_instead(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "backends").mkdir()
    (folders / "backends" / "__init__.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(folders)
    assert launcher.ensure().port


def test_second_manager_refuses_and_names_the_first() -> None:
    endpoint = launcher.ensure()
    second = subprocess.run(SERVE, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3
    assert str(endpoint.pid) in second.stderr


def test_port_in_use_gives_another_one_recorded(folders: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folders / "config.toml").write_text(f"[manager]\nport = {port}\n")
        endpoint = launcher.ensure()
        assert endpoint.port != port
        launcher.stop(endpoint)
    assert launcher.ensure().port == port


def test_manager_ends_when_idle(folders: Path) -> None:
    (folders / "config.toml").write_text("[manager]\nidle_minutes = 0.005\n")
    launcher.ensure()
    wait_until(lambda: launcher.find() is None)


def test_manager_stays_while_a_client_is_connected(folders: Path) -> None:
    (folders / "config.toml").write_text("[manager]\nidle_minutes = 0.005\n")
    endpoint = launcher.ensure()
    with socket.create_connection((endpoint.host, endpoint.port)):
        time.sleep(1)
        assert launcher.find() == endpoint
    wait_until(lambda: launcher.find() is None)


def test_manager_starts_with_a_read_only_state_folder(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "blocked").write_text("")
    monkeypatch.setenv("MIDSPAN_STATE_DIR", str(folders / "blocked" / "state"))
    assert launcher.ensure().port
    assert (folders / "runtime" / "state" / "manager.log").exists()


@pytest.fixture
def with_tiny_model(folders: Path, tiny_model: Path) -> None:
    (folders / "config.toml").write_text(
        f'[completion]\nmodel = "tiny"\n[models.tiny]\npath = {json.dumps(str(tiny_model))}\n'
    )


async def complete(client: ManagerClient, tokens: int = 4) -> int:
    answer = await client.infill({"input_prefix": "def f(", "n_predict": tokens})
    return int(answer["usage"]["completion_tokens"])


@pytest.mark.engine
async def test_killed_manager_takes_its_workers_along(with_tiny_model: None) -> None:
    client = ManagerClient()
    endpoint = await client.ensure()
    assert 0 < await complete(client) <= 4
    worker = int((await client.get("/api/models/current"))["pid"])
    assert state.process_start(worker) is not None
    os.kill(endpoint.pid, signal.SIGKILL)
    wait_until(lambda: state.process_start(worker) is None, seconds=2)
    assert 0 < await complete(client) <= 4  # the next keystroke works
    await client.close()


@pytest.mark.engine
async def test_sigterm_lets_a_completion_finish_and_leaves_no_process(
    with_tiny_model: None,
) -> None:
    client, observer = ManagerClient(), ManagerClient(autostart=False)
    endpoint = await client.ensure()
    await complete(client, 1)
    worker = int((await client.get("/api/models/current"))["pid"])
    under_way = asyncio.create_task(complete(client, 400))
    await asyncio.sleep(0.02)
    os.kill(endpoint.pid, signal.SIGTERM)
    assert await under_way > 0
    wait_until(lambda: state.process_start(endpoint.pid) is None)
    assert state.process_start(worker) is None
    with pytest.raises(ManagerUnavailable):
        await observer.get("/health")
    await client.close()
