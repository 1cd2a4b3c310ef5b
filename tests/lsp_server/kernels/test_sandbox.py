"""What generated code could try, tried: none of it gets out of the sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from lsp_server.kernels import sandbox, seccomp, toolchain
from lsp_server.kernels.sandbox import Bounds, Died, NoSandbox, Program
from lsp_server.kernels.toolchain import Toolchain

SMALL = Bounds(memory_mb=512, cpu_s=20, wall_s=20, tmp_mb=8, output_mb=4)


@pytest.fixture(scope="module")
def chain() -> Toolchain:
    return asyncio.run(toolchain.find())


@contextlib.asynccontextmanager
async def running(
    code: str, chain: Toolchain, bounds: Bounds = SMALL
) -> AsyncIterator[sandbox.Child]:
    """Run hostile code in place of a child program: a module that says what it could do."""
    # The frames' module comes with the children; the rest of the program is the code.
    start = "import os\nfrom lsp_server.kernels.children.wire import Pipe\npipe = Pipe()\n"
    text = start + textwrap.dedent(code)
    program = Program("wire", chain, {"CODE": text})
    original = sandbox.command

    def command(*arguments: object) -> list[str]:
        line = original(*arguments)  # type: ignore[arg-type]
        inside = "import sys, os; sys.path.insert(0, '/midspan'); exec(os.environ['CODE'])"
        return [*line[:-1], inside]

    sandbox.command = command  # type: ignore[assignment]
    try:
        async with sandbox.start(program, bounds) as child:
            sandbox.command = original
            yield child
    finally:
        sandbox.command = original


async def answer(code: str, chain: Toolchain, bounds: Bounds = SMALL) -> object:
    async with running(code, chain, bounds) as child:
        header, _ = await child.read()
        return header["answer"]


TRY = """
def attempt(what):
    try:
        return repr(what())
    except BaseException as error:
        return type(error).__name__
"""


async def test_network_is_not_there(chain: Toolchain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = await answer(
            TRY
            + f"""
import socket
names = [name for _, name in socket.if_nameindex()]
reached = attempt(lambda: socket.create_connection(("127.0.0.1", {port}), 2))
pipe.write({{"answer": [reached, names]}})
""",
            chain,
        )
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found == ["ConnectionRefusedError", ["lo"]]


async def test_files_of_the_user_are_not_there(chain: Toolchain, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    home = Path.home()
    found = await answer(
        TRY
        + f"""
def listed(path):
    return sorted(os.listdir(path))
pipe.write({{"answer": {{
    "secret": attempt(lambda: open({str(secret)!r}).read()),
    "passwords": attempt(lambda: open("/etc/passwd").read()),
    "this file": attempt(lambda: open({__file__!r}).read()),
    "tmp": attempt(lambda: listed("/tmp")),
    "home": attempt(lambda: [n for n in listed({str(home)!r})]),
    "processes": attempt(lambda: len([n for n in listed("/proc") if n.isdigit()])),
    "environment": attempt(lambda: sorted(os.environ)),
}}}})
""",
        chain,
    )
    assert isinstance(found, dict)
    assert found["secret"] == found["passwords"] == found["this file"] == "FileNotFoundError"

    # Of /tmp and the home folder at most the way to the interpreter is there.
    def allowed(root: Path) -> set[str]:
        below = (Path(name) for name in chain.folders if Path(name).is_relative_to(root))
        return {folder.relative_to(root).parts[0] for folder in below}

    assert set(eval(found["tmp"])) == allowed(Path("/tmp"))
    there = [] if found["home"] == "FileNotFoundError" else eval(found["home"])
    assert set(there) <= allowed(home)
    assert int(found["processes"]) <= 3
    assert "PATH" in found["environment"]
    for name in os.environ:
        if name.startswith(("PYTEST", "MIDSPAN", "SSH", "USER")):
            assert f"'{name}'" not in found["environment"]


async def test_nothing_can_be_written_but_in_tmp(chain: Toolchain) -> None:
    targets = [
        "/x",
        "/usr/x",
        "/etc/x",
        "/dev/shm/x",
        "/dev/x",
        "/midspan/x",
        "/proc/sys/vm/swappiness",
    ]
    targets += [f"{folder}/x" for folder in chain.folders]
    found = await answer(
        TRY
        + f"""
