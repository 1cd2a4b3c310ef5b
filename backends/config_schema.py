"""What a setting is: its type, limits and documentation, and how a raw value is read by them.

Rule: all that is said of a setting stands in the metadata of its dataclass field (`setting`);
reading values, messages, the reference page and the JSON schemas are made from it. Pure, and cheap
to import. Must not know which settings there are, nor where values come from.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

Key = tuple[str, ...]  # ("manager", "port"), ("models", "NAME", "path")
MASK = "********"
_SHOWN = 60  # characters of a wrong value that a message repeats
_MANY = 12  # more known keys than this are not listed in a message
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
NEVER_A_KEY = (
    "would hold a key, and keys are never kept in the configuration: say where it is with "
    "api_key_env, api_key_file or api_key_keyring"
)
_CREDENTIAL = re.compile(r"(api_?key|token|secret|passw(or)?d|credentials?)$", re.IGNORECASE)


class Layer(StrEnum):
    """Where values come from; a later layer wins."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    EDITOR = "editor"
    COMMAND_LINE = "command line"


class Scope(StrEnum):
    """Who may set a setting."""

    USER = "user"  # the user alone: never a repository's files
    WINDOW = "window"  # also the editor's settings for one workspace
    REPOSITORY = "repository"  # a repository's own file; it can only narrow


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stands. Lines and columns from 1, 0 for none; columns count characters."""

    layer: Layer
    source: str = ""  # a file, a variable, or what the editor calls it
    line: int = 0
    column: int = 0
    length: int = 0

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return place or self.layer.value


@dataclass(frozen=True, slots=True)
class Problem:
    """A setting that is ignored, and why. The place is the key's, as in `Origin`."""

    message: str
    source: str
    line: int = 0
    column: int = 0
    length: int = 0

    def __str__(self) -> str:
        place = [self.source, *(str(number) for number in (self.line, self.column) if number)]
        return f"{':'.join(place)}: {self.message}"


