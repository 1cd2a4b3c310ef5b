"""What a machine can do to the whole program: disks, homes and clocks, with the real processes."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from lsprotocol import types
from pytest_lsp import make_test_lsp_client

from lsp_server.cli.exits import Exit
from tests.backends.test_faults import lowest_free_descriptor
from tests.conftest import MIDSPAN, Env, stop_manager
from tests.e2e.conftest import PATIENCE, Buffer, Editor, capabilities, plain
from tests.e2e.test_lsp_editor import PATTERN

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's"),
]

Run = Callable[..., CompletedProcess[str]]

_PR_CAPBSET_DROP = 24
_FILE_CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def heed_modes() -> None:
    """Have files' modes hold for root too, from the next exec on."""
    for capability in _FILE_CAPABILITIES:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability)


def full_disk(most: int) -> Callable[[], None]:
    """Have no file get longer than `most` bytes, in the program and all that it starts."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.fixture
def code(tmp_path: Path) -> str:
    file = tmp_path / "shapes.py"
    file.write_text(
        "def add(first, second):\n    return first + second\n\n\ndef sub(a, b):\n    ret\n"
    )
    return f"{file}:6:8"


def completed(done: CompletedProcess[str]) -> str:
    assert done.returncode == Exit.OK, done.stderr
    return str(json.loads(done.stdout)["text"])


def test_read_only_home_still_completes(
    midspan_env: Env, run_midspan: Run, tmp_path: Path, code: str
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    kept = ("MIDSPAN_RUNTIME_DIR",)
    env = {
        k: v for k, v in midspan_env.items() if k in kept or not k.startswith(("MIDSPAN_", "XDG_"))
    }
    env["HOME"] = str(home)
    done = run_midspan(["complete", code, "--json"], env, preexec_fn=heed_modes)
    assert completed(done)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("unreadable", [".", "some", "some.gguf"])
def test_models_that_cannot_be_looked_at_hide_no_others(
    midspan_env: Env, run_midspan: Run, code: str, unreadable: str
) -> None:
    folder = Path(midspan_env["MIDSPAN_MODELS_DIR"])
    path = folder / unreadable
    if path.suffix:
        path.touch()
    else:
        path.mkdir(exist_ok=True)
    path.chmod(0)
    try:
        assert completed(
            run_midspan(["complete", code, "--json"], midspan_env, preexec_fn=heed_modes)
        )
    finally:
        path.chmod(0o700)


def test_full_disk_leaves_completion_alone(midspan_env: Env, run_midspan: Run, code: str) -> None:
    # Room for the small file that says where the manager is, and not for logs, counts and cells.
    done = run_midspan(["complete", code, "--json"], midspan_env, preexec_fn=full_disk(1024))
    assert completed(done)
    stop_manager(midspan_env)  # which would save cells
    left = [p for p in Path(midspan_env["MIDSPAN_STATE_DIR"]).rglob("*") if p.is_file()]
    assert all(file.stat().st_size <= 1024 for file in left)
    assert not [file.name for file in left if file.suffix == ".cells"]
    assert completed(run_midspan(["complete", code, "--json"], midspan_env))


def test_disk_too_full_for_a_manager_is_said(midspan_env: Env, run_midspan: Run, code: str) -> None:
    done = run_midspan(["complete", code, "--json"], midspan_env, preexec_fn=full_disk(0))
    assert done.returncode == Exit.UNAVAILABLE
    assert "manager.out (File too large)" in done.stderr
    Path(midspan_env["MIDSPAN_STATE_DIR"], "manager.out").unlink()
    done = run_midspan(["complete", code, "--json"], midspan_env, preexec_fn=full_disk(120))
    assert done.returncode == Exit.UNAVAILABLE
    assert "Nobody can be told where the backend manager is" in done.stderr  # cut off, as it must
    assert completed(run_midspan(["complete", code, "--json"], midspan_env))


def test_logs_on_a_full_disk_do_no_harm(midspan_env: Env, run_midspan: Run, code: str) -> None:
    for name in ("manager.log", "manager.out"):
        Path(midspan_env["MIDSPAN_STATE_DIR"], name).symlink_to("/dev/full")
    assert completed(run_midspan(["complete", code, "--json"], midspan_env))


def test_what_is_in_the_way_of_its_files_does_no_harm(
    midspan_env: Env, run_midspan: Run, code: str
) -> None:
    for name in ("manager.log", "manager.out", "manager-memory.json", "cells", "ledger.sqlite3"):
        path = Path(midspan_env["MIDSPAN_STATE_DIR"], name)
        path.mkdir()
        path.chmod(0)  # as what another user left there
    done = run_midspan(["complete", code, "--json"], midspan_env, preexec_fn=heed_modes)
    assert completed(done)


CLOCK = """
import os, time
def ahead():
    with open(os.environ["AHEAD"]) as file:
        return int(file.read())
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + ahead()
time.time_ns = lambda: now_ns() + ahead() * 10**9
"""


@pytest.fixture
def clock(midspan_env: Env, tmp_path: Path) -> Callable[[int], None]:
    """Set how many seconds the clock of all of midspan's processes is ahead."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    midspan_env["PYTHONPATH"] = str(tmp_path / "clock")
    midspan_env["AHEAD"] = str(tmp_path / "ahead")

    def move(seconds: int) -> None:
        whole = tmp_path / "moved"
        whole.write_text(str(seconds))
        whole.replace(tmp_path / "ahead")

    move(0)
    return move