tried = [attempt(lambda: open(path, "w").write("1")) for path in {targets!r}]
tried.append(attempt(lambda: open("/tmp/x", "w").write("1")))
pipe.write({{"answer": tried}})
""",
        chain,
    )
    assert isinstance(found, list)
    assert found.pop() == "1"
    assert set(found) <= {"OSError", "PermissionError", "FileNotFoundError"}


async def test_processes_and_namespaces_cannot_be_made(chain: Toolchain) -> None:
    found = await answer(
        TRY
        + """
import ctypes, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
made = threading.Thread(target=lambda: None)
made.start(); made.join()
pipe.write({"answer": [
    attempt(os.fork),
    attempt(lambda: subprocess.run(["true"])),
    libc.unshare(0x10000000), ctypes.get_errno(),
    libc.ptrace(0, 0, 0, 0), ctypes.get_errno(),
]})
""",
        chain,
    )
    assert found == ["PermissionError", "PermissionError", -1, 1, -1, 1]


async def test_fork_bomb_of_a_compiler_is_ended(chain: Toolchain) -> None:
    bounds = Bounds(memory_mb=512, wall_s=20, tasks=20, processes=True)
    with pytest.raises(Died, match="more than 20 processes"):
        await answer(
            "import time\nfor _ in range(100):\n    if not os.fork():\n        time.sleep(60)\n"
            "time.sleep(60)\n",
            chain,
            bounds,
        )


async def test_disk_cannot_be_filled(chain: Toolchain) -> None:
    found = await answer(
        TRY
        + """
def fill():
    for i in range(1000):
        with open(f"/tmp/{i}", "wb") as file:
            file.write(b"x" * 2**20)
why = attempt(fill)
written = [name for name in os.listdir("/tmp") if name.isdigit()]
pipe.write({"answer": [why, sum(os.path.getsize(f"/tmp/{name}") for name in written)]})
""",
        chain,
    )
    assert isinstance(found, list)
    assert found[0] == "OSError"
    assert found[1] <= 8 * 2**20


async def test_memory_cannot_be_filled(chain: Toolchain) -> None:
    code = TRY + "pipe.write({'answer': attempt(lambda: len(b'x' * 2**30))})\n"
    assert await answer(code, chain) == "MemoryError"
    with pytest.raises(Died, match="more than 512 MiB of memory"):
        await answer(
            "import time\nkept = b'x' * 2**30\ntime.sleep(60)\n",
            chain,
            sandbox.without_address_limit(SMALL),
        )


async def test_output_and_time_are_bounded(chain: Toolchain) -> None:
    with pytest.raises(Died, match="printed more than 4 MiB"):
        await answer("while True:\n    print('x' * 1000)\n", chain)
    with pytest.raises(Died, match="sent more than 4 MiB"):
        await answer("pipe.write({}, b'x' * 2**23)\n", chain)
    with pytest.raises(Died, match=r"ran for more than 0\.5 s"):
        await answer("import time\ntime.sleep(60)\n", chain, Bounds(wall_s=0.5))
    with pytest.raises(Died, match="processor time"):
        await answer("while True:\n    pass\n", chain, Bounds(cpu_s=1, wall_s=30))


async def test_output_is_bounded_for_each_answer(chain: Toolchain) -> None:
    code = "while True:\n    pipe.read()\n    pipe.write({}, b'x' * 3 * 2**20)\n"
    async with running(code, chain) as child:
        for _ in range(3):
            await child.write({})
            _, payload = await child.read()
            assert len(payload) == 3 * 2**20


async def test_crash_is_told_with_its_signal(chain: Toolchain) -> None:
    with pytest.raises(Died, match=r"crashed \(SIGSEGV, exit code 139\)"):
        await answer("import ctypes\nctypes.string_at(8)\n", chain)
    with pytest.raises(Died, match=r"exit code 1\): ValueError: why"):
        await answer("raise ValueError('why')\n", chain)


async def test_others_cannot_be_signalled(chain: Toolchain) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = await answer(
            TRY
            + f"""
