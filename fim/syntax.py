"""Just enough lexing of many languages: strings, comments, and which brackets are open.

Rule: one pass, no grammar; wrong in corners (nested comments, regular expressions, interpolation)
and never an error. Callers compare two readings of almost the same text, so that a corner read
wrongly is read wrongly in both. Must not know prompts or completions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

PAIRS = {"(": ")", "[": "]", "{": "}"}
BRACKETS = frozenset("()[]{}")


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a language writes comments and strings."""

    line_comments: tuple[str, ...] = ()
    block_comments: tuple[tuple[str, str], ...] = ()
    quotes: str = "\"'"
    long_quotes: tuple[str, ...] = ()  # strings over several lines
    # Where an apostrophe also means something else (lifetimes, digits): only this is a literal.
    char_literal: bool = False


_C = Syntax(("//",), (("/*", "*/"),))
_C_CHARS = Syntax(("//",), (("/*", "*/"),), quotes='"', char_literal=True)
_PYTHON = Syntax(("#",), long_quotes=('"""', "'''"))
_HASH = Syntax(("#",))
_BACKTICK = Syntax(("//",), (("/*", "*/"),), long_quotes=("`",))

_LANGUAGES: dict[str, Syntax] = {
    "python": _PYTHON,
    "javascript": _BACKTICK,
    "javascriptreact": _BACKTICK,
    "typescript": _BACKTICK,
    "typescriptreact": _BACKTICK,
    "go": Syntax(("//",), (("/*", "*/"),), '"', ("`",), char_literal=True),
    "c": _C_CHARS,
    "cpp": _C_CHARS,
    "cuda-cpp": _C_CHARS,
    "objective-c": _C_CHARS,
    "rust": _C_CHARS,
    "java": Syntax(("//",), (("/*", "*/"),), '"', ('"""',), char_literal=True),
    "kotlin": Syntax(("//",), (("/*", "*/"),), '"', ('"""',), char_literal=True),
    "scala": Syntax(("//",), (("/*", "*/"),), '"', ('"""',), char_literal=True),
    "csharp": _C_CHARS,
    "swift": Syntax(("//",), (("/*", "*/"),), '"', ('"""',)),
    "zig": _C_CHARS,
    "dart": Syntax(("//",), (("/*", "*/"),), long_quotes=('"""', "'''")),
    "php": Syntax(("//", "#"), (("/*", "*/"),)),
    "css": Syntax((), (("/*", "*/"),)),
    "scss": _C,
    "less": _C,
    "ruby": _HASH,
    "shellscript": _HASH,
    "perl": _HASH,
    "r": _HASH,
    "yaml": _HASH,
    "toml": Syntax(("#",), long_quotes=('"""', "'''")),
    "elixir": Syntax(("#",), long_quotes=('"""',)),
    "lua": Syntax(("--",), (("--[[", "]]"),)),
    "sql": Syntax(("--",), (("/*", "*/"),)),
    "haskell": Syntax(("--",), (("{-", "-}"),), '"', char_literal=True),
    "json": Syntax(quotes='"'),
    "jsonc": Syntax(("//",), (("/*", "*/"),), quotes='"'),
    # Prose: apostrophes are no quotes.
    "markdown": Syntax(quotes=""),
    "plaintext": Syntax(quotes=""),
    "latex": Syntax(("%",), quotes=""),
}
_UNKNOWN = Syntax()


