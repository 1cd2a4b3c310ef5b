"""A model that can chat, as an endpoint on loopback: it streams the pieces that a test wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.backends.remote.upstream import Reply, Upstream, as_json, serving, sse

NAME = "chatty"
PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class ChatEndpoint:
    """The endpoint, which runs in a thread of its own."""

    upstream: Upstream

    def answers(self, *pieces: str, pause: float = 0.0, finish: str = "stop") -> None:
        """Answer every conversation so; `pause` seconds before each piece but the first."""
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": NAME}
        deltas: list[tuple[dict[str, str], str | None]] = [({"content": it}, None) for it in pieces]
        parts: list[bytes | float] = []
        for delta, reason in [*deltas, ({}, finish)]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            reply = sse({**event, "choices": [choice]}, done=reason is not None)
            parts += [pause] if parts and pause else []
            parts += reply.pieces
        reply = Reply(tuple(parts), kind="text/event-stream")
        self.upstream.answers("/v1/chat/completions", reply)

    @property
    def config(self) -> str:
        """The configuration that makes it the model for chats."""
        return (
            f'[chat]\nmodel = "{NAME}"\n[models.{NAME}]\nprofile = "openai-compatible"\n'
            f'endpoint = "{self.upstream.url}/v1"\n'
        )


@contextmanager
def chat_endpoint() -> Iterator[ChatEndpoint]:
    """Yield an endpoint that listens."""
    loop, ready, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    upstreams: list[Upstream] = []

    async def serve() -> None:
        async with serving() as upstream:
            upstream.answers("/v1/models", as_json({"data": [{"id": NAME}]}))
            upstreams.append(upstream)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield ChatEndpoint(upstreams[0])
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
