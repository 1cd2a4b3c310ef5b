from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends import launcher, state
from backends.client import MAX_BODY, ManagerClient
from backends.errors import (
    BadRequest,
    ManagerUnavailable,
    MidspanError,
    UnknownModel,
    WorkerDied,
)
from backends.state import Endpoint
from tests.backends.conftest import TOKEN, MakeManager, Serve

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'


def publish(port: int) -> None:
    started = state.process_start(os.getpid())
    assert started is not None
    state.write(Endpoint("127.0.0.1", port, TOKEN, os.getpid(), started, "0.1.0", 1.0))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[list[bytes]]:
    """A published server that hands each connection to `handle`; yields what was received."""
    received: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(connected, "127.0.0.1", 0)
    publish(running.sockets[0].getsockname()[1])
    try:
        yield received
    finally:
        running.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            head += await reader.readexactly(int(line.split(b":")[1]))
    return head


@pytest.fixture
async def client(private_dirs: Path) -> AsyncIterator[ManagerClient]:
    client = ManagerClient(autostart=False)
    yield client
    await client.close()


async def test_client_talks_to_the_manager(
    client: ManagerClient, make_manager: MakeManager, serve: Serve
) -> None:
    async with serve(await make_manager("a")) as served:
        publish(served.port)
        answer = await client.infill({"n_predict": 2, "input_prefix": "é\ud800"})
        assert answer["content"] == "xxa"
        with pytest.raises(UnknownModel):
            await client.infill({"model": "none"})
        with pytest.raises(BadRequest, match="n_predict"):
            await client.infill({"n_predict": "x"})
        assert (await client.get("/api/models/current"))["name"] == "a"


async def test_client_raises_what_the_worker_died_of(
    client: ManagerClient, make_manager: MakeManager, serve: Serve
) -> None:
    async with serve(await make_manager("die")) as served:
        publish(served.port)
        with pytest.raises(WorkerDied):
            await client.infill({})


async def test_cancelling_cancels_the_generation(
    client: ManagerClient, make_manager: MakeManager, serve: Serve
) -> None:
    async with serve(await make_manager("a")) as served:
        publish(served.port)
        task = asyncio.create_task(client.infill({"n_predict": 2000}))
        async with asyncio.timeout(20):
            while served.manager.in_flight != 1:
                await asyncio.sleep(0.01)
            task.cancel()
            while served.manager.in_flight:
                await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.infill({"n_predict": 1}))["content"] == "xa"


async def test_client_keeps_one_connection(client: ManagerClient) -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await read_request(reader):
            writer.write(OK)

    async with server(handle):
        for _ in range(5):
            assert await client.get("/") == {"a": 1}
    assert connections == 1


async def test_client_retries_where_a_kept_connection_was_closed(client: ManagerClient) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # the next one gets no answer

    async with server(handle):
        for _ in range(4):
            assert await client.get("/") == {"a": 1}


async def test_client_sends_a_request_twice_at_most(client: ManagerClient) -> None:
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1

    async with server(handle):
        with pytest.raises(ManagerUnavailable):
            await client.post("/infill", {})
    assert requests <= 2


async def test_client_does_not_repeat_a_request_that_was_half_answered(
    client: ManagerClient,
) -> None:
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(OK[:-3])

    async with server(handle):
        with pytest.raises(ManagerUnavailable):
            await client.post("/infill", {})
    assert requests == 1


