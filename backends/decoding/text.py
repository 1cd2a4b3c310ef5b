"""From token bytes to text: whole characters only, ended by the stop rules.

Rule: pure and incremental: each byte is looked at a constant number of times.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from fim.block import BlockStream


@dataclass(frozen=True, slots=True)
class Emitted:
    """Text that is safe to show, and the stop that ended it ("" while it goes on)."""

    text: str
    stopped_by: str = ""


class WordFinder:
    """Finds the first of some words in a text that comes in pieces.

    Text that may be the beginning of one is held back.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = tuple(word for word in words if word)
        self._held = ""

    def push(self, text: str) -> Emitted:
        """Add text; return what comes before the word, or can't be part of one.

        Once a word is found, `flush` returns what follows it.
        """
        self._held += text
        found = [(self._held.find(word), word) for word in self._words if word in self._held]
        if found:
            position, word = min(found)
            text, self._held = self._held[:position], self._held[position + len(word) :]
            return Emitted(text, word)
        keep = max((self._possible(word) for word in self._words), default=0)
        split = len(self._held) - keep
        text, self._held = self._held[:split], self._held[split:]
        return Emitted(text)

    def flush(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    def _possible(self, word: str) -> int:
        """Return how many characters at the end could be the beginning of `word`."""
        longest = min(len(word) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(word[:n])), 0)


class TextStream:
    """Turns token bytes into text.

    `pending` are bytes the document already holds (token healing): the first bytes pushed must
    agree with them and are swallowed. Text that may be the beginning of a stop is held back.
    `line` is the cursor's line up to the cursor, where the text must not leave its block: it ends
    at the line end before, as if "\n" stopped it.
    """

    def __init__(self, pending: bytes, stops: tuple[str, ...], line: str | None = None) -> None:
        self.pending = pending
        self.written = bytearray()  # everything after the cursor so far
        self._stops = WordFinder(stops)
        self._block = None if line is None else BlockStream(line)
        self._stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> Emitted:
        """Add a token's bytes; return the text that is settled by them."""
        overlap = min(len(self.pending), len(data))
        self.pending = self.pending[overlap:]
        self.written += data[overlap:]
        emitted = self._stops.push(self._decoder.decode(data[overlap:]))
        if self._block is not None:
            emitted = _inside(self._block, emitted)
        self._stopped = bool(emitted.stopped_by)
        return emitted

    def flush(self) -> str:
        """Return what was held back; an unfinished character is dropped, not replaced."""
        held = self._stops.flush()
        if self._stopped:
            return ""
        return held if self._block is None else self._block.push(held) + self._block.flush()


def _inside(block: BlockStream, emitted: Emitted) -> Emitted:
    """Return what of newly settled text is inside of the block."""
    shown = block.push(emitted.text)
    if block.ended:
        return Emitted(shown, "\n")
    return Emitted(shown + block.flush() if emitted.stopped_by else shown, emitted.stopped_by)
