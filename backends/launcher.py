"""Find the manager, or start one.

Rule: `find` is the fast path of every keystroke and reads one file; `ensure` may take seconds,
blocks, and is for a thread. However many processes ask at once, one manager comes of it. Must not
know models or what is asked of the manager. Standard library at import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from backends import __version__, paths, state
from backends.errors import ManagerUnavailable
from backends.state import Endpoint

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0  # seconds; a cold disk and a busy machine included
STOP_TIMEOUT = 15.0  # seconds; the manager itself drains for at most 10
MAX_OUTPUT_BYTES = 256 * 1024


def find() -> Endpoint | None:
    """Return the running manager's endpoint, or None."""
    return state.read()


def ensure(timeout: float = START_TIMEOUT) -> Endpoint:
    """Return the endpoint of a running manager of at least this version; start it if need be.

    Blocks, at most about `timeout` seconds. Raises ManagerUnavailable.
    """
    endpoint = find()
    if endpoint is not None and not _is_older(endpoint.version):
        return endpoint
    lock = state.lock("start")
    from filelock import Timeout

    try:
        with lock.acquire(timeout=timeout + STOP_TIMEOUT):
            endpoint = find()
            if endpoint is not None and _is_older(endpoint.version):
                logger.info("manager %s is older than %s: replacing", endpoint.version, __version__)
                stop(endpoint)
                endpoint = None
            return endpoint or _start(timeout)
    except Timeout as exc:
        raise ManagerUnavailable(
            f"Another process has been starting the manager for {timeout:.0f} s; try again."
        ) from exc
    except OSError as exc:
        raise ManagerUnavailable(f"The backend manager cannot be started: {exc}.") from exc


def stop(endpoint: Endpoint, timeout: float = STOP_TIMEOUT) -> None:
    """Ask the manager to drain and stop; insist after `timeout` seconds. Blocks."""
    for how in (signal.SIGTERM, signal.SIGKILL):  # SIGTERM drains
        with contextlib.suppress(ProcessLookupError):
            os.kill(endpoint.pid, how)
        deadline = time.monotonic() + timeout
        while state.process_start(endpoint.pid) == endpoint.pid_started:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise ManagerUnavailable(f"The backend manager (process {endpoint.pid}) does not end.")


def _is_older(version: str) -> bool:
    """Whether a manager of `version` must make way. A newer one serves older clients too.

    Otherwise two windows of different versions would replace each other's manager for ever.
    """
    try:
        return _numbers(version) < _numbers(__version__)
    except ValueError:
        return version != __version__


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _start(timeout: float) -> Endpoint:
    output = _output_file()
    written = output.stat().st_size if output.exists() else 0
    # -P: a folder named "backends" in the current directory must not be run in place of ours.
    command = [sys.executable, "-P", "-m", "backends.serve"]
    with output.open("ab") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            start_new_session=True,
        )
    # Reaps it whenever it ends; a zombie would keep its pid.
    threading.Thread(target=process.wait, name="midspan-manager-reaper", daemon=True).start()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        endpoint = find()
        if endpoint is not None and _answers(endpoint):
            return endpoint
        if process.poll() is not None:
            # A manager started by hand may have come first: ours stands back for it.
            if (endpoint := find()) is not None and _answers(endpoint):
                return endpoint
            said = _last_line(output, written)
            raise ManagerUnavailable(
                f"The backend manager ended with status {process.returncode}: {said}"
            )
        time.sleep(0.01)
    process.kill()
    raise ManagerUnavailable(
        f"The backend manager did not start within {timeout:.0f} s: {_last_line(output, written)}"
    )


def _answers(endpoint: Endpoint) -> bool:
    import http.client

    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
    try:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {endpoint.token}"})
        return connection.getresponse().status in (200, 503)  # 503: no model loaded yet
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _output_file() -> Path:
    """Return the file of what the manager prints: failed starts and native crashes.

    Its log proper is `manager.log`, which it rotates itself. What cannot be written is not kept.
    """
    path = paths.state_dir() / "manager.out"
    try:
        if path.exists() and path.stat().st_size > MAX_OUTPUT_BYTES:
            path.replace(path.with_suffix(".out.1"))
        path.open("ab").close()
    except OSError as exc:
        logger.warning("what the manager prints is not kept: %s", exc)
        return Path(os.devnull)
    return path


def _last_line(output: Path, start: int) -> str:
    with output.open("rb") as file:
        file.seek(start)
        lines = file.read(MAX_OUTPUT_BYTES).decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else _why_silent(output)


def _why_silent(output: Path) -> str:
    try:
        with output.open("ab", buffering=0) as sink:
            sink.write(b"\n")
    except OSError as exc:
        return f"what it said could not be written to {output} ({exc.strerror})."
    return f"it said nothing; see {output}"
