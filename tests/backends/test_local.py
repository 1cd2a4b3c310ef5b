from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from backends import frames, starter
from backends.backend import ChatRequest, FinishReason, InfillRequest, Message, Role
from backends.child_words import WorkerCrashed
from backends.config import ModelSettings
from backends.errors import LoadFailed, WorkerDied, WorkerTimeout
from backends.local import LocalBackend
from tests.backends.conftest import FAKE_WORKER, FAST_LIVENESS


def load(name: str, safe_mode: bool = False) -> frames.Load:
    return frames.Load(engine="llama-cpp", path="", name=name, safe_mode=safe_mode)


class Backends:
    """Starts backends and notes the deaths they report."""

    def __init__(self) -> None:
        self.deaths: list[WorkerDied] = []
        self.started: list[LocalBackend] = []

    async def start(self, name: str, **options: object) -> LocalBackend:
        backend = await LocalBackend.start(
            load(name),
            self.deaths.append,
            command=FAKE_WORKER,
            liveness=FAST_LIVENESS,
            **options,  # type: ignore[arg-type]
        )
        self.started.append(backend)
        return backend


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[Backends]:
    made = Backends()
    yield made
    for backend in made.started:
        await backend.kill()
        assert not psutil.pid_exists(backend.pid)


def ask(tokens: int, document: str | None = None) -> InfillRequest:
    return InfillRequest("p", "s", document=document, max_tokens=tokens)


async def complete(
    backend: LocalBackend, request: InfillRequest
) -> tuple[str, FinishReason | None]:
    text, reason = "", None
    async with asyncio.timeout(20), aclosing(backend.infill(request)) as chunks:
        async for chunk in chunks:
            text, reason = text + chunk.text, chunk.finish_reason
    return text, reason


async def test_infill_streams_to_the_end(backends: Backends) -> None:
    backend = await backends.start("ok")
    assert await complete(backend, ask(3)) == ("xxxok", FinishReason.LENGTH)
    assert backend.in_flight == 0
    assert backend.capabilities.family == "fake"


async def test_infill_is_superseded_by_a_newer_one_of_its_document(backends: Backends) -> None:
    backend = await backends.start("ok")
    older = asyncio.create_task(complete(backend, ask(500, "d")))
    other = asyncio.create_task(complete(backend, ask(10, "e")))
    await asyncio.sleep(0.1)
    newer = await complete(backend, ask(2, "d"))
    assert newer == ("xxok", FinishReason.LENGTH)
    assert (await older)[1] is FinishReason.CANCELLED
    assert (await other)[1] is FinishReason.LENGTH


async def test_infill_that_is_closed_cancels_in_the_worker(backends: Backends) -> None:
    backend = await backends.start("ok")
    task = asyncio.create_task(complete(backend, ask(500)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.in_flight == 0
    assert await complete(backend, ask(1)) == ("xok", FinishReason.LENGTH)


async def test_infill_ends_with_the_worker_that_is_killed(backends: Backends) -> None:
    backend = await backends.start("ok")
    task = asyncio.create_task(complete(backend, ask(500)))
    await asyncio.sleep(0.1)
    os.kill(backend.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await task
    assert len(backends.deaths) == 1
    with pytest.raises(WorkerDied):
        await complete(backend, ask(1))
    with pytest.raises(WorkerDied):
        await backend.health()


async def test_infill_ends_with_a_worker_that_sends_no_frames(backends: Backends) -> None:
    backend = await backends.start("garbage")
    with pytest.raises(WorkerDied):
        await complete(backend, ask(1))
    assert len(backends.deaths) == 1


async def test_stopped_worker_is_found_out_and_killed(backends: Backends) -> None:
    backend = await backends.start("ok")
    os.kill(backend.pid, signal.SIGSTOP)
    with pytest.raises(WorkerTimeout):
        await complete(backend, ask(1))
    assert len(backends.deaths) == 1


async def test_stuck_request_of_a_living_worker_is_not_killed(backends: Backends) -> None:
    backend = await backends.start("stuck")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await complete(backend, ask(1))
    assert backends.deaths == []


async def test_start_reports_what_the_worker_says() -> None:
    with pytest.raises(LoadFailed, match="out of memory"):
        await Backends().start("refuse")
    with pytest.raises(LoadFailed, match="the engine gave up"):
        await Backends().start("exit")


async def test_start_tells_a_crash_from_a_refusal() -> None:
    with pytest.raises(WorkerCrashed) as caught:
        await Backends().start("always-crash")
    assert caught.value.signal_number == signal.SIGSEGV


async def test_start_gives_up_on_a_load_that_hangs() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(LoadFailed, match="not loaded within"):
        await Backends().start("hang", load_timeout=0.5)
    assert set(psutil.Process().children()) <= before


async def test_start_that_is_cancelled_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    task = asyncio.create_task(Backends().start("hang"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(psutil.Process().children()) <= before


async def test_drain_waits_for_what_is_under_way_then_cancels(backends: Backends) -> None:
    backend = await backends.start("ok")
    short = asyncio.create_task(complete(backend, ask(5)))
    long = asyncio.create_task(complete(backend, ask(5000)))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await backend.drain(0.5)
    assert time.monotonic() - started < 3
    assert (await short)[1] is FinishReason.LENGTH
    assert (await long)[1] is FinishReason.CANCELLED


async def test_close_ends_the_worker_quietly(backends: Backends) -> None:
    backend = await backends.start("ok")
    await backend.close()
    assert backends.deaths == []
    assert not psutil.pid_exists(backend.pid)


@pytest.mark.engine
async def test_chat_streams_and_is_superseded_by_a_newer_one_of_its_session(tmp_path: Path) -> None:
    """With a real worker: the starter, and a template for it."""
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    settings = ModelSettings(chat_template=str(template))
    message = frames.Load(
        engine="llama-cpp", path=str(starter.path()), name="starter", settings=settings
    )
    backend = await LocalBackend.start(message, lambda death: None)

    async def talk(tokens: int) -> FinishReason | None:
        question = Message(Role.USER, "def add(a, b):\n    return")
        request = ChatRequest((question,), session="s", max_tokens=tokens)
        reason = None
        async with asyncio.timeout(60), aclosing(backend.chat(request)) as chunks:
            async for chunk in chunks:
                reason = chunk.finish_reason
                talking.set()
        return reason

    try:
        assert backend.capabilities.chat
        talking = asyncio.Event()
        older = asyncio.create_task(talk(900))
        await talking.wait()
        newer = await talk(4)
        assert newer in (FinishReason.LENGTH, FinishReason.STOP)
        assert await older is not None
        assert backend.in_flight == 0
    finally:
        await backend.kill()
