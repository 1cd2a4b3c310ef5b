"""Runs a program that must not be trusted: no network, no files of the user's, hard limits.

Rule: no sandbox, no run; there is no setting to skip it. What the program says comes back as frames
on a pipe, it can write nowhere but a small /tmp of its own, and nothing of it outlives this process
or the task that runs it. Must not know what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from backends.errors import MidspanError
from lsp_server.kernels import seccomp
from lsp_server.kernels.children import confine, wire
from lsp_server.kernels.toolchain import Toolchain

logger = logging.getLogger(__name__)

_ROOT = "/midspan"  # where the child programs are, inside
_TMP = "/tmp"  # noqa: S108 - its own, empty at the start
_PACKAGE = Path(confine.__file__).parent
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt/rocm")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")
_STDERR_KEPT = 64 * 2**10  # bytes, the last ones
_LOOK_EVERY = 0.25  # seconds between looks at memory and processes


class NoSandbox(MidspanError):
    """Nothing here can confine a generated kernel, so none is run."""

    kind = "no_sandbox"
    http_status = 409


class Died(MidspanError):
    """The program ended, or was ended, before it was done. `str` says why; `stderr` is its last."""

    kind = "kernel_died"

    def __init__(self, reason: str, code: int | None = None, stderr: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may use. MiB and seconds; `address_space` off for sanitised code alone."""

    memory_mb: int = 4096
    cpu_s: int = 120
    wall_s: float = 120
    tmp_mb: int = 256
    output_mb: int = 256  # of one answer, and what is printed meanwhile
    tasks: int = 64  # processes and threads
    processes: bool = False  # whether it may start any
    address_space: bool = True


@dataclass(frozen=True, slots=True)
class Program:
    """One of the child programs (a module of `children`) and what it runs with."""

    module: str
    toolchain: Toolchain
    environment: Mapping[str, str] = field(default_factory=dict)
    devices: bool = False  # whether it may use the machine's GPUs


_ready: set[str] = set()  # paths of bwraps that were tried and will do


async def require() -> str:
    """Find the sandbox and try it once. Returns the path of bwrap.

    Raises:
        NoSandbox: with how to get one.
    """
    if sys.platform != "linux":
        raise NoSandbox(
            "Generated kernels run only in a sandbox, and midspan has one for Linux alone so far. "
            "Use midspan on a Linux machine or in a container for them."
        )
    if platform.machine() not in seccomp.MACHINES:
        raise NoSandbox(
            f"Generated kernels run only in a sandbox, and midspan's knows no {platform.machine()} "
            f"processor: only {' and '.join(seccomp.MACHINES)}."
        )
    path = shutil.which("bwrap")
    if path is None:
        raise NoSandbox(
            "Generated kernels run only in a sandbox, and bubblewrap is not installed. Install it: "
            "`apt-get install bubblewrap` (Debian, Ubuntu), `dnf install bubblewrap` (Fedora), "
            "`pacman -S bubblewrap` (Arch)."
        )
    if path not in _ready:
        if reason := await _try(path):
            raise NoSandbox(reason)
        _ready.add(path)
    return path


async def _try(path: str) -> str:
    command = [path, *_namespaces(), "--ro-bind", "/usr", "/usr", *_present(_SYSTEM[1:])]
    command += ["--size", str(2**20), "--tmpfs", _TMP, "--", "/usr/bin/env", "true"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    _, error = await process.communicate()
    if process.returncode == 0:
        return ""
    said = error.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    if "--size" in said:
        return (
            f"Generated kernels run only in a sandbox: bubblewrap 0.7 or newer is needed ({said})."
        )
    return (
        f"Generated kernels run only in a sandbox, and bubblewrap cannot make one here ({said}). "
        "User namespaces may be switched off: allow them (`sysctl user.max_user_namespaces`, "
        "`sysctl kernel.apparmor_restrict_unprivileged_userns`), or run the container with them."
    )


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"),
        *("--uid", "65534", "--gid", "65534", "--hostname", "kernel", "--cap-drop", "ALL"),
        *("--clearenv", "--proc", "/proc", "--dev", "/dev"),
    ]


def _present(paths: Sequence[str]) -> list[str]:
    """Bind what there is of them, links as links."""
    arguments: list[str] = []
    for path in paths:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            arguments += ["--ro-bind", path, path]
    return arguments


