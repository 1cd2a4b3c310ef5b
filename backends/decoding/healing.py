"""Token healing: the cursor is often inside a token, where a model does badly.

The last tokens of the text before the cursor are dropped back to a safe boundary, and the first
generated tokens are constrained, byte by byte, to agree with what was dropped. Rule: works on
bytes, for every vocabulary; knows no runtime.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from backends.decoding.sampling import TokenIds

# A word and the punctuation around it never need more; what lies further left is settled.
MAX_DROPPED = 8


def split(tokens: Sequence[int], token_bytes: Callable[[int], bytes]) -> tuple[list[int], bytes]:
    """Split the tokens before the cursor into (tokens to keep, bytes to generate again).

    Drops at least one token (there is one), at most MAX_DROPPED, back to a boundary that no
    longer token could have crossed.
    """
    dropped = b""
    keep = len(tokens)
    while keep > 0 and len(tokens) - keep < MAX_DROPPED:
        keep -= 1
        dropped = token_bytes(tokens[keep]) + dropped
        left = token_bytes(tokens[keep - 1])[-1:] if keep else b""
        if not left or _is_boundary(left[0], dropped[0] if dropped else 0):
            break
    return list(tokens[:keep]), dropped


def _is_boundary(left: int, right: int) -> bool:
    """Tell whether pre-tokenizers split between these two bytes whatever follows.

    They all end a word where its letters end, a line at its newline, and begin a new piece at a
    space. Punctuation may join what follows it ("(self"), and so may a space (" self").
    """
    if _is_newline(left):
        return not _is_newline(right)
    if _is_space(right):
        return not _is_space(left)
    if _is_digit(left) or _is_digit(right):
        return _is_letter(left) or _is_letter(right)
    return _is_letter(left) and not _is_letter(right)


def _is_newline(byte: int) -> bool:
    return byte in b"\r\n"


def _is_space(byte: int) -> bool:
    return byte in b" \t\r\n\f\v"


def _is_digit(byte: int) -> bool:
    return 0x30 <= byte <= 0x39


def _is_letter(byte: int) -> bool:
    """Tell letters; bytes of multi-byte characters count, so that none is ever split."""
    return 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A or byte >= 0x80


_NONE = np.array([], dtype=np.int32)


class VocabularyIndex:
    """The vocabulary sorted by bytes, to find the tokens that agree with a byte string."""

    def __init__(self, token_bytes: Callable[[int], bytes], size: int) -> None:
        pairs = sorted((token_bytes(token), token) for token in range(size))
        # Control tokens stand for no bytes; they agree with nothing.
        pairs = [pair for pair in pairs if pair[0]]
        self._bytes = [text for text, _ in pairs]
        self._ids = np.array([token for _, token in pairs], dtype=np.int32)

    def agreeing(self, pending: bytes) -> TokenIds:
        """Return the ids of the tokens that begin with `pending` or that `pending` begins with.

        Empty only where the vocabulary lacks a byte of `pending`.
        """
        longer = self._ids[bisect_left(self._bytes, pending) : self._after(pending)]
        return np.concatenate([self.spelling(pending[:-1]), longer])

    def spelling(self, text: bytes) -> TokenIds:
        """Return the ids of the tokens that `text` begins with, or is."""
        spans = [self._span(text[:length]) for length in range(1, len(text) + 1)]
        return np.concatenate([_NONE, *(self._ids[start:end] for start, end in spans)])

    def _span(self, text: bytes) -> tuple[int, int]:
        """Return the range of tokens that are exactly `text`."""
        return bisect_left(self._bytes, text), bisect_left(self._bytes, text + b"\0")

    def _after(self, start: bytes) -> int:
        """Return the end of the range of tokens that begin with `start`."""
        bumped = start.rstrip(b"\xff")
        if not bumped:
            return len(self._bytes)
        return bisect_left(self._bytes, bumped[:-1] + bytes([bumped[-1] + 1]))
