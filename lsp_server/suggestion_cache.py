"""Suggestions made lately, so that a key that follows one needs no model.

Suggestion cache: each entry is a text that a model gave, with the text around it as it was then.
It answers wherever the cursor is inside that text now:

    before now == before then + text[:k]    and    after now == after then

That is: typing through a suggestion, deleting back into it, and accepting a word or a line of it.
The answer is the rest, `text[k:]`; where only blanks are left, or nothing, the entry has no answer.
Of several that answer, the one used last does. What was fetched ahead (`ahead`) is an entry like
any other.

Rule: pure, and exact: whole texts are compared, never a hash of them, so nothing stale is answered.
Versions of a document don't matter here, only its text. Every text has `\\n` line ends. Must not
know pygls, the manager or settings.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

MAX_ENTRIES = 250
MAX_CHARS = 8_000_000  # of all texts held, those around the suggestions included


class Source(StrEnum):
    """How an answer was come by."""

    TYPED = "typedThrough"  # or a part was accepted
    DELETED = "deletedBack"
    REPEATED = "repeated"  # asked again at the same place
    PREFETCHED = "prefetched"  # fetched ahead, and asked for now for the first time


@dataclass(frozen=True, slots=True)
class State:
    """What a suggestion depends on, besides the model."""

    document: str
    before: str
    after: str
    single_line: bool
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Hit:
    """The text to show, never blank."""

    text: str
    source: Source


@dataclass(slots=True)
class _Entry:
    state: State
    text: str
    reached: int | None  # how much of the text stood before the cursor at the last answer

    @property
    def chars(self) -> int:
        return len(self.state.before) + len(self.state.after) + len(self.text)

    def typed(self, now: State) -> int | None:
        """How much of the text stands before the cursor; None if it is not this text's place."""
        was, text = self.state, self.text
        typed = len(now.before) - len(was.before)
        # The cheap comparisons come first: all but the right entries end at one of them.
        if not (
            0 <= typed < len(text)
            and len(now.after) == len(was.after)
            and now.document == was.document
            and now.single_line == was.single_line
            and now.max_tokens == was.max_tokens
            and now.before.startswith(text[:typed], len(was.before))
            and now.after == was.after
            and now.before.startswith(was.before)
        ):
            return None
        return typed if text[typed:].strip() else None

    def source(self, typed: int) -> Source:
        if self.reached is None:
            return Source.PREFETCHED
        if typed == self.reached:
            return Source.REPEATED
        return Source.TYPED if typed > self.reached else Source.DELETED


class SuggestionCache:
    """The suggestions of one model in all open documents; the least recently used ones go.

    `epoch` counts how often it was emptied: what was asked for in an earlier one is not kept.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_chars: int = MAX_CHARS) -> None:
        self._max_entries = max_entries
        self._max_chars = max_chars
        self._entries: OrderedDict[State, _Entry] = OrderedDict()  # the last used is last
        self._chars = 0
        self._model = ""
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, now: State) -> Hit | None:
        """Return what a known suggestion says at `now`, which counts as using it."""
        found = self._at(now)
        if found is None:
            return None
        entry, typed = found
        hit = Hit(entry.text[typed:], entry.source(typed))
        entry.reached = typed
        self._entries.move_to_end(entry.state)
        return hit

    def knows(self, now: State) -> bool:
        """Tell whether `find` would answer, without using anything."""
        return self._at(now) is not None

    def keep(self, state: State, text: str, *, model: str, epoch: int, ahead: bool = False) -> None:
        """Remember that `model`, asked in `epoch`, gave `text` at `state`.

        Another model than the last one's empties the cache first. A blank text is not kept.
        """
        if epoch != self.epoch:
            return
        if self._model and model != self._model:
            self.clear()
        self._model = model
        self._forget(state)
        entry = _Entry(state, text, reached=None if ahead else 0)
        if not text.strip() or entry.chars > self._max_chars:
            return
        self._entries[state] = entry
        self._chars += entry.chars
        while len(self._entries) > self._max_entries or self._chars > self._max_chars:
            self._forget(next(iter(self._entries)))

    def drop(self, document: str) -> None:
        """Forget what belongs to a document."""
        for state in [state for state in self._entries if state.document == document]:
            self._forget(state)

    def clear(self) -> None:
        """Forget everything: the model is another one now."""
        self._entries.clear()
        self._chars = 0
        self.epoch += 1

    def _at(self, now: State) -> tuple[_Entry, int] | None:
        for entry in reversed(self._entries.values()):
            typed = entry.typed(now)
            if typed is not None:
                return entry, typed
        return None

    def _forget(self, state: State) -> None:
        entry = self._entries.pop(state, None)
        if entry is not None:
            self._chars -= entry.chars