def syntax_of(language_id: str) -> Syntax:
    """Return the syntax of an LSP language identifier; unknown ones have quotes, no comments."""
    return _LANGUAGES.get(language_id, _UNKNOWN)


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A bracket, string or comment at `start`..`end`.

    `kind` is "bracket", "string", "comment", "broken" (a string that its line's end cut off) or
    "open" (a string or comment that goes on past the end of the text). `delimiter` is what began
    it, the bracket itself for brackets.
    """

    kind: str
    start: int
    end: int
    delimiter: str


@lru_cache(maxsize=64)
def _starts(syntax: Syntax) -> re.Pattern[str]:
    """Compile what begins a comment or string, or is a bracket; the longest delimiters first."""
    blocks = [begin for begin, _ in syntax.block_comments]
    longest = sorted((*syntax.line_comments, *blocks, *syntax.long_quotes), key=len, reverse=True)
    parts = [re.escape(delimiter) for delimiter in longest]
    if syntax.char_literal:
        parts.append(r"'(?:\\[^'\n]{1,10}|[^'\\\n])'")
    for quote in syntax.quotes:
        # No quote: an apostrophe in a word (don't), unless it follows a string prefix (b'', rf'').
        parts.append(r"(?:(?<!\w)|(?<=\b[bfru])|(?<=\b[bfr]{2}))'" if quote == "'" else quote)
    return re.compile("|".join([*parts, r"[()\[\]{}]"]), re.IGNORECASE)


@lru_cache(maxsize=64)
def _rest(syntax: Syntax, delimiter: str) -> re.Pattern[str]:
    """Compile what a string or comment consists of after its `delimiter`, with its end if any."""
    if delimiter in syntax.line_comments:
        return re.compile(r"[^\n]*+(?P<end>\n)?")
    for begin, end in syntax.block_comments:
        if delimiter == begin:
            return re.compile(rf"(?s:.*?)(?:(?P<end>{re.escape(end)})|\Z)")
    quote = re.escape(delimiter)
    if delimiter in syntax.long_quotes:
        return re.compile(rf"(?s:[^\\{quote[-1]}]++|\\.|(?!{quote}).)*+(?P<end>{quote})?")
    return re.compile(rf"(?s:[^\\\n{quote}]++|\\.)*+(?P<end>{quote})?")


def lex(text: str, syntax: Syntax, inside: str = "") -> Iterator[Lexeme]:
    """Yield the lexemes of `text` (line ends are "\\n").

    `inside` is the delimiter of a string or comment that the text begins in.
    """
    at, begin, delimiter = 0, 0, inside
    while True:
        if delimiter:
            body = _rest(syntax, delimiter).match(text, at)
            assert body is not None  # these patterns match the empty string
            at = body.end()
            yield Lexeme(
                _kind(syntax, delimiter, bool(body["end"]), at < len(text)), begin, at, delimiter
            )
        found = _starts(syntax).search(text, at)
        if found is None:
            return
        begin, at, delimiter = found.start(), found.end(), found[0]
        if delimiter in BRACKETS:
            yield Lexeme("bracket", begin, at, delimiter)
            delimiter = ""
        elif (
            delimiter[0] == "'"
            and delimiter[-1] == "'"
            and len(delimiter) > 2
            and syntax.char_literal
        ):
            delimiter = ""


def _kind(syntax: Syntax, delimiter: str, ended: bool, more: bool) -> str:
    comment = delimiter in syntax.line_comments or any(
        delimiter == begin for begin, _ in syntax.block_comments
    )
    if ended:
        return "comment" if comment else "string"
    return "broken" if more else "open"


@dataclass(frozen=True, slots=True)
class Outline:
    """The brackets of a text outside strings and comments, and how its strings end.

    `broken` counts unended strings; `inside` is the delimiter of the string or comment that the
    text ends in. Outlines of neighbouring texts add up to that of the whole, if the second was read
    from the first's `inside`.
    """

    brackets: str = ""
    broken: int = 0
    inside: str = ""

    def __add__(self, after: Outline) -> Outline:
        return Outline(self.brackets + after.brackets, self.broken + after.broken, after.inside)

    def defects(self, syntax: Syntax, known: int | None = None) -> Defects:
        """Count what has no partner; closers of the wrong kind are passed over.

        `known`: only the first so many brackets can be said to be left open, the text is cut off.
        """
        opened: list[int] = []
        strays = 0
        for at, bracket in enumerate(self.brackets):
            if bracket in PAIRS:
                opened.append(at)
            elif opened and PAIRS[self.brackets[opened[-1]]] == bracket:
                opened.pop()
            else:
                strays += 1
        left_open = len(opened)
        if known is None:
            left_open += self.inside in (*syntax.quotes, *syntax.long_quotes)
        else:
            left_open = sum(at < known for at in opened)
        return Defects(strays, strays + left_open + self.broken)


class Defects(NamedTuple):
    """How many closing brackets, and how many brackets and quotes in all, have no partner."""

    strays: int
    total: int

    def no_worse_than(self, other: Defects) -> bool:
        """Tell whether neither count is above `other`'s."""
        return self.strays <= other.strays and self.total <= other.total


def outline(text: str, syntax: Syntax, inside: str = "") -> Outline:
    """Return the outline of `text`, which begins in the string or comment `inside`."""
    if not text:
        return Outline(inside=inside)
    lexemes = list(lex(text, syntax, inside))
    return Outline(
        "".join(lexeme.delimiter for lexeme in lexemes if lexeme.kind == "bracket"),
        sum(lexeme.kind == "broken" for lexeme in lexemes),
        lexemes[-1].delimiter if lexemes and lexemes[-1].kind == "open" else "",
    )


def blank(text: str, language_id: str) -> str:
    """Return `text`, as long as before, with comments and the insides of strings as spaces.

    Line ends and the strings' delimiters stay.
    """
    syntax = syntax_of(language_id)
    parts: list[str] = []
    at = 0
    for lexeme in lex(text, syntax):
        if lexeme.kind == "bracket":
            continue
        comment = (
            lexeme.delimiter not in syntax.quotes and lexeme.delimiter not in syntax.long_quotes
        )
        kept = 0 if comment else len(lexeme.delimiter)
        begin, end = lexeme.start + kept, lexeme.end - (kept if lexeme.kind == "string" else 0)
        parts += [text[at:begin], re.sub(r"[^\n\r]", " ", text[begin:end])]
        at = end
    return "".join(parts) + text[at:]
