"""What a model thinks, apart from what it answers.

Rule: pure and incremental; the same result however the text is cut. Reasoning is what stands
between an opening tag at the very beginning (or in the prompt) and the first closing tag. Such
tags anywhere else, in code for example, are text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from backends.decoding.text import WordFinder


class _State(Enum):
    BEGINNING = auto()
    THINKING = auto()
    ANSWERING = auto()


@dataclass(frozen=True, slots=True)
class Parted:
    """A piece of the reasoning, and a piece of the answer that follows it."""

    reasoning: str = ""
    answer: str = ""


class ReasoningSplitter:
    """Parts a stream of text into reasoning and answer."""

    def __init__(self, tags: tuple[str, str], *, thinking: bool) -> None:
        """Take the opening and closing tag; `thinking`: the prompt has opened it already."""
        self._open = tags[0]
        self._close = WordFinder((tags[1],))
        self._state = _State.THINKING if thinking else _State.BEGINNING
        self._begun = ""  # what may turn out to be the opening tag
        self._first = True  # blank lines before the reasoning and before the answer are no text

    @property
    def answering(self) -> bool:
        """Whether what comes next is part of the answer."""
        return self._state is _State.ANSWERING

    def push(self, text: str) -> Parted:
        """Add text; return what of it is settled."""
        match self._state:
            case _State.ANSWERING:
                return Parted(answer=self._trimmed(text) if self._first else text)
            case _State.THINKING:
                return self._think(text)
            case _State.BEGINNING:
                return self._begin(text)

    def flush(self) -> Parted:
        """Return what was held back; a tag that is not whole is text."""
        if self._state is _State.BEGINNING:
            begun, self._begun = self._begun, ""
            return Parted(answer=begun)
        if self._state is _State.THINKING:
            return Parted(reasoning=self._trimmed(self._close.flush()))
        return Parted()

    def _begin(self, text: str) -> Parted:
        self._begun += text
        start = self._begun.lstrip()
        if start.startswith(self._open):
            self._state = _State.THINKING
            return self._think(start[len(self._open) :])
        if self._open.startswith(start):
            return Parted()
        self._state, self._first = _State.ANSWERING, False
        return Parted(answer=self._begun)

    def _think(self, text: str) -> Parted:
        found = self._close.push(text)
        reasoning = self._trimmed(found.text)
        if not found.stopped_by:
            return Parted(reasoning)
        self._state, self._first = _State.ANSWERING, True
        return Parted(reasoning, self._trimmed(self._close.flush()))

    def _trimmed(self, text: str) -> str:
        """Drop white space at the beginning of a part."""
        if self._first:
            text = text.lstrip()
            self._first = not text
        return text
