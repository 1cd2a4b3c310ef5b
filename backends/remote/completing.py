"""One fill-in-the-middle request at an endpoint: from the prompt to the last chunk.

Rule: the way from a key to its suggestion, so plain HTTP and no library in between. Must not know
other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec

from backends.backend import Chunk, FinishReason, InfillRequest, Usage
from backends.errors import BadRequest, RemoteError, RemoteProtocolError, RemoteTimeout
from backends.remote import wire
from backends.remote.answer import AnswerText, Disagreement
from backends.remote.clock import Clock
from backends.remote.flights import Flight
from backends.remote.lines import Events
from backends.remote.overflow import ContextExceeded
from backends.remote.probe import Probed
from backends.remote.profiles import Healing, Shape, Way
from backends.remote.prompting import Outgoing, Prompter
from backends.remote.retries import Policy, repeated
from backends.remote.transport import Connection

logger = logging.getLogger(__name__)

USAGE_WAIT = 1.0  # seconds after an answer's end


@dataclass(slots=True)
class PrefillRate:
    """Tokens per second that the engine evaluates, as it said last; 0 while it has not."""

    value: float = 0.0


class Completing:
    """Sends completions to one endpoint."""

    def __init__(self, connection: Connection, probed: Probed, prompter: Prompter) -> None:
        self.rate = PrefillRate()
        self._connection = connection
        self._probed = probed
        self._prompter = prompter
        options = connection.options
        self._policy = Policy(options.retries, options.pause, waits=False)
        template, tokenizer = probed.template, probed.tokenizer
        self._end_texts = template.stop_tokens if template else ()
        control = tokenizer.control if tokenizer else {}
        self._end_tokens = frozenset(control[t] for t in self._end_texts if t in control)

    async def stream(
        self,
        flight: Flight,
        request: InfillRequest,
        window: int,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the completion's chunks, `window` tokens of the document being shown.

        `fields` and `headers` go along. Raises MidspanError.
        """
        options = self._connection.options
        try:
            async with asyncio.timeout(options.first_token) as patience:
                outgoing = await self._prompt(request, window)
                began = again = False
                while True:
                    answer = self._answer(flight, request, outgoing, fields, headers)
                    try:
                        async with aclosing(answer):
                            async for chunk in answer:
                                patience.reschedule(None)  # from here on, `silence` is the limit
                                began = True
                                yield chunk
                        return
                    except ContextExceeded as exc:
                        self._prompter.learn(exc.length, outgoing)
                        if began or again:
                            raise _too_long(exc) from exc
                        logger.info("a prompt was too long: %s", exc)
                        outgoing, again = await self._prompt(request, window), True
                    except Disagreement:
                        if (
                            self._probed.profile.healing is not Healing.AGREE
                            or not outgoing.pending
                        ):
                            break
                        outgoing = replace(outgoing, prompt=outgoing.whole, pending="", dropped=0)
        except TimeoutError as exc:
            raise RemoteTimeout(
                f"{self._connection.endpoint.root} sent no token within "
                f"{options.first_token:.0f} s (timeout_s)."
            ) from exc
        # The model would have typed something else: there is nothing to suggest.
        yield Chunk("", finish_reason=FinishReason.STOP, usage=flight.usage)

    async def _prompt(self, request: InfillRequest, window: int) -> Outgoing:
        outgoing = await repeated(lambda: self._prompter.prompt(request, window), self._policy)
        if request.max_tokens == 0:  # nothing is read of the answer
            outgoing = replace(outgoing, pending="", dropped=0)
        return outgoing

    async def _answer(
        self,
        flight: Flight,
        request: InfillRequest,
        outgoing: Outgoing,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of one HTTP request. Raises Disagreement or MidspanError."""
        stops = (*request.stop, "\n") if request.single_line else request.stop
        if self._probed.profile.way is Way.TEXT:
            stops += self._end_texts
        text = AnswerText(outgoing.pending, stops, request.block_line)
        clock = Clock()
        over = False  # an end token came; most engines end there themselves
        async with aclosing(self._events(request, outgoing, stops, fields, headers)) as events:
            async for event in events:
                flight.usage = event.usage or _counted(flight.usage, event)
                self.rate.value = event.prefill_rate or self.rate.value
                emitted = text.push("" if over else event.text)
                if event.text:
                    clock.began()
                ended = event.finish
                word = event.stopping_word
                if emitted.stopped_by:
                    ended, word = FinishReason.STOP, emitted.stopped_by
                elif over:
                    ended = ended or FinishReason.STOP
                over = over or not self._end_tokens.isdisjoint(event.token_ids)
                shown = emitted.text
                if ended is None:
                    if shown and request.max_tokens:
                        yield Chunk(shown, event.token_ids)
                    continue
                if not emitted.stopped_by:
                    shown += text.flush()
                if request.max_tokens == 0:
                    shown, ended = "", FinishReason.LENGTH
                yield Chunk(
                    shown,
                    event.token_ids,
                    ended,
                    await _last_usage(events, event, flight.usage),
                    event.timings or clock.timings(),
                    word if word in request.stop else "",
                    outgoing.truncated or event.truncated,
                )
                return
        raise RemoteProtocolError(
            f"{self._connection.endpoint.root} ended its answer before the end."
        )

    async def _events(
        self,
        request: InfillRequest,
        outgoing: Outgoing,
        stops: tuple[str, ...],
        fields: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> AsyncGenerator[wire.Event, None]:
        profile, model = self._probed.profile, self._probed.model
        fitting = replace(request, max_tokens=self._prompter.room(outgoing, request.max_tokens))
        context = self._probed.context_wanted
        body = wire.body(profile, model, outgoing, fitting, stops, context)
        data = msgspec.json.encode(body | dict(fields))
        response = await repeated(
            lambda: self._connection.open(profile.path, data, headers), self._policy
        )
        decoder = Events(plain=profile.shape is Shape.OLLAMA)
        async with aclosing(self._connection.read(response)) as pieces:
            async for piece in pieces:
                for event in decoder.push(piece):
                    if event.get("error"):
                        raise self._connection.complaint(event)
                    yield wire.read(profile.shape, event)


def _too_long(error: ContextExceeded) -> BadRequest:
    return BadRequest(
        f"{error} Set the model's context_length to what its server was started with, or start "
        "the server with a longer context."
    )


def _counted(usage: Usage, event: wire.Event) -> Usage:
    return replace(usage, completion_tokens=usage.completion_tokens + len(event.token_ids))


async def _last_usage(events: AsyncIterator[wire.Event], last: wire.Event, known: Usage) -> Usage:
    """Return the usage, which OpenAI-style streams send after the end, if the engine ended it."""
    if last.finish is None or last.usage is not None:
        return known
    # The answer is there: whatever goes wrong now costs no more than the counts.
    with contextlib.suppress(TimeoutError, RemoteError):
        async with asyncio.timeout(USAGE_WAIT):
            async for event in events:
                if event.usage is not None:
                    return event.usage
    return known
