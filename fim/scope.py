"""Which function the cursor is in, and which part of its body a code action is to fill.

Rule: indentation for Python, braces for the others, no parser; None where it can't tell. Must not
know LSP: places are offsets in characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fim.syntax import blank
from fim.window import LINE_END

BRACE_LANGUAGES = frozenset(
    {
        "c",
        "cpp",
        "cuda-cpp",
        "objective-c",
        "csharp",
        "dart",
        "go",
        "java",
        "javascript",
        "javascriptreact",
        "kotlin",
        "php",
        "rust",
        "scala",
        "swift",
        "typescript",
        "typescriptreact",
        "zig",
    }
)
_TWO_SPACES = frozenset(
    {"dart", "javascript", "javascriptreact", "scala", "typescript", "typescriptreact"}
)

_DEF = re.compile(r"^([ \t]*)(?:async[ \t]+)?def[ \t]+\w+", re.M)
_DOCSTRING = re.compile(r"\s*[rRuU]?(\"\"\"|'''|\"|')\s*\1")
_PREPROCESSOR = re.compile(r"^[ \t]*#.*$", re.M)
_FUNCTION = re.compile(r"\b(?:fn|fun|func|function)\b|=>\s*\Z")
_NO_FUNCTION = re.compile(
    r"\b(?:if|else|for|foreach|while|do|switch|match|when|catch|try|loop|using|synchronized|class"
    r"|interface|trait|impl|namespace|object|new)\b"
)
# A parameter list, then at most a return type, qualifiers or initialisers.
_PARAMETERS = re.compile(r"\)[^()=;]*(?:\([^()]*\)[^()=;]*)*\Z")
# A line that goes on with a header whose parameter list has ended.
_HEADER_GOES_ON = re.compile(r"\s*(?:\{|:|->|where\b|throws\b)")
_WHERE = re.compile(r"\bwhere\b")
_PLACEHOLDER = re.compile(
    r"\s*(?:(?:todo|unimplemented)!\([^()]*\)|panic\([^()]*\)|TODO\([^()]*\)|pass|\.\.\.)?\s*;?\s*"
)
_CODE = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Region:
    """What to replace, `start`..`end`, and what to write around the text that replaces it.

    Prompt with `text[:start] + lead` before and `trail + text[end:]` after, then replace the region
    by lead + completion + trail. `lead` is a line end and the body's indentation.
    """

    start: int
    end: int
    lead: str
    trail: str = ""


@dataclass(frozen=True, slots=True)
class _Function:
    """Offsets of its header, and of its body without ":" and braces."""

    header: int
    body: int
    end: int


def body_to_fill(text: str, offset: int, language_id: str) -> Region | None:
    """Return what to fill in the innermost function whose header or body holds `offset`.

    A body of nothing but comments, a docstring or a placeholder (pass, todo!()) is filled after
    what it says; any other from the cursor's line to its end. None: the cursor is in no function,
    or functions of this language can't be found here.
    """
    offset = max(0, min(offset, len(text)))
    code = blank(text, language_id)
    if language_id == "python":
        functions = _python_functions(text, code)
    elif language_id in BRACE_LANGUAGES:
        functions = _brace_functions(code)
    else:
        return None
    around = [f for f in functions if f.header <= offset <= f.end]
    if not around:
        return None
    innermost = max(around, key=lambda f: f.header)
    return _region(text, code, offset, innermost, language_id)


def _region(text: str, code: str, offset: int, function: _Function, language_id: str) -> Region:
    outer = _indentation(text, function.header)
    indent = _body_indentation(text, function, outer, language_id)
    start = function.body
    docstring = _DOCSTRING.match(code, start, function.end) if language_id == "python" else None
    if docstring:
        start = docstring.end()
    if _PLACEHOLDER.fullmatch(code, start, function.end):
        # Comments are blank in `code`: they stay, up to the placeholder.
        placeholder = _CODE.search(code, start, function.end)
        start = _rstrip(text, start, placeholder.start() if placeholder else function.end)
    else:
        line = _line_start(text, offset)
        if line > start:
            start = _rstrip(text, start, line)
            indent = _indentation(text, line) or indent
    newline = found[0] if (found := LINE_END.search(text)) else "\n"
    if text[function.end : function.end + 1] != "}":
        end = start + len(text[start : function.end].rstrip("\r\n"))
        return Region(start, end, newline + indent)
    line_ends = [found.start() for found in LINE_END.finditer(text, start, function.end)]
    if line_ends:  # the closing brace has a line of its own
        return Region(start, line_ends[-1], newline + indent)
    return Region(start, function.end, newline + indent, newline + outer)


def _python_functions(text: str, code: str) -> Iterator[_Function]:
    """Yield functions by indentation: the lines after the header that are indented more."""
    for found in _DEF.finditer(code):
        body = _python_header_end(code, found.end())
        if body is None:
            continue
        outer = _columns(found[1])
        end = line_end = _line_end(text, body)
        goes_on = not code[body:end].strip()  # else: def f(): return 1
        while goes_on and (newline := LINE_END.match(text, line_end)):
            start, line_end = newline.end(), _line_end(text, newline.end())
            line = text[start:line_end]
            begin = line_end - len(line.lstrip())
            in_string = code[begin:line_end][:1] == " " and text[begin] not in "# "
            if _columns(line) > outer or in_string:
                end = line_end
            goes_on = end == line_end or not line.strip()
        yield _Function(found.start(), body, end)


def _python_header_end(code: str, at: int) -> int | None:
    """Return the offset after the ":" that ends the header, None if there is none."""
    depth = 0
    for found in re.compile(r"[()\[\]{}:]").finditer(code, at):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        elif depth == 0:
            return found.end()
    return None


def _brace_functions(code: str) -> Iterator[_Function]:
    """Yield functions by braces, also those whose closing brace is still missing."""
    code = _PREPROCESSOR.sub(lambda m: " " * len(m[0]), code)
    outer: list[tuple[int, int, int]] = []  # (offset after the brace, header, depth of parentheses)
    header, depth = 0, 0
    for found in re.compile(r"[(){};\[\]\n]").finditer(code):
        match found[0]:
            case "(" | "[":
                depth += 1
            case ")" | "]":
                depth = max(0, depth - 1)
            case ";" if depth == 0:
                header = found.end()
            case "\n" if depth == 0 and not _HEADER_GOES_ON.match(code, found.end()):
                if not _WHERE.search(code, header, found.start()):
                    header = found.end()
            case "{":
                outer.append((found.end(), header, depth))
                header, depth = found.end(), 0
            case "}" if outer:
                body, header, depth = outer.pop()
                yield from _if_function(code, header, body, found.start())
                header = header if depth else found.end()
    for body, header, _ in outer:
        yield from _if_function(code, header, body, len(code))


def _if_function(code: str, header: int, body: int, end: int) -> Iterator[_Function]:
    words = code[header : body - 1].rstrip()
    plain = _PARAMETERS.search(words) and not _NO_FUNCTION.search(words)
    if plain or _FUNCTION.search(words):
        first = _CODE.search(code, header)
        yield _Function(first.start() if first else header, body, end)


def _body_indentation(text: str, function: _Function, outer: str, language_id: str) -> str:
    """Return the indentation of the body's first line, or one like it in the rest of the text."""
    for newline in LINE_END.finditer(text, function.body, function.end):
        line = text[newline.end() : _line_end(text, newline.end())]
        indentation = line[: len(line) - len(line.lstrip())]
        if _columns(indentation) > _columns(outer) and newline.end() < function.end:
            return indentation
    if "\t" in outer or re.search(r"^\t", text, re.M) or language_id == "go":
        return outer + "\t"
    widths = {len(spaces) for spaces in re.findall(r"^( {2,8})\S", text, re.M)}
    return outer + " " * min(widths, default=2 if language_id in _TWO_SPACES else 4)


def _line_start(text: str, at: int) -> int:
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def _line_end(text: str, at: int) -> int:
    found = LINE_END.search(text, at)
    return found.start() if found else len(text)


def _indentation(text: str, at: int) -> str:
    """Return the blanks that begin the line of offset `at`."""
    line = text[_line_start(text, at) : _line_end(text, at)]
    return line[: len(line) - len(line.lstrip())]


def _columns(line: str) -> int:
    """Return how deep `line` is indented, a tab to eight columns as Python has it."""
    return len(line[: len(line) - len(line.lstrip())].expandtabs(8))


def _rstrip(text: str, start: int, end: int) -> int:
    """Return `end` moved back over blanks, to `start` at most."""
    return start + len(text[start:end].rstrip())
