"""The seam between the manager and whatever completes code.

Rule: only types live here, and only the standard library is imported, so that every side of the
seam (HTTP API, manager, worker, tests) can share them. Must not know HTTP, LSP or any runtime.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Protocol


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended the hole, or a stop rule did
    LENGTH = "length"  # max_tokens reached, or the context is full
    TOOL_CALLS = "tool_calls"  # the answer is calls of functions
    DEADLINE = "deadline"  # the request's time was up; what was generated is returned
    CANCELLED = "cancelled"  # the caller went away or asked for something newer


class Priority(IntEnum):
    """What goes first. Work of a lower priority yields to any of a higher one."""

    INLINE = 0  # somebody waits for it at the cursor
    CHAT = 1  # somebody waits for it, elsewhere: chat, kernel generation
    WARM = 2  # before anybody asks for it


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is picked. `temperature` 0 is greedy and ignores the other fields."""

    temperature: float = 0.0
    top_k: int = 40  # 0 = off
    top_p: float = 0.95  # 1 = off
    min_p: float = 0.0  # 0 = off
    seed: int | None = None  # None = a different one each time


@dataclass(frozen=True, slots=True)
class SteeringUse:
    """A steering vector, by name, and how much of it is added; negative pushes away."""

    name: str
    coefficient: float
    version: str = ""  # which file had that name when the request began; the engine's to say


@dataclass(frozen=True, slots=True)
class ContextChunk:
    """A piece of another file, shown to the model before the document."""

    filename: str
    text: str


@dataclass(frozen=True, slots=True)
class InfillRequest:
    """Fill the gap between `prefix` and `suffix`.

    `document` is a stable identity (a URI): requests of one document share one cached sequence,
    and a newer request for it supersedes the one under way. None: a cache of no document is
    disturbed and none is kept.
    """

    prefix: str
    suffix: str
    document: str | None = None
    path: str | None = None  # shown to models trained on paths; never opened
    extra: tuple[ContextChunk, ...] = ()
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    single_line: bool = False  # stop at the first line end
    limit_scope: bool = False  # stop where the text leaves the block that the cursor is in
    ahead: bool = False  # nobody waits for it yet
    whole: bool = False  # nobody reads along: all of the text may come in the last chunk
    prompt_ms: float | None = None  # prefill budget: longer windows are cut to fit it
    deadline_ms: float | None = None  # for the whole request, from its arrival at the worker
    steering: tuple[SteeringUse, ...] = ()

    @property
    def block_line(self) -> str | None:
        """The cursor's line up to the cursor, where the text must not leave its block."""
        return self.prefix.rpartition("\n")[2] if self.limit_scope else None

    @property
    def priority(self) -> Priority:
        """Return WARM for a request that asks for no text, or for one ahead of its time."""
        return Priority.WARM if self.ahead or self.max_tokens == 0 else Priority.INLINE


class Role(StrEnum):
    """Who says a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"  # the result of a call


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON that fits its schema."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant's message
    tool_call_id: str = ""  # of a tool's message: the call it answers


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Answer a conversation.

    `session` is a stable identity, as `InfillRequest.document` is: its requests share one cached
    sequence, and a newer one supersedes the one under way.
    """

    messages: tuple[Message, ...]
    session: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or the name of a tool
    schema: dict[str, Any] | None = None  # a JSON schema that the answer must fit
    max_tokens: int = 1024
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    reasoning_effort: str = ""  # "", low, medium or high; where the model knows it
    prediction: str = ""  # a text that much of the answer will repeat, to draft from
    steering: tuple[SteeringUse, ...] = ()
    deadline_ms: float | None = None
    # The answer is empty, and its usage says how many tokens the prompt has: none is evaluated.
    count_only: bool = False

    @property
    def priority(self) -> Priority:
        """Return CHAT: inline completion goes first."""
        return Priority.CHAT


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `cached_tokens` + tokens evaluated in prefill = `prompt_tokens`, always."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds inside the worker."""

    queue_ms: float = 0.0
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the completion, whole characters only; the last one carries the end."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None  # on the last chunk
    timings: Timings | None = None  # on the last chunk
    # The entry of `stop` that ended it, on the last chunk; empty where the engine doesn't say.
    stopping_word: str = ""
    truncated: bool = False  # on the last chunk: the document has more text than was shown
    reasoning: str = ""  # what the model thinks before it answers; never part of `text`
    tool_calls: tuple[ToolCall, ...] = ()  # on the last chunk

    def after(self, earlier: Sequence[Chunk]) -> Chunk:
        """Return the one chunk that says what those before this one said, and this one."""
        if not earlier:  # each token's, while somebody reads along
            return self
        chunks = (*earlier, self)
        return replace(
            self,
            text="".join(chunk.text for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            reasoning="".join(chunk.reasoning for chunk in chunks),
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do; a `no_…_reason` says why where it cannot."""

    fim: bool
    no_fim_reason: str = ""
    family: str = ""
    context_length: int = 0
    chat: bool = False
    no_chat_reason: str = ""
    tools: bool = False  # its answers can be held to a schema
    steering: bool = False
    modulation: bool = True  # temperature and top_p can be set
    counting: bool = False  # it can say how many tokens a conversation has


class Backend(Protocol):
    """What the manager routes to: a worker, a server that it started, or an engine elsewhere."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do; fixed once it is ready."""
        ...

    @property
    def description(self) -> str:
        """What it runs, for people: model, engine, version, address. Never a key."""
        ...

    @property
    def pid(self) -> int | None:
        """The process on this machine that it runs in; None for an engine elsewhere."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of this machine that it takes at most; 0 for an engine elsewhere."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        ...

    def infill(self, request: InfillRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the text between prefix and suffix; the last chunk has `finish_reason`.

        Closing the iterator cancels the generation. Raises `backends.errors.BackendError`, and
        `NoFim` where the model cannot.
        """
        ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer to a conversation, as `infill` does.

        Raises `backends.errors.Unsupported` where the model cannot.
        """
        ...

    async def health(self) -> None:
        """Return if the backend answers; raise `backends.errors.BackendError` if it does not."""
        ...

    async def drain(self, limit: float) -> None:
        """Let requests under way finish for `limit` seconds, then cancel them."""
        ...

    async def close(self) -> None:
        """Free everything; the backend is not used again."""
        ...
