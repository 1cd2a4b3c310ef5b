"""The worker process, by its frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import frames, starter
from backends.backend import InfillRequest

pytestmark = pytest.mark.engine


class Pipe:
    """A worker and its pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backends.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, message: frames.ToWorker) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(frames.encode(message))
        self.process.stdin.flush()

    def receive(self) -> frames.FromWorker:
        assert self.process.stdout is not None
        body = frames.read_frame(self.process.stdout)
        assert body is not None, "the worker ended"
        return frames.decode_from_worker(body)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    opened.process.kill()
    opened.process.wait()


def load(path: str = "") -> frames.Load:
    return frames.Load(engine="llama-cpp", path=path or str(starter.path()), name="starter")


def test_worker_loads_completes_and_ends_with_its_input(pipe: Pipe) -> None:
    pipe.send(load())
    loaded = pipe.receive()
    assert isinstance(loaded, frames.Loaded)
    assert loaded.capabilities.fim
    pipe.send(frames.Infill(1, InfillRequest("def f(x):\n    ret", "\n", "d", max_tokens=8)))
    pieces = []
    while not pieces or pieces[-1].chunk.finish_reason is None:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece)
        pieces.append(piece)
    assert {piece.id for piece in pieces} == {1}
    assert "".join(piece.chunk.text for piece in pieces)
    pipe.send(frames.Ping(7))
    pong = pipe.receive()
    assert isinstance(pong, frames.Pong)
    assert (pong.id, pong.active) == (7, 0)
    assert pipe.process.stdin is not None
    pipe.process.stdin.close()
    assert pipe.process.wait(timeout=20) == 0


def test_worker_refuses_a_file_that_is_no_model(pipe: Pipe) -> None:
    pipe.send(load(__file__))
    failed = pipe.receive()
    assert isinstance(failed, frames.Failed)
    assert failed.kind == "load_failed"
    assert pipe.process.wait(timeout=20) == 1


def test_worker_ends_on_a_broken_frame(pipe: Pipe) -> None:
    assert pipe.process.stdin is not None
    pipe.process.stdin.write(frames.HEADER.pack(frames.MAX_FRAME + 1))
    pipe.process.stdin.close()
    assert pipe.process.wait(timeout=20) == 1


def test_a_defect_in_the_scheduler_ends_the_worker() -> None:
    """It must not live on as a process that answers pings and nothing else."""
    code = (
        "import threading\n"
        "from backends.worker import _run_or_die\n"
        "class Broken:\n"
        "    def run(self): raise RuntimeError('defect')\n"
        "thread = threading.Thread(target=_run_or_die, args=(Broken(),))\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "defect" in done.stderr


@pytest.mark.parametrize(("budget_ms", "least", "most"), [(0.001, 50, 700), (1e6, 900, 2048)])
def test_worker_sizes_cold_prompts_by_the_time_they_may_take(
    pipe: Pipe, tiny_model: Path, budget_ms: float, least: int, most: int
) -> None:
    message = load(str(tiny_model))
    message.cold_prefill_ms = budget_ms
    pipe.send(message)
    assert isinstance(pipe.receive(), frames.Loaded)
    pipe.send(frames.Infill(1, InfillRequest("x = [1, 2]\n" * 2000, "\n", max_tokens=1)))
    while True:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece)
        if piece.chunk.usage is not None:
            break
    assert least < piece.chunk.usage.prompt_tokens < most
