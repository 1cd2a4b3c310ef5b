"""How the requests for suggestions were answered in this session, counted.

Rule: counts only; nothing of a document is in it. Knows no pygls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lsp_server.suggestion_cache import Source


class Stats:
    """Requests answered with no evaluation, by where the answer came from, and evaluated ones."""

    def __init__(self) -> None:
        self._known: Counter[Source] = Counter()
        self._evaluated: Counter[bool] = Counter()  # requests to the manager; True: made ahead
        self._tokens: Counter[bool] = Counter()  # that the model evaluated or generated for them

    def known(self, source: Source) -> None:
        """Count a request that the suggestion cache answered."""
        self._known[source] += 1

    def evaluated(self, answer: Mapping[str, object], *, ahead: bool) -> None:
        """Count a request that the manager answered; `ahead`: nobody had asked for it yet."""
        self._evaluated[ahead] += 1
        usage = answer.get("usage")
        if isinstance(usage, Mapping):
            cached = usage.get("cached_tokens", 0)
            prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
            self._tokens[ahead] += prompt - cached + completion

    def as_json(self) -> dict[str, int]:
        """Return the counts under their names on the wire."""
        return {
            **{source.value: self._known[source] for source in Source},
            "evaluated": self._evaluated[False],
            "evaluatedTokens": self._tokens[False],
            "ahead": self._evaluated[True],
            "aheadTokens": self._tokens[True],
        }