pipe.write({{"answer": [
    attempt(lambda: os.kill({other.pid}, 9)),
    attempt(lambda: os.kill({os.getpid()}, 0)),
    os.getppid() < 10,
]}})
""",
            chain,
        )
        assert found == ["ProcessLookupError", "ProcessLookupError", True]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("detach", ["", "setsid"])
async def test_program_that_is_ended_while_it_starts_others_leaves_none(detach: str) -> None:
    # As bwrap does in its first moments: some are made between a look at it and the kill, some
    # have left its group by then. One that lives holds the pipes, so that `close` would not return.
    script = f"while :; do {detach} sleep 600 & done"
    async with asyncio.timeout(60):
        for moment in range(20):
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", script),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            child = sandbox.Child(process, SMALL)
            await asyncio.sleep(moment * 0.001)
            await child.close()


@pytest.mark.kernels  # the child that it starts imports torch
async def test_child_dies_with_the_process_that_started_it() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
            import asyncio, sys
            from lsp_server.kernels import sandbox, toolchain
            async def main():
                program = sandbox.Program("judge", await toolchain.find())
                async with sandbox.start(program, sandbox.Bounds()) as child:
                    print(child.pid, flush=True)
                    await asyncio.sleep(60)
            asyncio.run(main())
            """),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    outer = psutil.Process(int(parent.stdout.readline()))
    end = time.monotonic() + 30
    while not any(
        "children.judge" in " ".join(p.cmdline()) for p in outer.children(recursive=True)
    ):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    everything = [outer, *outer.children(recursive=True)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(everything, timeout=10)
    assert alive == []


async def test_no_sandbox_no_run(chain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(NoSandbox, match="apt-get install bubblewrap"):
            async with running("", chain):
                pass
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        with pytest.raises(NoSandbox, match="Linux"):
            await sandbox.require()
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "riscv64")
        with pytest.raises(NoSandbox, match="riscv64"):
            await sandbox.require()


async def test_bubblewrap_that_cannot_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NoSandbox, match="No permissions to create new namespace"):
        await sandbox.require()
    fake.write_text("#!/bin/sh\n")  # whoever reads the reason mends it, and asks again
    assert await sandbox.require() == str(fake)


async def test_interpreter_below_tmp_runs_though_the_rest_of_it_is_hidden() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        venv.create(f"{folder}/venv", symlinks=True)
        packages = next(Path(folder, "venv", "lib").glob("python*/site-packages"))
        packages.joinpath("ours.pth").write_text("\n".join(filter(None, sys.path)))
        Path(folder, "secret").write_text("secret")
        chain = await toolchain.find(f"{folder}/venv/bin/python")
        found = await answer(
            f"""
            there = [os.path.exists("{folder}/" + name) for name in ("venv", "secret")]
            pipe.write({{"answer": there}})
            """,
            chain,
        )
    assert found == [True, False]


async def test_interpreter_in_the_home_folder_itself_is_refused() -> None:
    for folder in (str(Path.home()), "/"):
        program = Program("judge", Toolchain(sys.executable, (folder,), ()))
        with pytest.raises(NoSandbox, match="a folder of its own"):
            sandbox.command("bwrap", program, SMALL, 3)


@pytest.mark.parametrize("machine", seccomp.MACHINES)
@pytest.mark.parametrize("processes", [True, False])
async def test_filter_never_jumps_past_its_end(machine: str, processes: bool) -> None:
    program = seccomp.program(machine, processes=processes)
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    assert len(program) % 8 == 0
    for at, (code, then, otherwise, _) in enumerate(steps):
        if code & 7 == 5:
            assert at + 1 + max(then, otherwise) < len(steps)
    assert steps[-1][0] == 6
