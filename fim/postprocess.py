"""What of a raw completion is worth showing: small filters, in a table.

Rule: pure functions; every filter only takes text away, at the end or all of it (leading blanks
aside), so what is left is what the model wrote. They run until none of them finds anything. Must
not know models, prompts or LSP; positions don't occur, only the text around the cursor.

Inserting the result leaves brackets and quotes no worse than they were (`keep_balance` has the last
word), and line ends and tabs as the document has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from fim.block import Block
from fim.syntax import Defects, Lexeme, Outline, Syntax, lex, outline, syntax_of

# How much of the document around the cursor is looked at, in characters.
LOOK_BACK = 3000
LOOK_AHEAD = 3000

_LINE_END = re.compile(r"\r\n|\r")
_CLOSERS_ONLY = re.compile(r"[\s)\]};,]*")


@dataclass(frozen=True, slots=True)
class Tidied:
    """The text to show; where it is empty, `reason` says why."""

    text: str
    reason: str = ""


@dataclass(frozen=True)
class Cursor:
    """The text around the cursor, near it only, line ends as "\n"."""

    before: str
    after: str
    syntax: Syntax
    single_line: bool = False
    cut_off: bool = False  # the document goes on past `after`

    @cached_property
    def line(self) -> str:
        """The cursor's line up to the cursor."""
        return self.before[self.before.rfind("\n") + 1 :]

    @cached_property
    def rest(self) -> str:
        """The cursor's line from the cursor on, without trailing blanks."""
        return self.after.partition("\n")[0].rstrip()

    @cached_property
    def following(self) -> list[str]:
        """The lines after the cursor's that aren't blank, stripped."""
        return _significant(self.after.partition("\n")[2])

    @cached_property
    def preceding(self) -> list[str]:
        """The lines before the cursor's that aren't blank, stripped."""
        return _significant(self.before[: len(self.before) - len(self.line)])

    @cached_property
    def _before(self) -> Outline:
        return outline(self.before, self.syntax)

    @cached_property
    def _after(self) -> dict[str, Outline]:
        return {}  # by what the text before it ends in

    def defects(self, text: str) -> Defects:
        """Count the brackets and quotes that have no partner once `text` is inserted."""
        inserted = self._before + outline(text, self.syntax, self._before.inside)
        if inserted.inside not in self._after:
            self._after[inserted.inside] = outline(self.after, self.syntax, inserted.inside)
        known = len(inserted.brackets) if self.cut_off else None
        return (inserted + self._after[inserted.inside]).defects(self.syntax, known)

    def shortens(self, text: str, kept: str) -> str:
        """Return `kept` where that is no worse for brackets and quotes, else `text`."""
        return kept if self.defects(kept).no_worse_than(self.defects(text)) else text

    def lexemes(self, text: str) -> Iterator[Lexeme]:
        """Yield the brackets, strings and comments of `text` as inserted here."""
        return lex(text, self.syntax, self._before.inside)


def tidy(
    text: str,
    *,
    prefix: str,
    suffix: str,
    line_ending: str = "\n",
    single_line: bool = False,
    language_id: str = "",
) -> Tidied:
    """Return what of `text` to show between `prefix` and `suffix`.

    `prefix` and `suffix` may be the whole document, `line_ending` is the document's.
    `language_id` is LSP's; without it comments are read as code.
    """
    cursor = Cursor(
        before=_plain_ends(_last_lines(prefix, LOOK_BACK)),
        after=_plain_ends(suffix[:LOOK_AHEAD]),
        syntax=syntax_of(language_id),
        single_line=single_line,
        cut_off=len(suffix) > LOOK_AHEAD,
    )
    shown = tabbed(_plain_ends(text), cursor)
    if not shown.strip():
        return Tidied("", "whitespace only" if shown else "nothing was generated")
    changed = True
    while changed:
        changed = False
        for reason, filter_ in FILTERS:
            kept = filter_(shown, cursor)
            if not kept.strip():
                return Tidied("", reason)
            changed = changed or kept != shown
            shown = kept
    return Tidied(shown.replace("\n", line_ending))


