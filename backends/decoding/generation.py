"""One request on its way through the model, as a state machine without a model.

waiting → prefill (`todo` holds more than one token) → decode (one token a step) → finished.
Rule: pure but for its random generator; the scheduler feeds it logits and sends what it returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.backend import Chunk, FinishReason, InfillRequest, Timings, Usage
from backends.decoding.copying import Copier
from backends.decoding.healing import VocabularyIndex
from backends.decoding.prefix_cache import Entry
from backends.decoding.prompting import TokenPrompt
from backends.decoding.sampling import pick
from backends.decoding.speculation import MAX_DRAFT, MAX_MATCH, Draft, Source, lookup
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
    copier: Copier | None = None
    todo: list[int] = field(init=False)
    cached_tokens: int = field(init=False)
    started: float = field(init=False)
    completion_tokens: int = 0
    held: int = 0  # how many tokens of the last draft the model agreed with
    cancelled: bool = False
    _healed: int = 0
    _first_token: float | None = None
    _text: TextStream = field(init=False)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.cached_tokens = min(len(self.entry.tokens), len(self.prompt.tokens))
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

    @property
    def to_anchor(self) -> int:
        """Return how many tokens are missing up to the last before the anchor's end.

        Not to its end: with nothing typed, the logits after the very last one are needed.
        """
        return len(self.prompt.anchored.tokens) - 1 - len(self.entry.tokens)

    def draft(self, length: Callable[[Source], int], room: int) -> Draft:
        """Guess what comes after `todo`: `length(source)` tokens, `room` at most.

        None while healing or in prefill.
        """
        if len(self.todo) != 1 or self._first_token is None or self._text.pending:
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
        finish reason when it is the last.
        """
        if self._first_token is None:
            self._first_token = time.perf_counter()
        self.held = 0
        if self.request.max_tokens == 0:
            return self.finish(FinishReason.LENGTH)
        text = ""
        tokens: list[int] = []
        for position, logits in enumerate(rows):
            picked = self._pick(logits)
            if picked is None:
                return self.finish(FinishReason.STOP, text, tokens)
            tokens.append(picked)
            healing = bool(self._text.pending)
            emitted = self._text.push(self.model.token_bytes(picked))
            text += emitted.text
            if emitted.stopped_by:
                word = emitted.stopped_by if emitted.stopped_by in self.request.stop else ""
                return self.finish(FinishReason.STOP, text, tokens, word)
            if healing and not self._text.written:
                self._healed += 1  # it repeats what the document holds: not the caller's budget
            if self._left() <= 0 or self._room() <= 0:
                return self.finish(FinishReason.LENGTH, text, tokens)
            if position >= len(draft) or draft[position] != picked:
                break
            self.held += 1
        self.todo = tokens[-1:]
        return Chunk(text, tuple(tokens))

    def _pick(self, logits: Logits) -> int | None:
        """Return the next token, None where the model ends the hole."""
        pending = self._text.pending
        allowed = self.index.agreeing(pending) if pending else None
        if allowed is not None and not len(allowed):
            return None  # the vocabulary can't spell what the document holds
        token = pick(self._with_copying(logits), self.request.sampling, self._rng, allowed)
        if token in self.end_tokens:
            return None
        self.completion_tokens += 1
        return token

    def _with_copying(self, logits: Logits) -> Logits:
        """Return the logits, those of tokens that copy from the document raised."""
        if self.copier is None:
            return logits
        ahead, bonus = self.copier.ahead(bytes(self._text.written), self._text.pending)
        if not ahead:
            return logits
        raised = logits.copy()
        raised[self.index.spelling(ahead)] += bonus
        return raised

    def _left(self) -> int:
        return self.request.max_tokens - (self.completion_tokens - self._healed)

    def _room(self) -> int:
        return self.model.context_length - len(self.prompt.tokens) - self.completion_tokens

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        tokens: Sequence[int] = (),
        stopping_word: str = "",
    ) -> Chunk:
        """Return the last chunk. What was held back as a possible stop is part of the text."""
        # A generation stopped in mid-prefill has only used what it has evaluated.
        used = len(self.prompt.tokens) - (len(self.todo) if self._first_token is None else 0)
        now = time.perf_counter()
        first = self._first_token or now
        return Chunk(
            text + self._text.flush(),
            tuple(tokens),
            reason,
            Usage(used, self.cached_tokens, self.completion_tokens),
            Timings(
                queue_ms=(self.started - self.arrived) * 1000,
                prompt_ms=(first - self.started) * 1000,
                predicted_ms=(now - first) * 1000,
            ),
            stopping_word,
            self.prompt.truncated,
        )
