"""How the requests for suggestions were answered in this session, counted.

Rule: counts only; nothing of a document is in it. Knows no pygls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from lsp_server.suggestion_cache import Source


class Purpose(StrEnum):
    """What the manager was asked for."""

    KEY = "evaluated"  # a suggestion where the user types
    BY_HAND = "byHand"  # a code action
    AHEAD = "ahead"  # a suggestion that nobody had asked for yet
    WARM = "warm"  # no text, only the prompt's evaluation


class Stats:
    """Keys answered with no evaluation, by where the answer came from, and requests made."""

    def __init__(self) -> None:
        self._known: Counter[Source] = Counter()
        self._requests: Counter[Purpose] = Counter()
        self._tokens: Counter[Purpose] = Counter()
        self._engine_us: Counter[Purpose] = Counter()

    def known(self, source: Source) -> None:
        """Count a request that the suggestion cache answered."""
        self._known[source] += 1

    def evaluated(self, answer: Mapping[str, object], purpose: Purpose) -> None:
        """Count a request that the manager answered, its tokens not cached, its engine time."""
        self._requests[purpose] += 1
        usage, timings = answer.get("usage"), answer.get("timings")
        if isinstance(usage, Mapping):
            self._tokens[purpose] += usage.get("prompt_tokens", 0) - usage.get("cached_tokens", 0)
        if isinstance(timings, Mapping):
            parts = ("queue_ms", "prompt_ms", "predicted_ms")
            self._engine_us[purpose] += round(sum(timings.get(part, 0) for part in parts) * 1000)

    def as_json(self) -> dict[str, int]:
        """Return the counts under their names on the wire: `evaluated`, `evaluatedTokens` ..."""
        return {
            **{source.value: self._known[source] for source in Source},
            **{purpose.value: self._requests[purpose] for purpose in Purpose},
            **{f"{purpose}Tokens": self._tokens[purpose] for purpose in Purpose},
            **{f"{purpose}EngineUs": self._engine_us[purpose] for purpose in Purpose},
        }