# -- how the text is written ------------------------------------------------------------------


def tabbed(text: str, cursor: Cursor) -> str:
    """Indent with tabs where the document does and the model wrote spaces."""
    first, *more = text.split("\n")
    if not re.search(r"^\t", cursor.before + "\n" + cursor.after, re.M) or re.search(
        r"^ {2,}\S", cursor.before, re.M
    ):
        return text
    widths = [len(line) - len(line.lstrip(" ")) for line in more if line.startswith(" ")]
    unit = next((unit for unit in (8, 4, 2) if widths and not any(w % unit for w in widths)), 0)
    if not unit:
        return text
    # All of it at one depth of 8 is two levels of 4.
    unit = min(unit, 4)
    return "\n".join(
        [first]
        + ["\t" * ((n := len(line) - len(line.lstrip(" "))) // unit) + line[n:] for line in more]
    )


def first_line(text: str, cursor: Cursor) -> str:
    """Keep the first line where only one is wanted."""
    return text.partition("\n")[0] if cursor.single_line else text


def leading_space(text: str, cursor: Cursor) -> str:
    """Drop blanks that repeat those before the cursor."""
    if cursor.line[-1:] not in (" ", "\t"):
        return text
    if cursor.line.strip():
        return text.lstrip(" \t")
    # Only indentation so far: more of it is meant, a single space is a slip.
    return text[1:] if re.match(r" \S", text) else text


def trailing_space(text: str, cursor: Cursor) -> str:
    """Drop blanks at line ends, and line ends at the end."""
    if re.match(r"[\w\"'({\[]", cursor.after):
        # What follows on the line may need the blanks, and the line end, before it.
        text = re.sub(r"\n(?:[ \t]*\n)+([ \t]*)\Z", r"\n\1", text)
        return re.sub(r"(?<=\S)[ \t]+(?=\n)", "", text)
    return re.sub(r"[ \t]+(?=\n)", "", text.rstrip())


# -- repetition -------------------------------------------------------------------------------


def extreme_repetition(text: str, _: Cursor) -> str:
    """Cut where one piece of a line comes six times or more in a row; rulers and zeros may."""
    for found in re.finditer(r"(\S.{2,38}?)\1{5,}", text):
        if sum(map(str.isalnum, found[1])) > 2:
            return text[: found.start() + len(found[1])].rstrip()
    return text


def repeated_blocks(text: str, _: Cursor) -> str:
    """Cut where a block of one to eight lines comes three times in a row; keep the first."""
    lines = text.split("\n")
    keys = [line.strip() for line in lines]
    for start in range(len(lines)):
        for size in range(1, min(8, (len(lines) - start) // 3) + 1):
            block = keys[start : start + size]
            again = keys[start + size : start + 2 * size] == block
            if again and keys[start + 2 * size : start + 3 * size] == block and _telling(block):
                return "\n".join(lines[: start + size])
    return text


def repeats_lines_above(text: str, cursor: Cursor) -> str:
    """Drop a completion that only makes the lines before the cursor's once more."""
    lines = _significant(cursor.line + text)
    above = cursor.preceding[-len(lines) :]
    return "" if lines and lines == above and _telling(lines) else text


def repeats_lines_below(text: str, cursor: Cursor) -> str:
    """Drop a completion that only makes the lines after the cursor's once more."""
    if cursor.rest:
        return text
    lines = _significant(cursor.line + text)
    return "" if lines and lines == cursor.following[: len(lines)] else text


def runs_into_suffix(text: str, cursor: Cursor) -> str:
    """Cut from where the completion goes on as the document does anyway."""
    lines = text.split("\n")
    if cursor.rest:
        # The rest of the cursor's line, written once more at the end of the first line.
        whole = lines[0].rstrip()
        if whole.endswith(cursor.rest):
            return cursor.shortens(text, whole[: len(whole) - len(cursor.rest)])
        return text
    for at in range(1, len(lines)):
        rest = [line.strip() for line in lines[at:] if line.strip()]
        same = _common(rest, cursor.following)
        cut_off = same == len(rest) - 1 and len(cursor.following) > same
        if cut_off and len(rest[-1]) > 2 and cursor.following[same].startswith(rest[-1]):
            same += 1  # the last line, before it was complete
        if lines[at].strip() and same and (same == len(rest) or _telling(rest[:same], 2)):
            return cursor.shortens(text, "\n".join(lines[:at]).rstrip())
    return text


def overlaps_suffix(text: str, cursor: Cursor) -> str:
    """Cut an end that is the beginning of the text after the cursor."""
    if not cursor.rest:
        return text
    start = text.rstrip()
    for size in range(min(len(start), len(cursor.after)), 0, -1):
        piece = cursor.after[:size]
        enough = size >= min(len(cursor.rest), 4)
        if enough and piece.strip() and start.endswith(piece):
            return cursor.shortens(text, start[:-size])
    return text


# -- extent -----------------------------------------------------------------------------------


def limit_scope(text: str, cursor: Cursor) -> str:
    """Cut where the completion leaves the block that the cursor is in, or the one it began."""
    first, *more = text.split("\n")
    block = Block(cursor.line + first)
    size = len(first)
    for line in more:
        if block.leaves(line):
            return text[:size].rstrip()
        size += 1 + len(line)
    return text


def keep_balance(text: str, cursor: Cursor) -> str:
    """Cut back to where brackets and quotes are no worse than without the completion.

    Within the first line anywhere, after that at a line's end.
    """
    without = cursor.defects("")
    if cursor.defects(text).no_worse_than(without):
        return text
    first = text.find("\n") if "\n" in text else len(text)
    cuts = {at for at, char in enumerate(text) if char == "\n"}
    for lexeme in cursor.lexemes(text):
        for at in (lexeme.start, lexeme.end - len(lexeme.delimiter), lexeme.end):
            if at < first:
                cuts.add(max(0, at))
    for cut in sorted(cuts, reverse=True):
        if cursor.defects(kept := text[:cut].rstrip()).no_worse_than(without):
            return kept
    return ""


# -- worth ------------------------------------------------------------------------------------


def closers_only(text: str, _: Cursor) -> str:
    """Drop a completion of nothing but closing brackets and separators."""
    return "" if _CLOSERS_ONLY.fullmatch(text) else text


def empty_comment(text: str, cursor: Cursor) -> str:
    """Drop a completion of nothing but the sign that begins a comment."""
    return "" if text.strip() in cursor.syntax.line_comments else text


FILTERS: tuple[tuple[str, Callable[[str, Cursor], str]], ...] = (
    ("only one line is wanted", first_line),
    ("whitespace only", trailing_space),
    ("whitespace only", leading_space),
    ("only closing brackets", closers_only),
    ("empty comment", empty_comment),
    ("repeats itself", extreme_repetition),
    ("repeats itself", repeated_blocks),
    ("leaves the block", limit_scope),
    ("only repeats the next lines", repeats_lines_below),
    ("only repeats the lines above", repeats_lines_above),
    ("goes on as the document does", runs_into_suffix),
    ("goes on as the document does", overlaps_suffix),
    ("would unbalance brackets or quotes", keep_balance),
)
"""(reason, filter), in the order they are tried."""


def _plain_ends(text: str) -> str:
    return _LINE_END.sub("\n", text)


def _last_lines(text: str, chars: int) -> str:
    """Return about the last `chars` of `text`, from the start of a line where there is one."""
    tail = text[-chars:]
    if len(tail) == len(text):
        return text
    return tail.partition("\n")[2] or tail


def _significant(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _telling(lines: list[str], least: int = 1) -> bool:
    """Tell whether at least `least` lines are more than brackets and short words."""
    return sum(len(re.sub(r"\W", "", line)) > 2 for line in lines) >= least


def _common(one: list[str], other: list[str]) -> int:
    """Return how many first entries are the same."""
    same = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        same += 1
    return same