async def test_clock_that_jumps_an_hour_ends_nothing(
    clock: Callable[[int], None], editor: Editor
) -> None:
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    (item,) = await buffer.ghost_soon()
    manager, worker = editor.manager_pid(), (await editor.model("starter"))["pid"]
    for number, seconds in enumerate((3600, -3600, 0)):
        clock(seconds)
        assert [known.insert_text for known in await buffer.ghost()] == [item.insert_text]
        other = editor.open(PATTERN, f"other-{number}.py")  # no suggestion for it is known
        other.type("ret")
        assert await other.ghost_soon()
        row = await editor.model("starter")
        assert (editor.manager_pid(), row["pid"], row["restarts"]) == (manager, worker, 0)
        assert abs(row["since"] - time.time() - seconds) < 600


async def test_worker_killed_in_mid_generation_gives_an_empty_result_and_one_notice(
    editor: Editor,
) -> None:
    told: list[Any] = []
    editor.client.feature("midspan/status")(lambda status: told.append(plain(status)))
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    worker = (await editor.model("starter"))["pid"]
    os.kill(worker, signal.SIGSTOP)  # so that the request is under way for sure
    buffer = editor.open(PATTERN, "unknown.py")
    buffer.type("ret")
    asked = asyncio.ensure_future(buffer.ghost())
    async with asyncio.timeout(PATIENCE):
        while not (await editor.model("starter"))["in_flight"]:
            await asyncio.sleep(0.02)
    del told[:]
    os.kill(worker, signal.SIGKILL)
    assert await asked == []
    assert await buffer.ghost_soon()
    notices = [notice for notice, _ in groupby(status["message"] for status in told) if notice]
    assert notices == ["The worker of starter was killed by SIGKILL."]
    assert editor.client.messages == []  # nothing pops up
    assert (await editor.model("starter"))["restarts"] == 1


async def test_killed_language_server_leaves_no_work_at_the_manager(
    midspan_env: Env, editor: Editor
) -> None:
    other = make_test_lsp_client()
    await other.start_io(*MIDSPAN, "lsp", env=midspan_env)
    await other.initialize_session(
        types.InitializeParams(capabilities=capabilities(), process_id=None, root_uri=None)
    )
    buffer = Editor(other, midspan_env).open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    worker = (await editor.model("starter"))["pid"]
    os.kill(worker, signal.SIGSTOP)
    buffer.type("u")
    asked = asyncio.ensure_future(buffer.ghost())
    async with asyncio.timeout(PATIENCE):
        while not (await editor.model("starter"))["in_flight"]:
            await asyncio.sleep(0.02)
    assert other._server is not None
    other._server.kill()
    async with asyncio.timeout(PATIENCE):
        while (await editor.model("starter"))["in_flight"]:
            await asyncio.sleep(0.02)
    os.kill(worker, signal.SIGCONT)
    asked.cancel()
    await other.stop()  # type: ignore[no-untyped-call]
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    assert await buffer.ghost_soon()
    assert (await editor.model("starter"))["pid"] == worker


