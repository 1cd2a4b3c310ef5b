"""Anchored windows: which text around the cursor a prompt shows, so that typing only appends.

Rule: pure functions of the text and the anchors known. The anchor is a place at or shortly before
the cursor. While it holds, everything up to it and after the cursor is unchanged and only the text
typed since grows. Must not know tokens, templates or models: sizes are characters.

Costs are those of the window, but for counting line ends before it (milliseconds for 10 MB).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SUFFIX_SHARE = 0.25  # of a window
# Text typed behind the anchor comes on top of the window, up to this share of it.
TYPED_SHARE = 0.2
MAX_TYPED_CHARS = 400

LINE_END = re.compile(r"\r\n|\n|\r")
# Where a long line may be split: after a character that tokenizers end a token at.
_WORD_START = re.compile(r"(?<=[\s,;(){}\[\]])(?=\w)")


@dataclass(frozen=True, slots=True)
class Budget:
    """Sizes in characters. A client that sends a sliding window should send `before_chars` or more.

    `typed_chars` is the most text between anchor and cursor before a new anchor is set;
    `block_lines` the grid that the window's beginning is snapped to.
    """

    before_chars: int
    suffix_chars: int
    typed_chars: int = 400
    block_lines: int = 16

    def __post_init__(self) -> None:
        if min(self.before_chars, self.suffix_chars, self.typed_chars, self.block_lines) < 1:
            raise ValueError(f"every size of a budget is at least 1: {self}")

    @classmethod
    def of_window(cls, chars: float) -> Budget:
        """Return the budget of a window of `chars` characters."""
        return cls(
            before_chars=max(1, int(chars * (1 - SUFFIX_SHARE))),
            suffix_chars=max(1, int(chars * SUFFIX_SHARE)),
            typed_chars=max(1, min(MAX_TYPED_CHARS, int(chars * TYPED_SHARE))),
        )


@dataclass(frozen=True, slots=True)
class Anchor:
    """The windows of text before the anchor and after the cursor; fixed while one types.

    `budget` is what they were cut to: an anchor is judged by its own, whatever is asked for now.
    """

    before: str
    suffix: str
    budget: Budget


@dataclass(frozen=True, slots=True)
class Placement:
    """An anchor and the text between it and the cursor; `kept` if the anchor was there before."""

    anchor: Anchor
    typed: str
    kept: bool


def place(anchors: Sequence[Anchor], prefix: str, suffix: str, budget: Budget) -> Placement:
    """Return the first of `anchors` (most recent first) that still holds, else a new one.

    `anchor.before + typed` is always what `prefix` ends with, `anchor.suffix` what `suffix` begins
    with.
    """
    for anchor in anchors:
        if anchor.suffix == suffix_window(suffix, anchor.budget.suffix_chars):
            at = _holds_at(anchor.before, prefix, anchor.budget)
            if at is not None:
                return Placement(anchor, prefix[at:], kept=True)
    at = _anchor_at(prefix, budget.typed_chars)
    start = _window_start(prefix, at, budget)
    after = suffix_window(suffix, budget.suffix_chars)
    return Placement(Anchor(prefix[start:at], after, budget), prefix[at:], kept=False)


def suffix_window(suffix: str, chars: int) -> str:
    """Return at most `chars` of `suffix`, whole lines unless that loses half of the window."""
    if len(suffix) <= chars:
        return suffix
    cut = _cut(suffix, chars)
    ends = [m.end() for m in LINE_END.finditer(suffix, chars // 2, cut)]
    return suffix[: ends[-1] if ends else cut]


def _cut(text: str, at: int) -> int:
    """Return `at`, or one less where that would part a line end or a surrogate pair."""
    if 0 < at < len(text):
        left, right = text[at - 1], text[at]
        if (left, right) == ("\r", "\n") or (
            "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff"
        ):
            return at - 1
    return at


def _holds_at(before: str, prefix: str, budget: Budget) -> int | None:
    """Return where in `prefix` the anchor is, None if it doesn't hold.

    It holds where its window ends within `typed_chars` of the cursor. A window that is small
    would match by chance or show too little: it counts only if it is all there is.
    """
    size, end = len(before), len(prefix)
    if end - size <= budget.typed_chars and prefix.startswith(before):
        return size
    if 2 * size < budget.before_chars:
        return None
    at = prefix.rfind(before, max(0, end - budget.typed_chars - size))
    return None if at < 0 else at + size


def _anchor_at(prefix: str, typed_chars: int) -> int:
    """Return where a new anchor goes: the start of the cursor's line.

    On a line longer than `typed_chars`: a start of a word that stays the same while one types on.
    """
    line = _line_start(prefix)
    stride = max(1, typed_chars // 2)
    if len(prefix) - line <= typed_chars:
        return line
    at = len(prefix) - (len(prefix) - line) % stride
    words = [m.start() for m in _WORD_START.finditer(prefix, at - stride + 1, at + 1)]
    return words[-1] if words else _cut(prefix, at)


def _line_start(prefix: str) -> int:
    """Return the start of the last line."""
    return max(prefix.rfind("\n"), prefix.rfind("\r")) + 1


def _window_start(prefix: str, at: int, budget: Budget) -> int:
    """Return where the window that ends at `at` begins.

    On a grid of lines counted from the beginning of `prefix`; where lines are so long that this
    would lose half of the window, on a grid of characters. So it moves seldom, and by a block.
    """
    lowest = at - budget.before_chars
    if lowest <= 0:
        return 0
    latest = lowest + budget.before_chars // 2
    starts = [m.end() for m in LINE_END.finditer(prefix, max(0, lowest - 2), latest)]
    starts = [start for start in starts if start >= lowest and _cut(prefix, start) == start]
    if starts:
        index = _lines(prefix, starts[0])
        to_next_block = -index % budget.block_lines
        if to_next_block < len(starts):
            return starts[to_next_block]
    block = max(1, budget.before_chars // 4)
    edge = -(-lowest // block) * block
    nearby = LINE_END.search(prefix, edge, edge + block)
    if nearby and nearby.end() <= latest and _cut(prefix, nearby.end()) == nearby.end():
        return nearby.end()
    # `_cut` may step back by one, over the budget: then forward.
    return edge if _cut(prefix, edge) == edge else min(edge + 1, at)


def _lines(text: str, end: int) -> int:
    """Return the number of line ends in `text[:end]`."""
    return text.count("\n", 0, end) + text.count("\r", 0, end) - text.count("\r\n", 0, end)
