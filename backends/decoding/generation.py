"""One request on its way through the model, as a state machine without a model.

waiting → prefill (`todo` holds more than one token) → decode (one token a step) → finished.
Rule: counts tokens and time, and leaves what they say to its writer; the scheduler feeds it logits
and sends what it returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backends.backend import ChatRequest, Chunk, FinishReason, InfillRequest, Timings, Usage
from backends.decoding.prefix_cache import Entry
from backends.decoding.speculation import MAX_DRAFT, MAX_MATCH, Draft, Source, lookup
from backends.decoding.token_model import Logits
from backends.decoding.writing import Writer, Written

Request = InfillRequest | ChatRequest


class Prompt(Protocol):
    """What a generation needs to know of its prompt."""

    @property
    def tokens(self) -> list[int]:
        """All of it."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether the document has more text than is shown."""
        ...

    @property
    def mark_at(self) -> int:
        """The length at which a model that can't be trimmed is to be marked."""
        ...


@dataclass(slots=True)
class Generation:
    """A generation under way. `todo` are tokens to evaluate before the next one can be picked."""

    id: int
    request: Request
    prompt: Prompt
    entry: Entry
    writer: Writer
    context_length: int
    arrived: float  # time.perf_counter() seconds
    todo: list[int] = field(init=False)
    cached_tokens: int = field(init=False)
    started: float = field(init=False)
    completion_tokens: int = 0
    held: int = 0  # how many tokens of the last draft the model agreed with
    cancelled: bool = False
    _free: int = 0
    _first_token: float | None = None

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.cached_tokens = min(len(self.entry.tokens), len(self.prompt.tokens))
        self.todo = self.prompt.tokens[self.cached_tokens :]

    @property
    def deadline(self) -> float:
        """Return when the request's time is up, in time.perf_counter() seconds."""
        limit = self.request.deadline_ms
        return float("inf") if limit is None else self.arrived + limit / 1000

    def interrupted(self, now: float) -> FinishReason | None:
        """Return why the generation must stop at once, if it must."""
        if self.cancelled:
            return FinishReason.CANCELLED
        return FinishReason.DEADLINE if now >= self.deadline else None

    def evaluated(self, n: int) -> None:
        """Note that the first `n` tokens of `todo` are in the cache."""
        del self.todo[:n]

    @property
    def to_mark(self) -> int:
        """Return how many tokens are missing up to where a recurrent model is marked."""
        return self.prompt.mark_at - len(self.entry.tokens)

    def draft(self, length: Callable[[Source], int], room: int) -> Draft:
        """Guess what comes after `todo`: `length(source)` tokens, `room` at most.

        None while healing or in prefill.
        """
        if len(self.todo) != 1 or self._first_token is None or not self.writer.draftable:
            return Draft()
        room = min(room, self._left() - 1, self._room() - 1)
        current = [*self.entry.tokens[-MAX_MATCH:], *self.todo]
        for source, history in (
            (Source.PREVIOUS, self.entry.previous),
            (Source.PROMPT, self.entry.tokens),
        ):
            found = lookup(history, current, MAX_DRAFT) if room > 0 else []
            if found:
                return Draft(source, found[: min(room, length(source))])
        return Draft()

    def remember(self) -> None:
        """Leave what was generated to the entry, for the next request to draft from."""
        ahead = min(self.completion_tokens + MAX_MATCH, len(self.entry.tokens))
        self.entry.previous = [*self.entry.tokens[len(self.entry.tokens) - ahead :], *self.todo]

    def advance(self, rows: Sequence[Logits], draft: Sequence[int] = ()) -> Chunk:
        """Pick the next token from the logits after the last of `todo`.

        With a draft, `rows` goes on with the logits after each of its tokens, and picking goes on
        as long as the draft says the same; `held` is how much of it did. The chunk carries a
        finish reason when it is the last. Raises MidspanError, which ends the generation.
        """
        if self._first_token is None:
            self._first_token = time.perf_counter()
        self.held = 0
        if self.request.max_tokens == 0:
            return self.finish(FinishReason.LENGTH)
        said: list[Written] = []
        tokens: list[int] = []
        for position, logits in enumerate(rows):
            picked = self.writer.pick(logits)
            if picked is None:
                return self.finish(FinishReason.STOP, said, tokens)
            tokens.append(picked)
            self.completion_tokens += 1
            written = self.writer.push(picked)
            said.append(written)
            if written.ended:
                return self.finish(FinishReason.STOP, said, tokens)
            self._free += written.free
            if self._left() <= 0 or self._room() <= 0:
                return self.finish(FinishReason.LENGTH, said, tokens)
            if position >= len(draft) or draft[position] != picked:
                break
            self.held += 1
        self.todo = tokens[-1:]
        return Chunk(_text(said), tuple(tokens), reasoning=_reasoning(said))

    def _left(self) -> int:
        return self.request.max_tokens - (self.completion_tokens - self._free)

    def _room(self) -> int:
        return self.context_length - len(self.prompt.tokens) - self.completion_tokens

    def finish(
        self, reason: FinishReason, said: Sequence[Written] = (), tokens: Sequence[int] = ()
    ) -> Chunk:
        """Return the last chunk: what was `said` since the one before, and the writer's rest."""
        # A generation stopped in mid-prefill has only used what it has evaluated.
        used = len(self.prompt.tokens) - (len(self.todo) if self._first_token is None else 0)
        now = time.perf_counter()
        first = self._first_token or now
        rest = self.writer.finish(reason)
        return Chunk(
            _text(said) + rest.text,
            tuple(tokens),
            rest.reason,
            Usage(used, self.cached_tokens, self.completion_tokens),
            Timings(
                queue_ms=(self.started - self.arrived) * 1000,
                prompt_ms=(first - self.started) * 1000,
                predicted_ms=(now - first) * 1000,
            ),
            said[-1].stopping_word if said else "",
            self.prompt.truncated,
            _reasoning(said) + rest.reasoning,
            rest.tool_calls,
        )


def _text(said: Sequence[Written]) -> str:
    return "".join(written.text for written in said)


def _reasoning(said: Sequence[Written]) -> str:
    return "".join(written.reasoning for written in said)
