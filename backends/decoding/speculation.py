"""Speculation without a draft model: guess the next tokens from what is already there.

Guesses come first from the document's previous suggestion (after typing diverges from it, most of
it is still right), then from the prompt itself, text after the cursor included. Each guess is
verified by the model in one batch, so the text never changes; only the number of steps does.
Rule: pure but for the two running averages in `DraftTuner`; knows tokens, not text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

MAX_DRAFT = 8
# The longest match is the best predictor; a single common token predicts nothing.
MAX_MATCH = 4
MATCH_LENGTHS = range(MAX_MATCH, 1, -1)
_WIDTH = 4  # bytes of a token id


def lookup(history: Sequence[int], current: Sequence[int], length: int) -> list[int]:
    """Return up to `length` tokens that followed the latest tokens of `current` in `history`.

    The longest match wins, of those the last one. Empty where nothing matches.
    """
    haystack = _pack(history)
    for size in MATCH_LENGTHS:
        if len(current) < size:
            continue
        position = _last(haystack, _pack(current[-size:]))
        if position >= 0:
            found = list(history[position + size : position + size + length])
            if found:
                return found
    return []


def _pack(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int32).tobytes()


def _last(haystack: bytes, needle: bytes) -> int:
    """Return the last token position of `needle` that has something after it, -1 for none."""
    end = len(haystack) - _WIDTH
    while (position := haystack.rfind(needle, 0, end)) >= 0:
        if position % _WIDTH == 0:
            return position // _WIDTH
        end = position + len(needle) - 1
    return -1


class Source(Enum):
    """Where a draft comes from. What was suggested a key ago holds far more often."""

    PREVIOUS = "previous suggestion"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next."""

    source: Source = Source.PROMPT
    tokens: list[int] = field(default_factory=list)


class DraftTuner:
    """Chooses how many tokens to draft from how often drafts hold and what a wider step costs."""

    def __init__(self) -> None:
        self._acceptance = dict.fromkeys(Source, 0.5)  # share of drafted tokens that held
        self._costs: dict[int, float] = {}  # seconds of a step, by its tokens

    def measured(self, tokens: int, seconds: float) -> None:
        """Note what a decode step of `tokens` tokens took."""
        if tokens <= MAX_DRAFT + 1:
            known = self._costs.get(tokens, seconds)
            self._costs[tokens] = known + 0.2 * (seconds - known)

    def verified(self, source: Source, drafted: int, held: int) -> None:
        """Note that the first `held` of `drafted` tokens were what the model would say."""
        # What follows the first wrong token was never tested.
        for right in [1.0] * held + [0.0] * (held < drafted):
            self._acceptance[source] += 0.1 * (right - self._acceptance[source])

    def length(self, source: Source) -> int:
        """Return the draft length with the most expected tokens for the time; 0 = don't draft."""
        single = self._costs.get(1)
        if single is None:
            return 0
        acceptance = self._acceptance[source]
        rates = [
            _expected(acceptance, drafted) / self._cost(1 + drafted, single)
            for drafted in range(MAX_DRAFT + 1)
        ]
        best = int(np.argmax(rates))
        if best == 0:
            # What is never tried can't be seen to hold again.
            self._acceptance[source] += 0.01 * (0.5 - acceptance)
        return best

    def _cost(self, tokens: int, single: float) -> float:
        """Return a step's measured cost; unmeasured widths get a guess that invites a try."""
        guess = single * (1 + 0.2 * (tokens - 1))
        return self._costs.get(tokens, guess)


def _expected(acceptance: float, drafted: int) -> float:
    """Return the tokens a step yields: the accepted run and the model's own next one."""
    return float(sum(acceptance**held for held in range(drafted + 1)))
