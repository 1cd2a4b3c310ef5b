"""Copying from the document: a small model's memory of the file it is in.

A model of a few million parameters knows little, and most of what it is asked for stands elsewhere
in the same file. Where the text before the cursor has occurred before, what followed it there is
made more likely, the more the longer the match. (The idea is the cache of cache language models,
Grave et al. 2017, arXiv 1612.04426, and of prompt lookup.) It sees the whole text that the request
brings, also what the prompt had no room for. Rule: pure; a bonus on logits, never a ban, and the
same for cached and cold prompts. Larger models copy by themselves, and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bytes of context to look for, longest first.
MATCHES = (64, 48, 32, 24, 16, 12, 8, 6, 5, 4, 3)
SMALL_MODEL_BYTES = 64 * 1024 * 1024
AHEAD = 24  # bytes after the match that a token may spell


@dataclass(frozen=True, slots=True)
class CopyWeights:
    """The bonus, in nats, of a token that goes on as the text did after a match of `n` bytes.

    `slope` × (n - `least` + 1), at most `most`. The defaults were tuned on idlelib and turtledemo,
    which the starter model is neither trained nor measured on (`training/tune_copying.py`).
    """

    slope: float = 0.7
    least: int = 3
    most: float = 16.0

    def bonus(self, matched: int) -> float:
        """Return the bonus for a match of `matched` bytes, 0 below `least`."""
        return max(0.0, min(self.most, self.slope * (matched - self.least + 1)))


class Copier:
    """Finds what followed the text so far elsewhere in the document."""

    def __init__(self, prefix: str, suffix: str, weights: CopyWeights) -> None:
        self._weights = weights
        self._before = prefix.encode("utf-8", "replace")
        self._after = suffix.encode("utf-8", "replace")

    def ahead(self, written: bytes, pending: bytes) -> tuple[bytes, float]:
        """Return the bytes that probably come next, and the bonus of a token that agrees.

        `written` are the bytes generated after the cursor. `pending` bytes (token healing) stand
        before the cursor and are yet to be generated again: what comes next begins with them.
        """
        context = self._before[-MATCHES[0] :] + written
        for size in MATCHES:
            bonus = self._weights.bonus(size)
            if size > len(context) or not bonus:
                continue
            found = self._following(context[-size:])
            if found:
                return pending + found, bonus
        return b"", 0.0

    def _following(self, needle: bytes) -> bytes:
        """Return what followed the last occurrence before the cursor, else the first after it."""
        # The text at the cursor itself is no earlier occurrence.
        at = self._before.rfind(needle, 0, len(self._before) - 1)
        if at >= 0:
            return self._before[at + len(needle) : at + len(needle) + AHEAD]
        at = self._after.find(needle)
        return self._after[at + len(needle) : at + len(needle) + AHEAD] if at >= 0 else b""


def weights_for(model_bytes: int) -> CopyWeights | None:
    """Return the weights for a model of that size, None for one that needs no help."""
    return CopyWeights() if model_bytes < SMALL_MODEL_BYTES else None