async def test_manager_that_hangs_costs_no_more_than_its_time(editor: Editor) -> None:
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    os.kill(editor.manager_pid(), signal.SIGSTOP)
    try:
        buffer = editor.open(PATTERN, "unknown.py")
        buffer.type("ret")
        first = asyncio.ensure_future(buffer.ghost())
        await asyncio.sleep(0.2)
        buffer.type("u")
        second = asyncio.ensure_future(buffer.ghost())
        assert await asyncio.wait_for(first, PATIENCE) == []  # gives way to the newer one
    finally:
        os.kill(editor.manager_pid(), signal.SIGCONT)
    await asyncio.wait_for(second, PATIENCE)
    assert await buffer.ghost_soon()


async def test_line_of_ten_megabytes_is_edited_and_declined_with_the_reason(
    editor: Editor,
) -> None:
    buffer = editor.open("x = 1; " * 1_500_000)
    for key in "y = 2; z = 3;":
        buffer.type(key)
    assert await buffer.ghost() == []
    assert "too large (11 MB" in (await editor.command("midspan.status"))["reason"]
    await same_text(editor, buffer)
    buffer = editor.open(PATTERN, "other.py")
    buffer.type("ret")
    assert await buffer.ghost_soon()


async def test_thousand_edits_while_suggestions_are_asked_for(editor: Editor) -> None:
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    asked = []
    generating = 0
    for number in range(1000):
        if number % 7 == 6:
            buffer.backspace()
        else:
            buffer.type("é\n" if number % 50 == 0 else "ab (😀"[number % 5])
        if number % 5 == 0:
            asked.append(asyncio.ensure_future(buffer.ghost()))
        if number % 100 == 50:
            generating = max(generating, (await editor.model("starter"))["generating"])
    await asyncio.wait_for(asyncio.gather(*asked), PATIENCE)  # each is answered
    assert generating <= 1
    await same_text(editor, buffer)
    buffer = editor.open(PATTERN, "other.py")
    buffer.type("ret")
    assert await buffer.ghost_soon()


async def same_text(editor: Editor, buffer: Buffer) -> None:
    """Check that the server has the editor's text."""
    documents = (await editor.command("midspan.documents"))["documents"]
    there = next(d["sha256"] for d in documents if d["uri"] == buffer.document.uri)
    assert there == hashlib.sha256(buffer.document.text.encode()).hexdigest()


async def test_runtime_folder_that_is_removed_stops_nothing(
    midspan_env: Env, editor: Editor
) -> None:
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    first = editor.manager_pid()
    shutil.rmtree(midspan_env["MIDSPAN_RUNTIME_DIR"])  # as when the last session of a user ends
    try:
        buffer = editor.open(PATTERN, "unknown.py")
        buffer.type("ret")
        assert await buffer.ghost_soon()
        os.kill(first, signal.SIGKILL)
        buffer = editor.open(PATTERN, "unknown_too.py")
        buffer.type("ret")
        assert await buffer.ghost_soon()
        assert editor.manager_pid() != first
    finally:
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)


async def test_language_server_without_descriptors_says_so_and_recovers(editor: Editor) -> None:
    buffer = editor.open(PATTERN)
    buffer.type("ret")
    await buffer.ghost_soon()
    process = editor.client._server
    assert process is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    os.kill(editor.manager_pid(), signal.SIGKILL)
    limit = lowest_free_descriptor(process.pid)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    buffer = editor.open(PATTERN, "unknown.py")
    buffer.type("ret")
    assert await buffer.ghost() == []
    assert "Too many open files" in (await editor.command("midspan.status"))["reason"]
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    assert await buffer.ghost_soon()
