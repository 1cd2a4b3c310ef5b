"""`MIDSPAN_*`: every setting as an environment variable.

    MIDSPAN_MANAGER_PORT=8012
    MIDSPAN_MODELS_QWEN_CONTEXT_LENGTH=4096     [models.qwen] context_length

Rule: the names are made from the settings' own, so there is no table to keep. An empty variable
counts as not set. A variable of our tables that is no setting is a problem; other `MIDSPAN_*` are
left alone, since they are not settings (`MIDSPAN_CONFIG`, folders, log levels). A few names of
other tools mean settings of ours. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from backends.config_schema import (
    Given,
    Key,
    Layer,
    Origin,
    Problem,
    is_credential,
    similar,
    specs,
)

PREFIX = "MIDSPAN_"
NO_SETTINGS = frozenset({"MIDSPAN_MODELS_DIR", "MIDSPAN_VECTORS_DIR"})  # folders (backends.paths)

# Names that other tools have for settings of ours.
BORROWED: Mapping[str, Key] = {"HF_ENDPOINT": ("downloads", "endpoint")}


def borrowed(environment: Mapping[str, str]) -> list[Given]:
    """Return the settings that variables of other tools hold; they lie below our own."""
    return [
        Given(key, environment[name], Origin(Layer.ENVIRONMENT, name), text=True)
        for name, key in BORROWED.items()
        if environment.get(name)
    ]


def variable(key: Key) -> str:
    """Return the name of the variable that sets `key`."""
    return PREFIX + "_".join(_folded(part) for part in key)


def read(
    environment: Mapping[str, str],
    tables: Mapping[str, type],
    named: Mapping[str, type],
    names: Collection[str] = (),
) -> tuple[list[Given], list[Problem]]:
    """Return the settings that variables hold, in the order of their names.

    `tables` and `named` (tables that the user names, like models) are what may be set; `names`
    are those in use: QWEN_1_5B is one of them, else a new one, qwen-1-5b.
    """
    givens: list[Given] = []
    problems: list[Problem] = []
    for name in sorted(environment):
        table, found, rest = name.removeprefix(PREFIX).partition("_")
        if not (name.startswith(PREFIX) and found and environment[name]) or name in NO_SETTINGS:
            continue
        table = table.lower()
        if table in tables:
            key = _field(table, rest, specs(tables[table]))
        elif table in named:
            key = _named_field(table, rest, specs(named[table]), names)
        else:
            continue
        if isinstance(key, str):
            problems.append(Problem(key, name))
        else:
            origin = Origin(Layer.ENVIRONMENT, name)
            givens.append(Given(key, environment[name], origin, text=True))
    return givens, problems


def _field(table: str, rest: str, known: Iterable[str]) -> Key | str:
    fields = {_folded(name): name for name in known}
    if rest in fields:
        return table, fields[rest]
    return f"sets nothing: [{table}] has no {rest.lower()!r}{similar(rest, fields.values())}"


def _named_field(table: str, rest: str, known: Iterable[str], names: Collection[str]) -> Key | str:
    """Split NAME_FIELD at the longest field that there is."""
    fields = {_folded(name): name for name in known}
    ends = [end for end in fields if rest.endswith(f"_{end}") and len(rest) > len(end) + 1]
    if not ends:
        if is_credential(rest):
            return "holds a key: put the name of its variable in …_API_KEY_ENV instead"
        return f"must end with a setting of [{table}.NAME]; `midspan config schema` lists them"
    end = max(ends, key=len)
    wanted = rest.removesuffix(f"_{end}")
    matching = [name for name in names if _folded(name) == wanted]
    if len(matching) > 1:
        return f"may mean {' or '.join(sorted(matching))}; set it in the file"
    name = matching[0] if matching else wanted.lower().replace("_", "-")
    return table, name, fields[end]


def _folded(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())
