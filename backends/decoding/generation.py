"""One request on its way through the model, as a state machine without a model.

waiting → prefill (`todo` holds more than one token) → decode (one token a step) → finished.
Rule: pure but for its random generator; the scheduler feeds it logits and sends what it returns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from backends.backend import Chunk, FinishReason, InfillRequest, Timings, Usage
from backends.decoding.healing import VocabularyIndex
from backends.decoding.prefix_cache import Entry
from backends.decoding.prompting import TokenPrompt
from backends.decoding.sampling import pick
from backends.decoding.text import TextStream
from backends.decoding.token_model import Logits, TokenModel


@dataclass(slots=True)
class Generation:
    """A generation under way. `todo` are tokens to evaluate before the next one can be picked."""

    id: int
    request: InfillRequest
    prompt: TokenPrompt
    entry: Entry
    model: TokenModel
    index: VocabularyIndex
    end_tokens: frozenset[int]
    arrived: float  # time.perf_counter() seconds
    todo: list[int] = field(init=False)
    cached_tokens: int = field(init=False)
    started: float = field(init=False)
    completion_tokens: int = 0
    cancelled: bool = False
    _healed: int = 0
    _first_token: float | None = None
    _text: TextStream = field(init=False)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.cached_tokens = len(self.entry.tokens)
        self.todo = self.prompt.tokens[self.cached_tokens :]
        stops = (*self.request.stop, "\n") if self.request.single_line else self.request.stop
        self._text = TextStream(self.prompt.pending, stops)
        self._rng = np.random.default_rng(self.request.sampling.seed)

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

    def advance(self, logits: Logits) -> Chunk | None:
        """Pick the next token from the logits after the last of `todo`.

        Returns a chunk when there is something to send; the last one carries a finish reason.
        """
        if self._first_token is None:
            self._first_token = time.perf_counter()
        if self.request.max_tokens == 0:
            return self.finish(FinishReason.LENGTH)
        pending = self._text.pending
        allowed = self.index.agreeing(pending) if pending else None
        if allowed is not None and not len(allowed):
            return self.finish(FinishReason.STOP)
        token = pick(logits, self.request.sampling, self._rng, allowed)
        if token in self.end_tokens:
            return self.finish(FinishReason.STOP)
        self.completion_tokens += 1
        self.todo = [token]
        emitted = self._text.push(self.model.token_bytes(token))
        if emitted.stopped_by:
            word = emitted.stopped_by if emitted.stopped_by in self.request.stop else ""
            return self.finish(FinishReason.STOP, emitted.text, token, word)
        if self._text.pending:
            self._healed += 1  # it only repeats what the document holds: not the caller's budget
        room = self.model.context_length - len(self.entry.tokens) - 1
        if self.completion_tokens - self._healed >= self.request.max_tokens or room <= 0:
            return self.finish(FinishReason.LENGTH, emitted.text, token)
        return Chunk(emitted.text, (token,))

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        token: int | None = None,
        stopping_word: str = "",
    ) -> Chunk:
        """Return the last chunk. What was held back as a possible stop is part of the text."""
        # A generation stopped in mid-prefill has only used what it has evaluated.
        used = len(self.prompt.tokens) - (len(self.todo) if self._first_token is None else 0)
        now = time.perf_counter()
        first = self._first_token or now
        return Chunk(
            text + self._text.flush(),
            () if token is None else (token,),
            reason,
            Usage(used, self.cached_tokens, self.completion_tokens),
            Timings(
                queue_ms=(self.started - self.arrived) * 1000,
                prompt_ms=(first - self.started) * 1000,
                predicted_ms=(now - first) * 1000,
            ),
            stopping_word,
        )
