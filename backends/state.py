"""The manager's state file: where it listens, its token, and whether it still lives.

Rule: whoever can read this file may use the manager, so it is 0600, written in one step, and
believed only while the very process that wrote it is alive. Standard library at import; must not
know HTTP or models.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from backends import paths

if TYPE_CHECKING:
    from filelock import BaseFileLock

FILE_NAME = "manager.json"
MAX_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running manager: where to reach it and with which token."""

    host: str
    port: int
    token: str
    pid: int
    pid_started: str  # opaque; equal to process_start(pid) while this very process lives
    version: str
    started_at: float  # seconds since the epoch


def read(directory: Path | None = None) -> Endpoint | None:
    """Return the running manager's endpoint, or None where there is none.

    A file that is missing, torn, not ours alone, or left by a process that has ended is none.
    """
    endpoint = _parse(_read_own(_file(directory)))
    if endpoint is None or process_start(endpoint.pid) != endpoint.pid_started:
        return None
    return endpoint


def write(endpoint: Endpoint, directory: Path | None = None) -> None:
    """Publish `endpoint`. Raises OSError."""
    paths.write_private(_file(directory), json.dumps(asdict(endpoint)).encode())


def remove(pid: int, directory: Path | None = None) -> None:
    """Withdraw the endpoint of process `pid`; another manager's is left alone."""
    path = _file(directory)
    endpoint = _parse(_read_own(path))
    if endpoint is not None and endpoint.pid == pid:
        path.unlink(missing_ok=True)


def lock(name: str, directory: Path | None = None) -> BaseFileLock:
    """Return the unacquired lock `name`; the kernel frees it when its holder dies.

    "start" is held while a manager is being started, "manager" by the manager for its life.
    """
    from filelock import FileLock  # 29 ms

    return FileLock((directory or paths.runtime_dir()) / f"{name}.lock", mode=0o600)


def process_start(pid: int) -> str | None:
    """Return a mark of when process `pid` started; None if it has ended (a zombie has).

    A pid alone may have been given to another process since.
    """
    if sys.platform == "linux":
        try:
            row = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
        except OSError:
            return None
        # The name, in parentheses, may itself hold spaces and parentheses.
        after_name = row.rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None


def _file(directory: Path | None) -> Path:
    return (directory or paths.runtime_dir()) / FILE_NAME


def _read_own(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        info = os.fstat(descriptor)
        ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid()
        return os.read(descriptor, MAX_BYTES) if ours and not info.st_mode & 0o077 else b""
    finally:
        os.close(descriptor)


def _parse(data: bytes) -> Endpoint | None:
    try:
        raw = json.loads(data)
        endpoint = Endpoint(**{field.name: raw[field.name] for field in fields(Endpoint)})
    except (ValueError, KeyError, TypeError):
        return None
    types = (str, int, str, int, str, str, float)
    values = (getattr(endpoint, field.name) for field in fields(Endpoint))
    well_typed = all(isinstance(v, t) for v, t in zip(values, types, strict=True))
    # The token goes to nobody but a loopback listener, whatever the file says.
    return endpoint if well_typed and endpoint.host == "127.0.0.1" else None
