"""From what the layers gave to settings: the later layer wins, and each value knows its origin.

Rule: what is wrong becomes a problem at its place, and the value of the layer below stays. Works on
any tables of settings (`Shape`); must not know which there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.config_schema import (
    NEVER_A_KEY,
    Given,
    Key,
    Layer,
    Origin,
    Problem,
    Spec,
    UnfitError,
    is_credential,
    masked,
    similar,
    specs,
    wrong,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which tables there are: `[name]`, and `[name.NAME]` with names of the user's."""

    tables: Mapping[str, type]
    named: Mapping[str, type] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()  # another reader's tables: left alone
    spelled: Callable[[str], str] = str  # a key as users may write it → as it is called


@dataclass(frozen=True, slots=True)
class Explained:
    """A value, where it comes from, and what it would be by default."""

    key: str
    value: object
    default: object
    origin: Origin
    doc: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """All values that were set, with their origins."""

    shape: Shape
    values: Mapping[Key, object]
    origins: Mapping[Key, Origin]
    names: Mapping[str, Mapping[str, Origin]]  # of the named tables, and where they begin
    problems: tuple[Problem, ...]
    refused: frozenset[Key] = frozenset()  # what was set to something that does not fit

    def table(self, *key: str) -> Any:
        """Return a table as its dataclass: `table("manager")`, `table("models", "NAME")`."""
        kind = self.shape.tables.get(key[0]) or self.shape.named[key[0]]
        depth = len(key)
        given = {k[-1]: v for k, v in self.values.items() if k[:depth] == key}
        return kind(**given)

    def explain(self) -> Iterator[Explained]:
        """Say of every setting what it is and why; values are masked."""
        for name, kind in self.shape.tables.items():
            yield from self._explain((name,), kind)
        for name, kind in self.shape.named.items():
            for member in self.names.get(name, ()):
                yield from self._explain((name, member), kind)

    def _explain(self, table: Key, kind: type) -> Iterator[Explained]:
        for spec in specs(kind).values():
            key = (*table, spec.name)
            value = masked(spec, self.values.get(key, spec.default))
            origin = self.origins.get(key, Origin(Layer.DEFAULT))
            yield Explained(".".join(key), value, spec.default, origin, spec.doc)


def flatten(
    values: Mapping[str, object],
    shape: Shape,
    origin: Callable[[Key], Origin],
    *,
    folder: str = "",
) -> Iterator[Given]:
    """Yield the settings in nested tables, and the tables where something else stands."""
    for name, value in values.items():
        if name in shape.foreign:
            continue
        if not isinstance(value, Mapping) or name not in (*shape.tables, *shape.named):
            yield Given((name,), value, origin((name,)))
            continue
        for key, inner in value.items():
            if name in shape.tables:
                yield Given((name, key), inner, origin((name, key)), folder=folder)
                continue
            yield Given((name, key), inner, origin((name, key)))
            for last, leaf in inner.items() if isinstance(inner, Mapping) else ():
                yield Given((name, key, last), leaf, origin((name, key, last)), folder=folder)


def assignments(texts: Iterable[str], layer: Layer = Layer.COMMAND_LINE) -> list[Given]:
    """Return the settings in texts like `manager.port=8012` and `models.my.model.threads=2`."""
    givens = []
    for text in texts:
        dotted, found, value = text.partition("=")
        first, _, rest = dotted.strip().partition(".")
        middle, _, last = rest.rpartition(".")
        key = tuple(part for part in (first, middle, last) if part)
        origin = Origin(layer, f"--set {dotted.strip()}")
        given = Given(key, value, origin, text=True) if found and key else None
        givens.append(given or Given((text,), None, origin, text=True))
    return givens


def resolve(givens: Iterable[Given], shape: Shape, problems: Iterable[Problem] = ()) -> Resolved:
    """Apply `givens` in order; `problems` are those known before."""
    resolver = _Resolver(shape, list(problems))
    for given in givens:
        resolver.apply(given)
    return Resolved(
        shape,
        resolver.values,
        resolver.origins,
        resolver.names,
        tuple(resolver.problems),
        frozenset(resolver.refused),
    )


class _Resolver:
    def __init__(self, shape: Shape, problems: list[Problem]) -> None:
        self._shape = shape
        self.problems = problems
        self.values: dict[Key, object] = {}
        self.refused: set[Key] = set()
        self.origins: dict[Key, Origin] = {}
        self.names: dict[str, dict[str, Origin]] = {name: {} for name in shape.named}

    def apply(self, given: Given) -> None:
        """Take one value, or say why not."""
        table = given.key[0] if given.key else ""
        if table in self._shape.foreign:
            return
        if table in self._shape.tables and len(given.key) == 2:
            self._set(given, self._shape.tables[table])
        elif table in self._shape.named and len(given.key) == 3:
            self.names[table].setdefault(given.key[1], given.origin)
            self._set(given, self._shape.named[table])
        else:
            self._table(given, table)

    def _table(self, given: Given, table: str) -> None:
        """Check what stands in the place of a table."""
        if given.text and given.value is None:
            self.problems.append(given.problem("is not KEY=VALUE, for example manager.port=8012"))
        elif table not in (*self._shape.tables, *self._shape.named):
            tables = (*self._shape.tables, *self._shape.named, *self._shape.foreign)
            hint = similar(table, tables)
            self.problems.append(given.problem(f"unknown table or key {table!r}{hint}"))
        elif not isinstance(given.value, Mapping):
            self.problems.append(given.problem(f"{'.'.join(given.key)!r} must be a table"))
        elif len(given.key) == 2:
            self.names[table].setdefault(given.key[1], given.origin)

    def _set(self, given: Given, kind: type) -> None:
        known = specs(kind)
        name = self._shape.spelled(given.key[-1])
        if name not in known:
            self.problems.append(given.problem(_unknown(given.key[-1], known)))
            return
        spec, key = known[name], (*given.key[:-1], name)
        try:
            text = given.value if given.text and isinstance(given.value, str) else None
            value = spec.read(given.value) if text is None else spec.parse(text)
        except UnfitError:
            message = wrong(spec, given.value)
            named = message if given.text else f"{given.key[-1]!r} {message}"
            self.problems.append(given.problem(named))
            self.refused.add(key)
            return
        self.values[key] = _absolute(value, given.folder, spec.path) if spec.path else value
        self.origins[key] = given.origin


def _unknown(key: str, known: Mapping[str, Spec]) -> str:
    if is_credential(key) and "api_key_env" in known:
        return f"{key!r} {NEVER_A_KEY}"
    return f"unknown key {key!r}{similar(key, known)}"


def _absolute(value: Any, folder: str, kind: str) -> Any:
    """Return a path with ~ and relative ones resolved, from the folder of the file it is in."""
    if not value or (kind == "program" and os.sep not in value):
        return value
    return os.path.abspath(os.path.join(folder, os.path.expanduser(value)))
