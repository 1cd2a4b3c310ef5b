"""The text of an answer as it arrives: what was typed is taken off its beginning, stops end it.

Rule: pure and incremental. Stops hold whether or not the engine knows them.
"""

from __future__ import annotations

from backends.decoding.text import Emitted, TextStream


class Disagreement(Exception):  # noqa: N818 - no error: the model would have typed something else
    """The answer does not begin with what was typed."""


class AnswerText:
    """Takes pieces of an answer and gives out what is settled of it."""

    def __init__(self, pending: str, stops: tuple[str, ...], line: str | None = None) -> None:
        """Take what the answer must begin with, which is not given out, as `pending`."""
        self._pending = pending
        self._stream = TextStream(b"", stops, line)

    def push(self, piece: str) -> Emitted:
        """Return the text that `piece` settles. Raises Disagreement."""
        overlap = min(len(self._pending), len(piece))
        if piece[:overlap] != self._pending[:overlap]:
            raise Disagreement
        self._pending = self._pending[overlap:]
        return self._stream.push(piece[overlap:].encode())

    def flush(self) -> str:
        """Return what was held back at the end. Raises Disagreement if it came too early."""
        if self._pending:
            raise Disagreement
        return self._stream.flush()
