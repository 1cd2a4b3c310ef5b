"""Several answers to one request.

Rule: one after the other on one cached prompt, so that only the first evaluates it. The first
streams as it is generated; each further one is held back until it is known to differ from those
before, and made anew with another seed where it doesn't. Must not know HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import cast

from backends.backend import Chunk, FinishReason, Sampling
from backends.errors import BackendError, WorkerDied

ATTEMPTS = 4  # at a choice that differs; then a repeated one is given

Chunks = AsyncGenerator[Chunk, None]


async def choices(
    start: Callable[[Sampling], AsyncIterator[Chunk]], sampling: Sampling, n: int
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Yield `n` choices as (index, chunk), each ending with a chunk that has a finish reason.

    `start` begins a generation. Raises BackendError where one ends without an answer.
    """
    numbers = count()

    def attempt() -> Chunks:
        return _complete(start(_reseeded(sampling, next(numbers))))

    seen: set[tuple[object, ...]] = set()
    first: list[Chunk] = []
    async with aclosing(attempt()) as chunks:
        async for chunk in chunks:
            first.append(chunk)
            yield 0, chunk
    seen.add(_said(first))
    for index in range(1, n):
        for _ in range(ATTEMPTS):
            async with aclosing(attempt()) as chunks:
                held = [chunk async for chunk in chunks]
            if _said(held) not in seen:
                break
        seen.add(_said(held))
        for chunk in held:
            yield index, chunk


async def _complete(stream: AsyncIterator[Chunk]) -> Chunks:
    """Yield what comes; raise where it doesn't end as an answer does."""
    # Backends are asked for iterators and give generators, which can be closed.
    async with aclosing(cast("Chunks", stream)) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                raise BackendError("The answer was cut off: its model was unloaded. Ask again.")
            yield chunk
            if chunk.finish_reason is not None:
                return
    raise WorkerDied("The model ended its answer early. Ask again.")


def _reseeded(sampling: Sampling, number: int) -> Sampling:
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % 2**32)


def _said(chunks: list[Chunk]) -> tuple[object, ...]:
    text = "".join(chunk.text for chunk in chunks)
    return (text, *((call.name, call.arguments) for call in chunks[-1].tool_calls))
