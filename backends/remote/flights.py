"""Requests under way at an endpoint: who supersedes whom, and how they end together.

Rule: knows no HTTP. Each request is a task that fills a queue; ending it early is cancelling the
task, which closes its connection, and telling its reader why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from backends import draining
from backends.backend import Chunk, FinishReason, Usage
from backends.errors import BackendError, MidspanError

logger = logging.getLogger(__name__)

END_TIMEOUT = 3.0  # seconds that a cancelled request has to close its connection


@dataclass(eq=False, slots=True)
class Flight:
    """A request under way. `usage` is what is known of it, should it be ended."""

    answers: asyncio.Queue[Chunk | MidspanError] = field(default_factory=asyncio.Queue)
    usage: Usage = field(default_factory=Usage)
    task: asyncio.Task[None] | None = None

    def end(self, reason: FinishReason) -> None:
        """Stop it; its reader gets a last chunk with `reason`."""
        self.stop()
        self.answers.put_nowait(Chunk("", finish_reason=reason, usage=self.usage))

    def fail(self, error: MidspanError) -> None:
        """Stop it; its reader gets `error`."""
        self.stop()
        self.answers.put_nowait(error)

    def stop(self) -> None:
        """Stop it without a word."""
        if self.task is not None:
            self.task.cancel()


class Flights:
    """All requests under way at one endpoint."""

    def __init__(self) -> None:
        self._all: set[Flight] = set()
        self._newest: dict[str, Flight] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed: BackendError | None = None

    def __len__(self) -> int:
        return len(self._all)

    async def run(
        self,
        identity: str | None,
        deadline_ms: float | None,
        produce: Callable[[Flight], AsyncIterator[Chunk]],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield what `produce` does, until its last chunk, the deadline, or a newer one's start.

        A newer request of the same `identity` cancels this one. Closing the iterator does too.
        """
        self.raise_if_closed()
        flight = Flight()
        self._all.add(flight)
        self._idle.clear()
        if identity is not None:
            if (older := self._newest.get(identity)) is not None:
                older.end(FinishReason.CANCELLED)
            self._newest[identity] = flight
        loop = asyncio.get_running_loop()
        timer = None
        if deadline_ms is not None:
            seconds = max(0.0, deadline_ms / 1000)
            timer = loop.call_later(seconds, flight.end, FinishReason.DEADLINE)
        flight.task = loop.create_task(_fill(flight, produce))
        try:
            ended = False
            while not ended:
                answer = await flight.answers.get()
                if isinstance(answer, MidspanError):
                    raise answer
                ended = answer.finish_reason is not None
                yield answer
        finally:
            if timer is not None:
                timer.cancel()
            self._all.discard(flight)
            if identity is not None and self._newest.get(identity) is flight:
                del self._newest[identity]
            if not self._all:
                self._idle.set()
            flight.stop()
            await asyncio.wait({flight.task}, timeout=END_TIMEOUT)

    def raise_if_closed(self) -> None:
        """Raise the error that `close` was called with, if it was."""
        if self._closed is not None:
            raise self._closed

    async def drain(self, limit: float) -> None:
        """Let requests finish for `limit` seconds, then cancel them."""
        await draining.drain(self._idle, limit, self._cancel)

    def _cancel(self) -> None:
        for flight in set(self._all):
            flight.end(FinishReason.CANCELLED)

    def close(self, error: BackendError) -> None:
        """Fail what is under way, and whatever comes later."""
        self._closed = error
        for flight in set(self._all):
            flight.fail(error)


async def _fill(flight: Flight, produce: Callable[[Flight], AsyncIterator[Chunk]]) -> None:
    try:
        async for chunk in produce(flight):
            flight.answers.put_nowait(chunk)
    except MidspanError as exc:
        flight.answers.put_nowait(exc)
    except Exception as exc:
        # A defect of ours must not leave the reader waiting for ever.
        logger.exception("a request to an endpoint failed by a defect")
        flight.answers.put_nowait(BackendError(f"The request failed: {type(exc).__name__}."))
