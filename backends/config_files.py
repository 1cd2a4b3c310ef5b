"""Configuration files: which one is read, and where in it each key stands.

Rule: TOML and JSON text in, nested values and the place of every key out; a file that cannot be
read is a problem, never an exception. tomllib and json keep no places, so a scanner finds them in
text that they have accepted. Must not know which settings there are.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.config_schema import Key, Layer, Origin, Problem

MAX_BYTES = 1024 * 1024  # a configuration is a few hundred bytes; /dev/zero has no end


@dataclass(frozen=True, slots=True)
class Document:
    """A file's values, and what was wrong with it as a whole."""

    source: str
    values: Mapping[str, object] = field(default_factory=dict)
    places: Mapping[Key, tuple[int, int, int]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def origin(self, key: Key) -> Origin:
        """Return where `key` stands, else the table around it."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.places:
                return Origin(Layer.FILE, self.source, *self.places[key[:end]])
        return Origin(Layer.FILE, self.source)


def read_user(path: Path) -> Document:
    """Read the user's file: `path`, or config.json beside a config.toml that is not there."""
    beside = path.with_name("config.json") if path.name == "config.toml" else None
    document = read(path)
    if document is None and beside is not None:
        document, beside = read(beside), None
    if document is None:
        return Document(str(path))
    if beside is not None and _is_there(beside):
        ignored = f"is not read, because there is a {path.name} beside it; keep one of the two"
        problems = (*document.problems, Problem(ignored, str(beside)))
        return Document(document.source, document.values, document.places, problems)
    return document


def read(path: Path) -> Document | None:
    """Read a file; None where there is none."""
    source = str(path)
    try:
        return parse(read_text(path), source)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        return Document(source, problems=(Problem(unreadable(exc), source),))


def read_text(path: Path) -> str:
    """Return what a small file says. Raises OSError, ValueError."""
    with open(path, "rb", opener=_without_waiting) as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is a pipe")
        data = file.read(MAX_BYTES + 1) or b""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES // 2**20} MiB")
    return data.decode("utf-8-sig")


def unreadable(error: OSError | ValueError) -> str:
    """Return what to say of a file that `read_text` could not read."""
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def parse(text: str, source: str) -> Document:
    """Read a file's text: JSON if `source` ends so, else TOML."""
    return _json(text, source) if source.lower().endswith(".json") else _toml(text, source)


def _without_waiting(path: str, flags: int) -> int:
    """Open what may be a pipe: the language server reads files of repositories."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _toml(text: str, source: str) -> Document:
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        found = re.search(r"at line (\d+), column (\d+)", str(exc))
        line, column = (int(found[1]), int(found[2])) if found else (len(text.splitlines()), 1)
        message = re.sub(r" \(at .*\)$", "", str(exc))
        return Document(source, problems=(Problem(message, source, max(line, 1), column, 1),))
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits, deep nesting
        return Document(source, problems=(Problem(f"cannot be read: {exc}", source),))
    # As tomllib sees the text; places are found by character, so \r\n must be one.
    return Document(source, values, _TomlScanner(text.replace("\r\n", "\n")).places())


def _json(text: str, source: str) -> Document:
    try:
        values = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as exc:
        return Document(source, problems=(Problem(exc.msg, source, exc.lineno, exc.colno, 1),))
    except (ValueError, RecursionError) as exc:
        return Document(source, problems=(Problem(f"cannot be read: {exc}", source),))
    if not isinstance(values, dict):
        return Document(source, problems=(Problem("must be an object", source, 1, 1, 1),))
    return Document(source, values, _json_places(text))


class _Lines:
    """Turns offsets into lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def place(self, start: int, end: int) -> tuple[int, int, int]:
        from bisect import bisect_right

        line = bisect_right(self._starts, start)
        return line, start - self._starts[line - 1] + 1, end - start


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _json_places(text: str) -> dict[Key, tuple[int, int, int]]:
    """Return the place of every key of an object; what is in arrays counts as the array's."""
    places: dict[Key, tuple[int, int, int]] = {}
    lines = _Lines(text)
    path: list[str | None] = []  # the key under way in each open object; None in an array
    key_next = False
    for token in _JSON_TOKEN.finditer(text):
        mark = token[0]
        if mark in "{[":
            path.append("" if mark == "{" else None)
            key_next = mark == "{"
        elif mark in "}]":
            path.pop()
            key_next = False
        elif mark == ",":
            key_next = path[-1] is not None
        elif mark == ":":
            key_next = False
        elif key_next and None not in path:
            path[-1] = json.loads(mark, strict=False)
            places[tuple(part or "" for part in path)] = lines.place(token.start(), token.end())
    return places


_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_TOML_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_TOML_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_TOML_SCALAR = re.compile(r"[^,\]}#\n]+")


class _TomlScanner:
    """Finds the keys in text that tomllib has accepted; elements of arrays have no keys."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = _Lines(text)
        self._places: dict[Key, tuple[int, int, int]] = {}

    def places(self) -> dict[Key, tuple[int, int, int]]:
        table: Key = ()
        while self._more():
            if self._text[self._at] == "[":
                self._at = self._text.index("[", self._at) + 1
                self._at += self._text[self._at] == "["  # an array of tables
                table = self._key(())
                while self._at < len(self._text) and self._text[self._at] == "]":
                    self._at += 1
            else:
                self._assignment(table)
        return self._places

    def _more(self) -> bool:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at < len(self._text)

    def _key(self, table: Key) -> Key:
        """Read a dotted key; note the place of each of its parts, the first time it is met."""
        for start, end in self._parts():
            table = (*table, _plain(self._text[start:end]))
            self._places.setdefault(table, self._lines.place(start, end))
        return table

    def _parts(self) -> Iterator[tuple[int, int]]:
        while True:
            self._skip_blanks()
            part = _TOML_KEY.match(self._text, self._at)
            assert part is not None
            self._at = part.end()
            yield part.span()
            self._skip_blanks()
            if self._text[self._at] != ".":
                return
            self._at += 1

    def _skip_blanks(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _assignment(self, table: Key) -> None:
        key = self._key(table)
        self._at += 1  # the equals sign
        self._skip_blanks()
        self._value(key)

    def _value(self, key: Key | None) -> None:
        """Step over a value; note the keys in it unless it is in an array (`key` is None)."""
        opening = self._text[self._at]
        if opening == "[":
            self._each("]", lambda: self._value(None))
        elif opening == "{":
            self._each("}", lambda: self._member(key))
        else:
            pattern = _TOML_STRING if opening in "\"'" else _TOML_SCALAR
            found = pattern.match(self._text, self._at)
            assert found is not None
            self._at = found.end()

    def _member(self, key: Key | None) -> None:
        if key is not None:
            self._assignment(key)
            return
        kept, self._places = self._places, {}
        self._assignment(())
        self._places = kept

    def _each(self, closing: str, step: Callable[[], None]) -> None:
        self._at += 1
        while self._more() and self._text[self._at] != closing:
            step()
            self._more()
            self._at += self._text[self._at] == ","
        self._at += 1


def _plain(part: str) -> str:
    if part[0] == '"':
        import tomllib

        return str(tomllib.loads(f"key = {part}")["key"])
    return part.strip("'")