MALFORMED = {
    "not HTTP": b"SSH-2.0-x\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{}" % (MAX_BODY + 1),
    "huge chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "long line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "long header": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100,
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "no object": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "bad UTF-8": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_client_refuses_malformed_answers(client: ManagerClient, case: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(MALFORMED[case])
        await writer.drain()

    async with server(handle):
        with pytest.raises(ManagerUnavailable):
            await client.get("/")


async def test_client_reads_chunked_answers(client: ManagerClient) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'3;x=y\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n'
        )

    async with server(handle):
        assert await client.get("/") == {"a": 1}


async def test_client_follows_no_redirect(client: ManagerClient) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(
            b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 2\r\n\r\n{}"
        )

    async with server(handle):
        with pytest.raises(MidspanError, match="302"):
            await client.get("/")


async def test_client_gives_up_in_time(client: ManagerClient) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(handle):
        with pytest.raises(ManagerUnavailable, match=r"within 0\.2 s"):
            await client.get("/", timeout=0.2)


async def test_client_without_a_manager_says_so(client: ManagerClient) -> None:
    with pytest.raises(ManagerUnavailable, match="not running"):
        await client.get("/health")


async def test_client_starts_the_manager_and_survives_its_death(private_dirs: Path) -> None:
    client = ManagerClient()
    try:
        first = await client.ensure()
        assert (await client.get("/api/models/current"))["state"] == "stopped"
        os.kill(first.pid, signal.SIGKILL)
        assert (await client.get("/api/models/current", timeout=60))["state"] == "stopped"
        second = await client.ensure()
        assert second.pid != first.pid
    finally:
        await client.close()
        endpoint: Any = launcher.find()
        if endpoint is not None:
            await asyncio.to_thread(launcher.stop, endpoint)


async def test_client_waits_for_a_manager_that_is_just_ending(
    private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A killed process closes its socket before its pid is gone.
    client = ManagerClient()
    found = launcher.find
    try:
        first = await client.ensure()
        os.kill(first.pid, signal.SIGKILL)
        stale = iter([first, first])
        monkeypatch.setattr(launcher, "find", lambda: next(stale, None) or found())
        assert (await client.get("/api/models/current", timeout=60))["state"] == "stopped"
    finally:
        await client.close()
        endpoint: Any = found()
        if endpoint is not None:
            await asyncio.to_thread(launcher.stop, endpoint)


async def test_cancelling_while_the_manager_starts_does_not_break_the_next_call(
    private_dirs: Path,
) -> None:
    client = ManagerClient()
    task = asyncio.create_task(client.get("/api/models/current"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = time.monotonic()
    try:
        assert (await client.get("/api/models/current", timeout=60))["name"] == "starter"
        assert time.monotonic() - started < 60
    finally:
        await client.close()
        endpoint: Any = launcher.find()
        if endpoint is not None:
            await asyncio.to_thread(launcher.stop, endpoint)


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def streaming(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return handle


async def test_stream_yields_events_however_they_are_cut(client: ManagerClient) -> None:
    body = 'event: x\ndata: {"a":"é"}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n'.encode()
    for size in (1, 7, len(body)):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        async with server(streaming(SSE + chunked(*parts) + b"0\r\n\r\n")):
            found = [value async for value in client.stream("/x", {})]
        assert found == [{"a": "é"}, {"a": 2}]


async def test_stream_raises_what_it_was_answered_with(client: ManagerClient) -> None:
    error = b'{"error":{"kind":"unknown_model","message":"No such model."}}'
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(error)
    async with server(streaming(head + error)):
        with pytest.raises(UnknownModel, match="No such model"):
            await anext(client.stream("/x", {}))


async def test_stream_raises_an_error_in_its_middle(client: ManagerClient) -> None:
    events = b'data: {"a":1}\n\ndata: {"error":{"kind":"worker_died","message":"Died."}}\n\n'
    async with server(streaming(SSE + chunked(events))):
        stream = client.stream("/x", {})
        assert await anext(stream) == {"a": 1}
        with pytest.raises(WorkerDied):
            await anext(stream)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        chunked(b'data: {"a":'),
        chunked(b'data: {"a":1'),
        chunked(b"data: [1]\n\n"),
        chunked(b"\xff\n\n"),
        b"zz\r\n",
        b"0\r\n\r\n",  # ended without [DONE]
    ],
)
async def test_stream_that_is_cut_or_malformed_is_unavailable(
    client: ManagerClient, rest: bytes
) -> None:
    async with server(streaming(SSE + rest)):
        with pytest.raises(ManagerUnavailable):
            await anext(client.stream("/x", {}))


async def test_stream_that_says_nothing_is_given_up(client: ManagerClient) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE)
        await reader.read()

    async with server(handle):
        with pytest.raises(ManagerUnavailable, match=r"nothing for 0\.1 s"):
            await anext(client.stream("/x", {}, patience=0.1))


async def test_stream_that_is_closed_closes_its_connection(client: ManagerClient) -> None:
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE + chunked(b'data: {"a":1}\n\n'))
        try:
            await reader.read()
        finally:
            gone.set()

    async with server(handle):
        stream = client.stream("/x", {})
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(20):
            await gone.wait()
