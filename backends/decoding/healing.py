"""Token healing: the cursor is often inside a token, where a model does badly.

The last tokens of the text before the cursor are dropped back to a safe boundary, and the first
generated tokens are constrained, byte by byte, to agree with what was dropped. Rule: works on
bytes, for every vocabulary; knows no runtime.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from backends.decoding.boundaries import MAX_DROPPED, split
from backends.decoding.sampling import TokenIds

__all__ = ["MAX_DROPPED", "VocabularyIndex", "split"]


class VocabularyIndex:
    """The vocabulary sorted by bytes, to find the tokens that agree with a byte string."""

    def __init__(self, token_bytes: Callable[[int], bytes], size: int) -> None:
        pairs = sorted((token_bytes(token), token) for token in range(size))
        # Control tokens stand for no bytes; they agree with nothing.
        pairs = [pair for pair in pairs if pair[0]]
        self._bytes = [text for text, _ in pairs]
        self._ids = np.array([token for _, token in pairs], dtype=np.int32)
        self._spelled: dict[bytes, list[int]] = {}
        for text, token in pairs:
            self._spelled.setdefault(text, []).append(token)
        self._longest = max(map(len, self._bytes), default=0)

    def agreeing(self, pending: bytes) -> TokenIds:
        """Return the ids of the tokens that begin with `pending` or that `pending` begins with.

        Empty only where the vocabulary lacks a byte of `pending`.
        """
        longer = self._ids[bisect_left(self._bytes, pending) : self._after(pending)]
        return np.concatenate([self.spelling(pending[:-1]), longer])

    def spelling(self, text: bytes) -> TokenIds:
        """Return the ids of the tokens that `text` begins with, or is."""
        found: list[int] = []
        for length in range(1, min(len(text), self._longest) + 1):
            found += self._spelled.get(text[:length], ())
        return np.array(found, dtype=np.int32)

    def _after(self, start: bytes) -> int:
        """Return the end of the range of tokens that begin with `start`."""
        bumped = start.rstrip(b"\xff")
        if not bumped:
            return len(self._bytes)
        return bisect_left(self._bytes, bumped[:-1] + bytes([bumped[-1] + 1]))
