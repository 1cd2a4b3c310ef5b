"""One conversation's answer at an endpoint, through the `openai` package.

Rule: the package speaks through our guarded connection alone, with everything given that it would
otherwise take from the environment. Must not know other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from backends.backend import ChatRequest, Chunk, FinishReason, ToolCall
from backends.decoding.reasoning import Parted, ReasoningSplitter
from backends.errors import (
    BadRequest,
    EngineMissing,
    MidspanError,
    RemoteProtocolError,
    RemoteRefused,
    RemoteTimeout,
)
from backends.remote import conversation, forced, wire
from backends.remote.answer import AnswerText
from backends.remote.clock import Clock
from backends.remote.flights import Flight
from backends.remote.overflow import ContextExceeded
from backends.remote.probe import Probed
from backends.remote.retries import Policy, repeated
from backends.remote.transport import STREAM_TYPES, Connection
from fim.templates import normalise

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk
    from openai.types.chat.chat_completion_chunk import ChoiceDelta

logger = logging.getLogger(__name__)

REASONING_TAGS = ("<think>", "</think>")
MIN_ANSWER = 16  # tokens; less is no answer worth having
# Engines that part the reasoning themselves call it one of these.
REASONING_FIELDS = ("reasoning_content", "reasoning")
# Models whose template opens the reasoning itself, so that the answer only closes it.
_OPENED = re.compile(r"(?:^|-)(?:deepseek-r1|qwq|thinking)(?:-|$)")


class Chatting:
    """Sends conversations to one endpoint."""

    def __init__(self, connection: Connection, probed: Probed, effort: str) -> None:
        self._connection = connection
        self._probed = probed
        self._effort = effort
        options = connection.options
        self._policy = Policy(options.retries, options.pause, options.first_token)
        self._client: AsyncOpenAI | None = None
        self._predicts = True

    async def stream(
        self,
        flight: Flight,
        request: ChatRequest,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the answer's chunks. Raises MidspanError."""
        options = self._connection.options
        client = await self._made()
        begin = partial(self._begun, client, fields, dict(headers))
        answer = _Answer(self._probed, request)
        try:
            async with asyncio.timeout(options.first_token) as patience:
                stream = await self._asked(request, begin)
                async with stream:
                    async for chunk in self._chunks(stream):
                        patience.reschedule(None)
                        flight.usage = wire.usage(_dumped(chunk.usage)) or flight.usage
                        for made in answer.push(chunk):
                            yield made
                        if answer.stopped_by:
                            break
                    if answer.finish is None:
                        raise RemoteProtocolError(
                            f"{self._connection.endpoint.root} ended its answer before the end."
                        )
                    yield answer.last(flight)
        except ContextExceeded as exc:
            raise _too_long(exc) from exc
        except TimeoutError as exc:
            raise RemoteTimeout(
                f"{self._connection.endpoint.root} sent no token within "
                f"{options.first_token:.0f} s (timeout_s)."
            ) from exc

    async def _made(self) -> AsyncOpenAI:
        if self._client is None:
            try:
                # It takes most of a second: inline completion goes on meanwhile.
                openai = await asyncio.to_thread(importlib.import_module, "openai")
            except ImportError as exc:
                raise EngineMissing(
                    "Chat with remote engines needs the openai package: "
                    "pip install 'midspan[remote]'."
                ) from exc
            self._client = openai.AsyncOpenAI(
                api_key="set by the connection",
                base_url=self._connection.endpoint.url(self._probed.profile.chat),
                organization="",
                project="",
                webhook_secret="",
                max_retries=0,
                http_client=self._connection.client,
                timeout=self._connection.client.timeout,
            )
        return self._client

    async def _asked(
        self,
        request: ChatRequest,
        begin: Callable[[ChatRequest], Awaitable[AsyncStream[ChatCompletionChunk]]],
    ) -> AsyncStream[ChatCompletionChunk]:
        """Return the stream; without the prediction, which few models take, where it is refused."""
        plain = replace(request, prediction="")
        if not (self._predicts and conversation.predicts(self._probed.profile, request)):
            return await begin(plain)
        try:
            return await begin(request)
        except ContextExceeded:
            raise
        except RemoteRefused as exc:
            logger.info("asked again without a prediction: %s", exc)
            stream = await begin(plain)
            self._predicts = False  # only now is it known that this was the reason
            return stream

    async def _begun(
        self,
        client: AsyncOpenAI,
        fields: Mapping[str, str],
        headers: dict[str, str],
        request: ChatRequest,
    ) -> AsyncStream[ChatCompletionChunk]:
        """Return the stream, with a shorter answer where a longer one would not fit."""
        profile = self._probed.profile
        body, extra = conversation.arguments(profile, self._probed.model, request, self._effort)
        extra |= fields
        try:
            return await repeated(lambda: self._open(client, body, extra, headers), self._policy)
        except ContextExceeded as exc:
            room = exc.length - exc.prompt
            if not exc.prompt or room < MIN_ANSWER:
                raise
        shorter = {**body, profile.chat_limit_field: room}
        return await repeated(lambda: self._open(client, shorter, extra, headers), self._policy)

    async def _open(
        self,
        client: AsyncOpenAI,
        body: dict[str, Any],
        extra: dict[str, Any],
        headers: dict[str, str],
    ) -> AsyncStream[ChatCompletionChunk]:
        with self._failures(began=False):
            stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
                **body, extra_body=extra or None, extra_headers=headers
            )
            sent = stream.response.headers
            if not sent.get("Content-Type", "").startswith(STREAM_TYPES):
                await stream.close()
                raise self._connection.no_answer(sent)
            return stream

    async def _chunks(
        self, stream: AsyncStream[ChatCompletionChunk]
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        with self._failures(began=True):
            async for chunk in stream:
                yield chunk

    @contextlib.contextmanager
    def _failures(self, *, began: bool) -> Iterator[None]:
        """Turn the package's errors into ours."""
        import openai

        try:
            with self._connection.failures(began=began):
                yield
        except openai.APIStatusError as exc:
            response = exc.response
            raise self._connection.failure(
                response.status_code, response.headers, response.content
            ) from None
        except openai.APIConnectionError as exc:
            cause = exc.__cause__
            if isinstance(cause, MidspanError):
                raise cause from None
            with self._connection.failures(began=began):
                raise cause or exc from None
        except openai.APIError as exc:  # the stream holds an error
            raise self._connection.complaint({"message": exc.message}) from None
        except UnicodeDecodeError as exc:
            raise RemoteProtocolError("The endpoint sent bytes that are no UTF-8.") from exc
        except (ValueError, RecursionError) as exc:
            raise RemoteProtocolError("The endpoint sent something that is no JSON.") from exc


class _Answer:
    """An answer as it arrives: reasoning, text and calls apart, ended by the stops."""

    def __init__(self, probed: Probed, request: ChatRequest) -> None:
        self.finish: FinishReason | None = None
        self.stopped_by = ""
        self._request = request
        self._held = bool(conversation.held_to(probed.profile, request))
        self._text = AnswerText("", () if self._held else request.stop)
        self._opened = bool(_OPENED.search(normalise(probed.model)))
        self._reasoning: ReasoningSplitter | None = None
        self._calls = conversation.Calls(request.tools)
        self._whole: list[str] = []  # the text, where a schema wants it checked
        self._clock = Clock()

    def push(self, chunk: ChatCompletionChunk) -> Iterator[Chunk]:
        """Yield what a chunk of the stream settles."""
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        thought = _thought(choice.delta)
        parted = self._parted(choice.delta.content or "", thought)
        for call in choice.delta.tool_calls or ():
            said = call.function
            self._calls.push(
                call.index,
                call.id or "",
                (said.name or "") if said else "",
                (said.arguments or "") if said else "",
            )
        emitted = self._text.push(parted.answer)
        if emitted.stopped_by:
            self.stopped_by, self.finish = emitted.stopped_by, FinishReason.STOP
        elif choice.finish_reason:
            self.finish = wire.FINISHES.get(choice.finish_reason, FinishReason.STOP)
        if emitted.text or thought or parted.reasoning:
            self._clock.began()
            self._whole.append(emitted.text)
            shown, thoughts = "" if self._held else emitted.text, thought + parted.reasoning
            if shown or thoughts:
                yield Chunk(shown, reasoning=thoughts)

    def _parted(self, text: str, thought: str) -> Parted:
        self._opened = self._opened and not thought  # the engine parts it
        if not text:
            return Parted()
        if self._reasoning is None:
            self._reasoning = ReasoningSplitter(REASONING_TAGS, thinking=self._opened)
        return self._reasoning.push(text)

    def last(self, flight: Flight) -> Chunk:
        """Return the last chunk. Raises RemoteProtocolError where the answer does not fit."""
        rest = self._reasoning.flush() if self._reasoning else Parted()
        text = "" if self.stopped_by else self._text.push(rest.answer).text + self._text.flush()
        calls = self._checked_calls("".join(self._whole) + text)
        finish = FinishReason.TOOL_CALLS if calls else self.finish
        return Chunk(
            "" if self._held else text,
            finish_reason=finish,
            usage=flight.usage,
            timings=self._clock.timings(),
            stopping_word=self.stopped_by,
            reasoning=rest.reasoning,
            tool_calls=calls,
        )

    def _checked_calls(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that were made; an answer that was cut off makes none.

        Raises RemoteProtocolError where a call was demanded, or a schema, and is not there.
        """
        if self.finish is FinishReason.LENGTH:
            return ()
        calls = self._calls.finished()
        if calls:
            return calls
        if self._held:
            self._calls.push(0, "", *forced.read(text))
            return self._calls.finished()
        if conversation.demanded(self._request):
            raise RemoteProtocolError(
                "The endpoint's model called no function, though the tool choice demands a call."
            )
        if self._request.schema is not None and self.finish is FinishReason.STOP:
            conversation.check_text(text, self._request.schema)
        return ()


def _too_long(error: ContextExceeded) -> BadRequest:
    return BadRequest(
        f"{error} Begin a new conversation, show less of it, or start the server with a longer "
        "context."
    )


def _thought(delta: ChoiceDelta) -> str:
    extra = delta.model_extra or {}
    found = (extra[name] for name in REASONING_FIELDS if isinstance(extra.get(name), str))
    return next(found, "")


def _dumped(usage: Any) -> Any:
    return None if usage is None else usage.model_dump()