def _readable(folders: Sequence[str]) -> list[str]:
    """The interpreter's folders, without those inside others. The home folder is never among them.

    Raises:
        NoSandbox: one of them would open the whole home folder or the whole disk.
    """
    home = Path.home().resolve()
    kept: list[Path] = [Path("/usr")]
    for folder in sorted({Path(name).resolve() for name in folders}, key=lambda path: path.parts):
        if folder == home or folder in home.parents:
            raise NoSandbox(
                f"The Python for kernels has its packages in {folder}, which a sandbox would have "
                "to open as a whole. Use one in a folder of its own: `python -m venv`."
            )
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return [str(path) for path in kept[1:]]


def _devices() -> list[str]:
    found = sorted(str(path) for path in Path("/dev").glob("nvidia*")) + ["/dev/kfd", "/dev/dri"]
    arguments: list[str] = []
    for path in found:
        arguments += ["--dev-bind-try", path, path]
    return [*arguments, "--ro-bind-try", "/sys", "/sys"]


def command(bwrap: str, program: Program, bounds: Bounds, filter_fd: int) -> list[str]:
    """The whole command line that runs a program confined."""
    chain = program.toolchain
    environment = {
        "PATH": "/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": _TMP,
        "TMPDIR": _TMP,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "NUMBA_CACHE_DIR": f"{_TMP}/numba",
        "TRITON_CACHE_DIR": f"{_TMP}/triton",
        **program.environment,
    }
    folders: list[str] = []
    for folder in _readable(chain.folders):
        folders += ["--ro-bind", folder, folder]
    variables: list[str] = []
    for name, value in environment.items():
        variables += ["--setenv", name, value]
    limits = {
        "RLIMIT_CPU": int(bounds.cpu_s),
        "RLIMIT_FSIZE": bounds.tmp_mb * 2**20,
        "RLIMIT_NOFILE": 256,
    }
    if bounds.address_space:
        limits["RLIMIT_AS"] = bounds.memory_mb * 2**20
    inside = f"{_ROOT}/lsp_server/kernels/children"
    start = f"import sys; sys.path.insert(0, {_ROOT!r}); "
    start += f"from lsp_server.kernels.children.{program.module} import main; main()"
    return [
        *(bwrap, *_namespaces(), *(_devices() if program.devices else [])),
        # First: the interpreter may be in a folder below it.
        *("--size", str(bounds.tmp_mb * 2**20), "--tmpfs", _TMP),
        *_present(_SYSTEM),
        *_present(_SETTINGS),
        *folders,
        *("--ro-bind", str(_PACKAGE), inside),
        # For root, bubblewrap leaves the machine's own settings in /proc/sys open.
        *("--remount-ro", "/proc", "--remount-ro", "/dev"),
        *("--remount-ro", "/", "--chdir", _TMP, "--seccomp", str(filter_fd)),
        *variables,
        *("--", chain.python, "-I", "-S", "-B", f"{inside}/confine.py"),
        *(f"{name}={value}" for name, value in limits.items()),
        *("--", chain.python, "-I", "-B", "-c", start),
    ]


