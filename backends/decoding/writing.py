"""What a generation writes: which token comes next, and what the tokens say.

One `Writer` per request. `InfillWriter` fills a gap in a document; the answers of a chat have
their own (`chat_writer.py`). Rule: knows logits and text, not sequences, limits or time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backends.backend import FinishReason, InfillRequest, ToolCall
from backends.decoding.copying import Copier
from backends.decoding.healing import VocabularyIndex
from backends.decoding.sampling import pick
from backends.decoding.text import TextStream
from backends.decoding.token_model import Logits


@dataclass(frozen=True, slots=True)
class Written:
    """What one token added."""

    text: str = ""
    reasoning: str = ""
    ended: bool = False  # a stop rule, or a grammar that is complete
    stopping_word: str = ""  # the request's own stop that ended it
    free: bool = False  # it repeats what the document holds: not of the caller's budget


@dataclass(frozen=True, slots=True)
class Rest:
    """What is told with the end: text that was held back, and calls."""

    reason: FinishReason
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Writer(Protocol):
    """Picks and reads the tokens of one generation."""

    @property
    def draftable(self) -> bool:
        """Whether the next tokens may be guessed."""
        ...

    def pick(self, logits: Logits) -> int | None:
        """Return the next token, None where the model ends the text. Raises MidspanError."""
        ...

    def push(self, token: int) -> Written:
        """Take a picked token. Raises MidspanError."""
        ...

    def finish(self, reason: FinishReason) -> Rest:
        """End it, for `reason`; the rest may have a better one."""
        ...


class InfillWriter:
    """The text between a prefix and a suffix."""

    def __init__(
        self,
        request: InfillRequest,
        pending: bytes,
        token_bytes: Callable[[int], bytes],
        index: VocabularyIndex,
        end_tokens: frozenset[int],
        copier: Copier | None,
    ) -> None:
        """Take the bytes to generate again (token healing) as `pending`."""
        self._request = request
        self._token_bytes = token_bytes
        self._index = index
        self._end_tokens = end_tokens
        self._copier = copier
        stops = (*request.stop, "\n") if request.single_line else request.stop
        self._text = TextStream(pending, stops, request.block_line)
        self._rng = np.random.default_rng(request.sampling.seed)

    @property
    def draftable(self) -> bool:
        """Return False while healing: only few tokens agree with what was typed."""
        return not self._text.pending

    def pick(self, logits: Logits) -> int | None:
        """Return the next token, None where the model ends the hole."""
        pending = self._text.pending
        allowed = self._index.agreeing(pending) if pending else None
        if allowed is not None and not len(allowed):
            return None  # the vocabulary can't spell what the document holds
        token = pick(self._with_copying(logits), self._request.sampling, self._rng, allowed)
        return None if token in self._end_tokens else token

    def push(self, token: int) -> Written:
        """Take a picked token."""
        healing = bool(self._text.pending)
        emitted = self._text.push(self._token_bytes(token))
        word = emitted.stopped_by if emitted.stopped_by in self._request.stop else ""
        return Written(
            emitted.text,
            ended=bool(emitted.stopped_by),
            stopping_word=word,
            free=healing and not self._text.written,
        )

    def finish(self, reason: FinishReason) -> Rest:
        """What was held back as a possible stop is part of the text."""
        return Rest(reason, self._text.flush())

    def _with_copying(self, logits: Logits) -> Logits:
        """Return the logits, those of tokens that copy from the document raised."""
        if self._copier is None:
            return logits
        ahead, bonus = self._copier.ahead(bytes(self._text.written), self._text.pending)
        if not ahead:
            return logits
        raised = logits.copy()
        raised[self._index.spelling(ahead)] += bonus
        return raised