def by_place(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return problems file by file and line by line; those that stand in no line come last."""
    return tuple(sorted(problems, key=lambda p: (not p.line, p.source, p.line, p.column)))


@dataclass(frozen=True, slots=True)
class Given:
    """A value as one layer gave it."""

    key: Key
    value: object
    origin: Origin
    text: bool = False  # a string that stands for the value, as environment variables hold it
    folder: str = ""  # where relative paths start; empty for the working directory

    def problem(self, message: str) -> Problem:
        """Return a problem at this place."""
        at = self.origin
        return Problem(message, at.source, at.line, at.column, at.length)


class UnfitError(ValueError):
    """The value does not fit; the message says what would."""


def setting(
    default: object,
    doc: str,
    *,
    unit: str = "",
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    pattern: str = "",
    words: str = "",
    path: str = "",
    secret: bool = False,
    scope: Scope = Scope.USER,
) -> Any:
    """Return a dataclass field for a setting.

    `choices`, `low` and `high` (both included) and `pattern` (of the whole value; `words` say
    what it asks for) limit it; an empty string that is the default always fits. A `path` is a
    "file", a "folder", or a "program", which may be a name on the PATH; it may begin with ~ and be
    relative to the file it stands in. A `secret` value is never repeated in a message.
    """
    described = {
        "doc": doc,
        "unit": unit,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "pattern": pattern,
        "words": words,
        "path": path,
        "secret": secret,
        "scope": scope,
    }
    return field(default=default, metadata=described)


@dataclass(frozen=True, slots=True)
class Spec:
    """One setting, read from its field."""

    name: str
    kind: type  # bool, int, float, str, a StrEnum, or tuple for a list of strings
    default: object
    doc: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    pattern: str = ""
    words: str = ""
    path: str = ""
    secret: bool = False
    scope: Scope = Scope.USER

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(f'"{choice}"' for choice in self.choices)
        words = self.words or _WORDS[self.kind]
        if self.low is not None and self.high is not None:
            return f"{words} from {self.low:.15g} to {self.high:.15g}"
        return words if self.low is None else f"{words} of at least {self.low:.15g}"

    def read(self, raw: object) -> Any:
        """Return `raw` as the setting's value. Raises UnfitError."""
        if self.kind is tuple:
            if isinstance(raw, (list, tuple)) and all(isinstance(entry, str) for entry in raw):
                return tuple(raw)
        elif self.kind is bool:
            if isinstance(raw, bool):
                return raw
        elif self.kind in (int, float):
            fitting = int if self.kind is int else (int, float)
            if isinstance(raw, fitting) and not isinstance(raw, bool) and self._within(raw):
                return self.kind(raw)
        elif isinstance(raw, str) and self._fits(raw):
            return self.kind(raw)
        raise UnfitError(self.expected)

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for; lists are separated by commas."""
        text = text.strip()
        if self.kind is tuple:
            return tuple(entry.strip() for entry in text.split(",") if entry.strip())
        if self.kind is bool:
            if text.lower() not in (*_TRUE, *_FALSE):
                raise UnfitError(self.expected)
            return text.lower() in _TRUE
        if self.kind in (int, float):
            try:
                return self.read(self.kind(text))
            except ValueError as exc:
                raise UnfitError(self.expected) from exc
        return self.read(text)

    def _within(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
        )

    def _fits(self, text: str) -> bool:
        if text == "" == self.default:
            return True
        if self.choices and text not in self.choices:
            return False
        return not self.pattern or re.fullmatch(self.pattern, text) is not None


_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a list of strings",
}


@cache
def specs(table: type) -> Mapping[str, Spec]:
    """Return the settings of a dataclass by name. Raises TypeError for a type not known here."""
    hints = typing.get_type_hints(table)
    found = {}
    for item in fields(table):
        kind = typing.get_origin(hints[item.name]) or hints[item.name]
        described = dict(item.metadata)
        if issubclass(kind, StrEnum):
            described["choices"] = tuple(member.value for member in kind)
        elif kind not in _WORDS:
            raise TypeError(f"{table.__name__}.{item.name}: settings of type {kind} are not read")
        found[item.name] = Spec(name=item.name, kind=kind, default=item.default, **described)
    return found


def similar(name: str, known: Iterable[str]) -> str:
    """Return how to go on after "unknown key 'x'": the name that was meant, or all of them."""
    import difflib  # needed for mistakes only

    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(known) <= _MANY:
        return f"; known are {', '.join(known)}"
    return "; `midspan config schema` lists the known keys"


def is_credential(name: str) -> bool:
    """Whether something called `name` would hold a secret itself."""
    return _CREDENTIAL.search(name) is not None


def wrong(spec: Spec, raw: object) -> str:
    """Return what is wrong with a value, for behind the setting's name."""
    shown = str(raw).lower() if isinstance(raw, bool) else repr(raw)
    if spec.secret:
        return f"must be {spec.expected}; what it is set to is not shown"
    return f"must be {spec.expected}, not {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}"


def masked(spec: Spec, value: object) -> object:
    """Return `value` as it may be shown: no user, password or query in URLs.

    A key written where its variable's name belongs is a possible name, but hardly in capitals.
    """
    if not isinstance(value, str) or not value:
        return value
    if "://" not in value:
        named = not spec.secret or "/" in value or value.isupper()
        return value if named else MASK
    try:
        parts = urlsplit(value)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    user = f"{MASK}@" if "@" in parts.netloc else ""
    query = MASK if parts.query else ""
    return urlunsplit((parts.scheme, user + host, parts.path, query, ""))


_JSON_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", tuple: "array"}


def json_schema(spec: Spec) -> dict[str, object]:
    """Return the JSON schema of one setting."""
    default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
    schema: dict[str, object] = {
        "type": _JSON_TYPES.get(spec.kind, "string"),
        "description": spec.doc,
        "default": default,
    }
    if spec.kind is tuple:
        schema["items"] = {"type": "string"}
    if spec.choices:
        schema["enum"] = [*([""] if spec.default == "" else []), *spec.choices]
    if spec.pattern:
        schema["pattern"] = f"^({spec.pattern})$" if spec.default else f"^({spec.pattern})?$"
    if spec.low is not None:
        schema["minimum"] = int(spec.low) if spec.kind is int else spec.low
    if spec.high is not None:
        schema["maximum"] = int(spec.high) if spec.kind is int else spec.high
    return schema