class Child:
    """A program that runs in the sandbox, and the frames to and from it."""

    def __init__(self, process: asyncio.subprocess.Process, bounds: Bounds) -> None:
        self._process = process
        self._outer: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._outer = psutil.Process(process.pid)
        self._bounds = bounds
        self._received = 0
        self._stderr = bytearray()
        self._ended = ""  # why we ended it
        self._errors = asyncio.create_task(self._read_stderr())
        self._watcher = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        """The process id of the sandbox's outer process."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The last that it printed."""
        return self._stderr.decode("utf-8", "replace")

    async def write(self, header: wire.Header, payload: bytes = b"") -> None:
        """Send it a frame. Died when it is gone."""
        assert self._process.stdin is not None
        self._received = 0  # of the answer before; one process may give any number of them
        try:
            self._process.stdin.write(wire.encode(header, payload))
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._death() from None

    async def read(self) -> tuple[wire.Header, bytes]:
        """Wait for a frame from it.

        Raises:
            Died: it crashed, said too much, took too much, took too long, or spoke no frames.
        """
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(wire.SIZES.size)
            left = self._bounds.output_mb * 2**20 - self._received
            header, payload = wire.sizes(head, left)
            text = await self._process.stdout.readexactly(header)
            data = await self._process.stdout.readexactly(payload)
            self._received += len(head) + header + payload
            return wire.decode(text), data
        except asyncio.IncompleteReadError:
            raise await self._death() from None
        except ValueError:
            self.kill(f"it sent more than {self._bounds.output_mb} MiB, or no answer at all")
            raise await self._death() from None

    def kill(self, reason: str) -> None:
        """End it at once, with everything that it started."""
        self._ended = self._ended or reason
        # bwrap takes all down with it, but not in its first moments: then what it starts is either
        # stopped with it, as one group, or found below it.
        # (asyncio's own kill would take its exit code away.)
        self._signal(signal.SIGSTOP)
        for process in _family(self._outer):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # later the number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def close(self) -> None:
        """End it if it still runs, and wait until it is gone."""
        self.kill("it was no longer needed")
        await self._gone()
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)

    async def _gone(self) -> int:
        """Wait until it is gone: for asyncio that is not before its pipes are empty."""
        stdout = self._process.stdout
        assert stdout is not None
        while await stdout.read(2**16):
            pass
        await asyncio.wait([self._errors])  # who waits may be cancelled; the reading goes on
        return await self._process.wait()

    async def _death(self) -> Died:
        code = await self._gone()
        name = ""
        # bwrap answers 128 + n for a child that signal n ended.
        if code > 128 or code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(code - 128 if code > 128 else -code).name
        said = self.stderr.strip().rpartition("\n")[2][:300]
        if self._ended:
            reason = self._ended
        elif name == "SIGXCPU" or name == "SIGKILL":
            reason = f"it used more than {self._bounds.cpu_s} s of processor time, or was killed"
        elif name:
            reason = f"it crashed ({name}, exit code {code})"
        else:
            reason = f"it ended early (exit code {code})" + (f": {said}" if said else "")
        return Died(reason, code, self.stderr)

    async def _read_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        while data := await stream.read(2**14):
            self._received += len(data)
            self._stderr += data
            del self._stderr[:-_STDERR_KEPT]
            if self._received > self._bounds.output_mb * 2**20:
                self.kill(f"it printed more than {self._bounds.output_mb} MiB")

    async def _watch(self) -> None:
        """Hold it to its time, memory and number of tasks, whatever it runs as."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._bounds.wall_s
        while self._process.returncode is None:
            memory, tasks = await asyncio.to_thread(_usage, self._outer)
            if loop.time() > end:
                self.kill(f"it ran for more than {self._bounds.wall_s:g} s")
            elif tasks > self._bounds.tasks:
                self.kill(f"it started more than {self._bounds.tasks} processes and threads")
            elif memory > self._bounds.memory_mb * 2**20:
                self.kill(f"it took more than {self._bounds.memory_mb} MiB of memory")
            await asyncio.sleep(_LOOK_EVERY)


def _family(outer: psutil.Process | None) -> list[psutil.Process]:
    """All that a process started, and it; nothing when it is gone."""
    if outer is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [*outer.children(recursive=True), outer]
    return []


def _usage(outer: psutil.Process | None) -> tuple[int, int]:
    """Bytes in memory and number of processes and threads of a process and all below it."""
    memory = tasks = 0
    for process in _family(outer):
        with contextlib.suppress(psutil.Error):
            memory += process.memory_info().rss
            tasks += process.num_threads()
    return memory, tasks


@contextlib.asynccontextmanager
async def start(program: Program, bounds: Bounds) -> AsyncIterator[Child]:
    """Run a child program for as long as the block lasts; cancelling ends it and all it started.

    Raises:
        NoSandbox: there is none; nothing was run.
    """
    bwrap = await require()
    with tempfile.TemporaryFile() as filter_file:
        filter_file.write(seccomp.program(platform.machine(), processes=bounds.processes))
        filter_file.seek(0)
        descriptor = filter_file.fileno()
        process = await asyncio.create_subprocess_exec(
            *command(bwrap, program, bounds, descriptor),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            env={},
            start_new_session=True,
        )
    child = Child(process, bounds)
    try:
        yield child
    finally:
        await asyncio.shield(child.close())


def without_address_limit(bounds: Bounds) -> Bounds:
    """For sanitised code, which reserves terabytes it never uses: the watch alone bounds memory."""
    return replace(bounds, address_space=False)


def has_device() -> bool:
    """Whether this machine has a GPU that kernels could run on."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")
