"""The requests of the contract suite for backends, and how its checks read what comes back.

Rule: knows the `Backend` seam alone. Whatever it opens it closes, also where a check fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import psutil

from backends.backend import (
    Backend,
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Tool,
    Usage,
)
from backends.errors import MidspanError

PATIENCE = 60.0  # seconds; no check takes that long, unless something hangs
SOON = 1.0  # seconds for what is under way to end, once nobody wants it
GONE_WITHIN = 10.0  # seconds for a process to end after `close`

ENDED = (FinishReason.STOP, FinishReason.LENGTH)  # of a request that was left alone
# Any model goes on with it, for much longer than a check lasts.
NUMBERS = "NUMBERS = [\n" + "".join(f"    {number},\n" for number in range(12))
FUNCTIONS = "import os\n\n\n" + "".join(
    f"def read_{name}(path):\n    with open(path) as file:\n        return file.read()\n\n\n"
    for name in ("text", "names")
)
SUMS = (
    "def add(first, second):\n    return first + second\n\n\ndef multiply(first, second):\n    ret"
)
AFTER = "\n\n\ndef main():\n    print(read_all('x'))\n"
# A prompt that does not depend on how fast this machine is just now.
GAP = InfillRequest(FUNCTIONS + "def read_all(path):\n    ", AFTER, max_tokens=8, prompt_ms=600_000)
LONG = replace(GAP, prefix=NUMBERS, suffix="", max_tokens=800)
HELLO = ChatRequest((Message(Role.USER, "hello"),), max_tokens=6)
COUNT = (Message(Role.USER, f"Write the numbers from 1 to 1000, one per line.\n{NUMBERS}"),)
LONG_TALK = replace(HELLO, messages=COUNT, max_tokens=800)
EVALUATED_PER_KEY = 16  # tokens at most, when a document is typed on

SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
    "additionalProperties": False,
}
TOOL = Tool("answer", "Say whether it is good.", SCHEMA)


Check = Callable[[Backend], Awaitable[None]]


def into(checks: list[Check]) -> Callable[[Check], Check]:
    """Return a decorator that appends a check to `checks`."""

    def append(check: Check) -> Check:
        checks.append(check)
        return check

    return append


class Lacking(Exception):  # noqa: N818  # no error: the backend said that it cannot
    """The backend has no such capability; the text is the reason it gives."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All chunks of one request."""

    chunks: tuple[Chunk, ...]

    @property
    def text(self) -> str:
        """The text of all chunks."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def last(self) -> Chunk:
        """The chunk with the end."""
        return self.chunks[-1]

    @property
    def usage(self) -> Usage:
        """The token counts."""
        assert self.last.usage is not None
        return self.last.usage


async def collected(chunks: AsyncGenerator[Chunk, None]) -> Answer:
    """Read a stream to its end, and check what holds for all of them."""
    async with asyncio.timeout(PATIENCE), aclosing(chunks):
        return checked([chunk async for chunk in chunks])


def checked(chunks: list[Chunk]) -> Answer:
    """Return a whole stream, after the checks that hold for all of them."""
    assert chunks, "a stream without an end"
    assert all(chunk.finish_reason is None for chunk in chunks[:-1]), "it ends once"
    answer = Answer(tuple(chunks))
    assert answer.last.finish_reason is not None
    assert not any("\ud800" <= char <= "\udfff" for char in answer.text), "half a character"
    assert 0 <= answer.usage.cached_tokens <= answer.usage.prompt_tokens
    assert answer.usage.completion_tokens >= 0
    return answer


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def fills(backend: Backend) -> None:
    """Raise Lacking where it doesn't fill in the middle."""
    if not backend.capabilities.fim:
        raise Lacking(backend.capabilities.no_fim_reason)


def chats(backend: Backend) -> None:
    """Raise Lacking where it doesn't chat."""
    if not backend.capabilities.chat:
        raise Lacking(backend.capabilities.no_chat_reason)


def holds_to_schemas(backend: Backend) -> None:
    """Raise Lacking where its answers can't be held to a schema."""
    chats(backend)
    if not backend.capabilities.tools:
        raise Lacking("its answers can't be held to a schema")


def context_length(backend: Backend) -> int:
    """Return how many tokens it can hold; raise Lacking where nobody knows."""
    if not backend.capabilities.context_length:
        raise Lacking("the length of its context is not known")
    return backend.capabilities.context_length


def long(backend: Backend, owner: str | None = None) -> AsyncGenerator[Chunk, None]:
    """Return a stream that goes on for as long as a check lasts, of whatever it can."""
    if backend.capabilities.fim:
        return backend.infill(replace(LONG, document=owner))
    return backend.chat(replace(LONG_TALK, session=owner))


def short(backend: Backend, owner: str | None = None) -> AsyncGenerator[Chunk, None]:
    """Return a stream of a few tokens."""
    if backend.capabilities.fim:
        return backend.infill(replace(GAP, document=owner))
    return backend.chat(replace(HELLO, session=owner))


@asynccontextmanager
async def begun(stream: AsyncGenerator[Chunk, None]) -> AsyncIterator[list[Chunk]]:
    """Read a stream up to its first text; close it in the end, whatever comes."""
    read: list[Chunk] = []
    async with aclosing(stream):
        async with asyncio.timeout(PATIENCE):
            async for chunk in stream:
                assert chunk.finish_reason is None, f"the model must write on: {chunk}"
                read.append(chunk)
                if chunk.text or chunk.reasoning:
                    break
        assert read, "a stream without an end"
        yield read


async def rest(stream: AsyncGenerator[Chunk, None], read: list[Chunk]) -> Answer:
    """Read on to the end of a stream that has begun."""
    async with asyncio.timeout(PATIENCE):
        return checked([*read, *[chunk async for chunk in stream]])


@asynccontextmanager
async def reading(stream: AsyncGenerator[Chunk, None]) -> AsyncIterator[asyncio.Task[Answer]]:
    """Read a stream to its end in a task of its own, which is there once the text has begun."""
    async with begun(stream) as read:
        reader = asyncio.create_task(rest(stream, read))
        try:
            yield reader
        finally:
            reader.cancel()
            await asyncio.wait({reader})


async def refused(
    answering: Awaitable[object], kind: type[MidspanError] | tuple[type[MidspanError], ...]
) -> str:
    """Expect an error; return what it tells the user."""
    try:
        answer = await answering
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"this should have raised {kind}: {answer}")
    assert said, "the error says nothing"
    return said


async def until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait for something that nobody tells of. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it is the outside that is looked at
            await asyncio.sleep(0.005)


async def idle(backend: Backend) -> None:
    """Wait until nothing is under way."""
    await until(lambda: backend.in_flight == 0, SOON)
