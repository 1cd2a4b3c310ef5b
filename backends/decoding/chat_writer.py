"""The answer of a chat: reasoning, text and calls, told apart as they come.

Rule: the text passes one after the other through the decoder of characters, the parting of the
reasoning, and the search for stops and for the opening of a call. From an opening on, or from the
start where one is demanded, a grammar says which tokens may come. Knows no prompt and no sequence.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backends.backend import FinishReason, Sampling
from backends.decoding.reasoning import ReasoningSplitter
from backends.decoding.sampling import pick
from backends.decoding.text import WordFinder
from backends.decoding.token_model import Logits
from backends.decoding.writing import Rest, Written

if TYPE_CHECKING:  # they import what only tools and schemas need
    from backends.decoding.constrain import Constraint
    from backends.decoding.tools import CallReader


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What an answer may be.

    A `constraint` holds from the first token of the answer, or where there is an `opening`, from
    there on. With a `reader` the constrained text is calls, not text.
    """

    sampling: Sampling
    stops: tuple[str, ...]  # the request's own, then the template's
    own_stops: int  # how many are the request's
    tags: tuple[str, str]
    thinking: bool
    constraint: Constraint | None = None
    opening: str = ""
    reader: CallReader | None = None


class ChatWriter:
    """Picks and reads the tokens of one answer."""

    def __init__(
        self,
        plan: AnswerPlan,
        token_bytes: Callable[[int], bytes],
        spoken: Mapping[int, bytes],
        end_tokens: frozenset[int],
    ) -> None:
        """Take the control tokens that are part of answers as `spoken`: their text by id."""
        self._plan = plan
        self._token_bytes = token_bytes
        self._spoken = spoken
        self._end_tokens = end_tokens - spoken.keys()
        self._rng = np.random.default_rng(plan.sampling.seed)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parts = ReasoningSplitter(plan.tags, thinking=plan.thinking)
        self._words = WordFinder((*plan.stops, plan.opening))
        self._forced = plan.constraint is not None and not plan.opening
        # The one that holds now.
        self._constraint = plan.constraint if self._forced and not plan.thinking else None
        self._blank = True  # nothing but white space was answered
        self._called = ""  # the text of calls so far
        self.tokens: list[int] = []
        self.whole = 0  # of the tokens, those up to the end of a character
        self.answer = ""  # all that was said, tags and calls included

    @property
    def draftable(self) -> bool:
        """Drafts are picked like other tokens: always."""
        return True

    def pick(self, logits: Logits) -> int | None:
        """Return the next token, None where the model ends its answer."""
        allowed = None if self._constraint is None else self._constraint.allowed()
        token = pick(logits, self._plan.sampling, self._rng, allowed)
        return None if token in self._end_tokens else token

    def push(self, token: int) -> Written:
        """Take a picked token. Raises BackendError where the grammar fails."""
        data = self._spoken.get(token)
        text = self._decoder.decode(self._token_bytes(token) if data is None else data)
        self.tokens.append(token)
        self.answer += text
        if not self._decoder.getstate()[0]:
            self.whole = len(self.tokens)
        if self._constraint is not None:
            self._constraint.consume(token)
            return self._constrained(text)
        parts = self._parts.push(text)
        if self._forced and self._parts.answering:
            written = self._begin_forced(parts.answer)
        else:
            written = self._push_answer(parts.answer)
        return replace(written, reasoning=parts.reasoning) if parts.reasoning else written

    def finish(self, reason: FinishReason) -> Rest:
        """Return what was held back, and the calls that are whole. Raises BackendError."""
        if self._constraint is None:
            parts = self._parts.flush()
            text = self._words.push(parts.answer).text + self._words.flush()
            return Rest(reason, text, parts.reasoning)
        if reason in (FinishReason.CANCELLED, FinishReason.DEADLINE):
            return Rest(reason)  # nobody is to act on it
        reader = self._plan.reader
        calls = reader.calls(self._called) if reader is not None else ()
        if calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        return Rest(reason, tool_calls=calls)

    def _push_answer(self, answer: str) -> Written:
        """Look for stops, and for the opening of a call."""
        found = self._words.push(answer)
        if not found.stopped_by:
            self._blank = self._blank and not found.text.strip()
            return Written(found.text)
        rest = self._words.flush()
        if found.stopped_by != self._plan.opening:
            own = found.stopped_by in self._plan.stops[: self._plan.own_stops]
            return Written(found.text, ended=True, stopping_word=found.stopped_by if own else "")
        constraint = self._plan.constraint
        assert constraint is not None
        # An opening that is plain JSON is one only where nothing was said before.
        first = self._blank and not found.text.strip()
        if (first or not self._plan.opening.startswith("{")) and constraint.feed(rest.encode()):
            self._constraint = constraint
            self._called = self._plan.opening + rest
            return Written(found.text, ended=constraint.complete)
        self._blank = False
        after = self._push_answer(rest)
        return replace(after, text=found.text + self._plan.opening + after.text)

    def _begin_forced(self, rest: str) -> Written:
        """The reasoning is over: what comes next must fit."""
        constraint = self._plan.constraint
        assert constraint is not None
        self._constraint = constraint
        # The token that closed the reasoning may have held the beginning of something else.
        return self._constrained(rest if constraint.feed(rest.encode()) else "")

    def _constrained(self, text: str) -> Written:
        assert self._constraint is not None
        ended = self._constraint.complete
        if self._plan.reader is None:
            return Written(text, ended=ended)
        self._called += text
        return Written(ended=ended)
