"""The remote fault table: whatever an endpoint does, the request ends with its reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from backends.backend import ChatRequest, Chunk, FinishReason, InfillRequest, Message, Role
from backends.errors import (
    RemoteFailed,
    RemoteProtocolError,
    RemoteRateLimited,
    RemoteRefused,
    RemoteTimeout,
    RemoteUnauthorized,
    RemoteUnreachable,
)
from backends.remote.backend import RemoteBackend
from tests.backends.remote.conftest import Connect, collected
from tests.backends.remote.upstream import Reply, Upstream, as_json, serving, sse

KEY = "sk-secret-of-the-test"

Ask = Callable[[RemoteBackend], AsyncIterator[Chunk]]


def infill(backend: RemoteBackend, **fields: Any) -> AsyncIterator[Chunk]:
    return backend.infill(InfillRequest("a = ", "\n", max_tokens=8, **fields))


def chat(backend: RemoteBackend, **fields: Any) -> AsyncIterator[Chunk]:
    return backend.chat(ChatRequest((Message(Role.USER, "hello"),), **fields))


def text(piece: str, finish: str | None = None) -> dict[str, Any]:
    """An event that both kinds of streams understand."""
    delta = {"content": piece}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "text": piece, "delta": delta, "finish_reason": finish}],
    }


GOOD = sse(text(" one"), text(" two", "stop"))
PAGE = Reply((b"<html><body>Welcome to the proxy</body></html>",), kind="text/html")
HANGS = Reply((b": hello\n\n", 30.0), kind="text/event-stream")
BOTH = pytest.mark.parametrize(
    ("ask", "path"),
    [(infill, "/v1/completions"), (chat, "/v1/chat/completions")],
    ids=["infill", "chat"],
)


async def outcome(chunks: AsyncIterator[Chunk]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        await asyncio.wait_for(collected(chunks), 10)
    return caught.value


@BOTH
async def test_good_stream_is_an_answer(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, GOOD)
    answer, last = await collected(ask(await connect()))
    assert answer.strip() == "one two"
    assert last.finish_reason is FinishReason.STOP


@BOTH
async def test_401_is_said_once_and_not_repeated(
    connect: Connect, upstream: Upstream, ask: Ask, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers(path, as_json({"error": {"message": f"bad key {KEY}"}}, 401))
    backend = await connect(KEY)
    first, second = await outcome(ask(backend)), await outcome(ask(backend))
    assert isinstance(first, RemoteUnauthorized)
    assert "api_key_file" in str(first)
    assert str(second) == str(first)
    assert len(upstream.to(path)) == 1
    assert len([r for r in caplog.records if r.name == "backends.remote.backend"]) == 1
    assert KEY not in str(first)
    assert KEY not in caplog.text


async def test_401_when_connecting_names_the_settings(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", as_json({"error": {"message": "no"}}, 401))
    with pytest.raises(RemoteUnauthorized, match="without a key"):
        await connect()


async def test_429_at_the_cursor_is_given_up_until_the_server_is_ready(
    connect: Connect, upstream: Upstream
) -> None:
    limited = as_json({"error": {"message": "slow down"}}, 429, Retry_After="1")
    upstream.answers("/v1/completions", limited, GOOD)
    backend = await connect()
    error = await outcome(infill(backend))
    assert isinstance(error, RemoteRateLimited)
    assert error.retry_after == 1
    assert "wait 1 s" in str(error)
    assert isinstance(await outcome(infill(backend)), RemoteRateLimited)
    assert len(upstream.to("/v1/completions")) == 1
    await asyncio.sleep(1.05)
    assert (await collected(infill(backend)))[0] == " one two".removeprefix(" ")


async def test_429_in_a_chat_waits_as_long_as_it_is_told(
    connect: Connect, upstream: Upstream
) -> None:
    limited = as_json({"error": "slow down"}, 429, Retry_After="0.5")
    upstream.answers("/v1/chat/completions", limited, GOOD)
    started = time.monotonic()
    answer, _ = await collected(chat(await connect()))
    assert answer == " one two"
    assert time.monotonic() - started >= 0.5


async def test_429_for_longer_than_the_deadline_is_given_up(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers("/v1/chat/completions", as_json({}, 429, Retry_After="3600"))
    error = await outcome(chat(await connect(timeout_s=2.0)))
    assert isinstance(error, RemoteRateLimited)
    assert len(upstream.to("/v1/chat/completions")) == 1


@BOTH
async def test_500_is_tried_three_times_in_all(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, as_json({"error": {"message": "out of memory"}}, 500))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteFailed)
    assert "out of memory" in str(error)
    assert len(upstream.to(path)) == 3


@BOTH
async def test_500_once_costs_no_answer(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, as_json({}, 503), GOOD)
    assert (await collected(ask(await connect())))[0].strip() == "one two"


@BOTH
async def test_400_is_not_repeated_and_gives_its_reason(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, as_json({"error": {"message": "prompt too long"}}, 400))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteRefused)
    assert "prompt too long" in str(error)
    assert len(upstream.to(path)) == 1


@BOTH
async def test_validation_errors_that_repeat_the_request_are_not_shown(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, as_json({"detail": [{"input": "the document"}]}, 422))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteRefused)
    assert "the document" not in str(error)


@BOTH
async def test_cut_stream_drops_what_came(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    whole = sse(text(" one"), text(" two"), done=False)
    upstream.answers(path, Reply(whole.pieces, kind=whole.kind, whole=False))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteProtocolError)
    assert "before its answer's end" in str(error)


@BOTH
async def test_stream_that_ends_without_an_end_is_no_answer(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, sse(text(" one")))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteProtocolError)
    assert "before the end" in str(error)


@BOTH
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'data: {"choices": [{"text": "\xff\xfe"}]}\n\n', "no UTF-8"),
        (b"data: {nonsense\n\n", "no JSON"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "no JSON"),
        (b"data: " + b"x" * 1_000_000 + b"\n\n", "a line of more than"),
        (b"data: " + b"x" * 1_000_000, "a line of more than"),
        (b'data: {"error": {"message": "GPU gone"}}\n\n', "GPU gone"),
    ],
    ids=[
        "bad utf-8",
        "no json",
        "no end of nesting",
        "1 MB line",
        "1 MB without an end",
        "error event",
    ],
)
async def test_bytes_that_are_no_answer(
    connect: Connect, upstream: Upstream, ask: Ask, path: str, bad: bytes, reason: str
) -> None:
    first = sse(text(" one"), done=False)
    upstream.answers(path, Reply((*first.pieces, bad), kind="text/event-stream"), GOOD)
    backend = await connect()
    error = await outcome(ask(backend))
    assert isinstance(error, RemoteProtocolError | RemoteFailed)
    assert reason in str(error)
    assert (await collected(ask(backend)))[0].strip() == "one two", "the next request works"


@BOTH
async def test_page_in_place_of_an_answer(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, PAGE)
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteProtocolError)
    assert "text/html" in str(error)
    assert "Welcome" not in str(error)


@BOTH
async def test_error_that_nests_without_end_is_its_status(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    upstream.answers(path, Reply((b"[" * 10_000,), 400, kind="application/json"))
    error = await outcome(ask(await connect()))
    assert isinstance(error, RemoteRefused)
    assert "(400)" in str(error)


async def test_nesting_without_end_when_connecting(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", Reply((b"[" * 10_000,), kind="application/json"))
    with pytest.raises(RemoteProtocolError, match="no JSON"):
        await connect()


async def test_page_when_connecting(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", PAGE)
    with pytest.raises(RemoteProtocolError, match="is the endpoint right"):
        await connect()


@BOTH
@pytest.mark.parametrize("begins", [False, True], ids=["no headers", "headers only"])
async def test_hang_ends_at_the_first_token_deadline(
    connect: Connect, upstream: Upstream, ask: Ask, path: str, begins: bool
) -> None:
    pieces = (b": hello\n\n", 30.0) if begins else (30.0,)
    upstream.answers(path, Reply(pieces, kind="text/event-stream"))
    backend = await connect(timeout_s=0.5)
    started = time.monotonic()
    error = await outcome(ask(backend))
    assert isinstance(error, RemoteTimeout)
    assert "timeout_s" in str(error)
    assert time.monotonic() - started < 5
    await asyncio.wait_for(upstream.closed.wait(), 5)
    assert backend.in_flight == 0


@BOTH
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed_and_the_key_goes_nowhere(
    connect: Connect, upstream: Upstream, ask: Ask, path: str, status: int
) -> None:
    async with serving() as elsewhere:
        leads = (("Location", f"{elsewhere.url}{path}"),)
        upstream.answers(path, Reply((), status, headers=leads))
        error = await outcome(ask(await connect(KEY)))
        assert isinstance(error, RemoteRefused)
        assert "redirect" in str(error)
        assert elsewhere.requests == []


@BOTH
async def test_nobody_listens(connect: Connect, upstream: Upstream, ask: Ask, path: str) -> None:
    backend = await connect()
    async with serving() as gone:
        port = gone.port
    with pytest.raises(RemoteUnreachable, match="cannot be reached"):
        await connect(endpoint=f"http://127.0.0.1:{port}")
    upstream.answers(path, Reply(whole=False))  # the connection ends with nothing in it
    assert isinstance(await outcome(ask(backend)), RemoteProtocolError)


@BOTH
async def test_closing_the_iterator_closes_the_connection(
    connect: Connect, upstream: Upstream, ask: Ask, path: str
) -> None:
    first = sse(text(" one"), text(" two"), done=False)
    upstream.answers(path, Reply((*first.pieces, 30.0), kind=first.kind))
    backend = await connect()
    chunks = ask(backend)
    async for chunk in chunks:
        assert chunk.text
        break
    await chunks.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(upstream.closed.wait(), 5)
    assert backend.in_flight == 0


async def test_newer_request_of_a_document_cancels_the_older(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers("/v1/completions", HANGS, GOOD)
    backend = await connect()
    older = asyncio.create_task(collected(infill(backend, document="file:///a.py")))
    await asyncio.wait_for(upstream.started.wait(), 5)
    newer, _ = await collected(infill(backend, document="file:///a.py"))
    _, last = await asyncio.wait_for(older, 5)
    assert last.finish_reason is FinishReason.CANCELLED
    assert last.usage is not None
    assert newer
    await asyncio.wait_for(upstream.closed.wait(), 5)


async def test_deadline_returns_what_came(connect: Connect, upstream: Upstream) -> None:
    first = sse(text(" one"), text(" two"), done=False)
    upstream.answers("/v1/completions", Reply((*first.pieces, 30.0), kind=first.kind))
    answer, last = await collected(infill(await connect(), deadline_ms=400))
    assert last.finish_reason is FinishReason.DEADLINE
    assert answer == "one two"


async def test_draining_cancels_what_takes_too_long(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/completions", HANGS)
    backend = await connect()
    task = asyncio.create_task(collected(infill(backend)))
    await asyncio.wait_for(upstream.started.wait(), 5)
    assert backend.in_flight == 1
    await backend.drain(0.05)
    _, last = await asyncio.wait_for(task, 5)
    assert last.finish_reason is FinishReason.CANCELLED


async def test_closing_the_backend_fails_what_is_under_way(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers("/v1/completions", HANGS)
    backend = await connect()
    task = asyncio.create_task(outcome(infill(backend)))
    await asyncio.wait_for(upstream.started.wait(), 5)
    await backend.close()
    assert "unloaded" in str(await asyncio.wait_for(task, 5))
    assert "unloaded" in str(await outcome(infill(backend)))


async def test_health_is_the_endpoints(connect: Connect, upstream: Upstream) -> None:
    backend = await connect()
    await backend.health()
    upstream.answers("/v1/models", as_json({}, 500))
    with pytest.raises(RemoteFailed):
        await backend.health()
