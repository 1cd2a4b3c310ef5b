"""From token bytes to text: whole characters only, ended by the stop rules.

Rule: pure and incremental: each byte is looked at a constant number of times.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Emitted:
    """Text that is safe to show, and the stop that ended it ("" while it goes on)."""

    text: str
    stopped_by: str = ""


class TextStream:
    """Turns token bytes into text.

    `pending` are bytes the document already holds (token healing): the first bytes pushed must
    agree with them and are swallowed. Text that may be the beginning of a stop is held back.
    """

    def __init__(self, pending: bytes, stops: tuple[str, ...]) -> None:
        self.pending = pending
        self.written = bytearray()  # everything after the cursor so far
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, data: bytes) -> Emitted:
        """Add a token's bytes; return the text that is settled by them."""
        overlap = min(len(self.pending), len(data))
        self.pending = self.pending[overlap:]
        self.written += data[overlap:]
        self._held += self._decoder.decode(data[overlap:])
        return self._settle()

    def flush(self) -> str:
        """Return what was held back; an unfinished character is dropped, not replaced."""
        held, self._held = self._held, ""
        return held

    def _settle(self) -> Emitted:
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            position, stop = min(found)
            text, self._held = self._held[:position], ""
            return Emitted(text, stop)
        keep = max((self._possible_stop(stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        text, self._held = self._held[:split], self._held[split:]
        return Emitted(text)

    def _possible_stop(self, stop: str) -> int:
        """Return how many characters at the end could be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
