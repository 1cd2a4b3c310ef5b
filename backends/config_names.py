"""Names in the configuration that stand for nothing: models and engines that there are not.

Rule: looks where models are and which engines are registered, so only those who check a
configuration ask for it, and nobody who just reads one. Must not know how a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backends import config, engines, paths
from backends.catalogue import Catalogue
from backends.config_layers import Resolved
from backends.config_schema import Given, Problem
from backends.downloads.catalogue import BY_NAME
from backends.errors import MidspanError
from backends.remembered import Remembered

_MODELS = (("completion", "model"), ("chat", "model"))
_MANY = 12  # more names than this are not listed in a message


def check(found: Resolved, others: Iterable[Given] = ()) -> list[Problem]:
    """Return what is wrong with names; `others` are values of other tables that name a model."""
    named = [Given(key, found.values.get(key), found.origins[key]) for key in _chosen(found)]
    return [*_models(found, [*named, *others]), *_engines(found)]


def _chosen(found: Resolved) -> Iterator[tuple[str, ...]]:
    return (key for key in _MODELS if key in found.origins)


def _models(found: Resolved, named: Iterable[Given]) -> Iterator[Problem]:
    named = [given for given in named if given.value]
    if not named:
        return
    try:
        known = Catalogue(config.made(found), Remembered(paths.state_dir())).models()
    except (MidspanError, OSError):  # a folder cannot be read: it is not known what there is
        return
    for given in named:
        name = str(given.value)
        # What is wrong with a table of that name is told at the table.
        if name not in known and name not in found.names["models"]:
            yield given.problem(f"no model is called {name!r}; {_have(name, list(known))}")


def _have(name: str, known: list[str]) -> str:
    if name in BY_NAME:
        return f"it can be downloaded: midspan models pull {name}"
    more = ", …; `midspan models list` shows all" if len(known) > _MANY else ""
    return f"there are {', '.join(known[:_MANY])}{more}"


def _engines(found: Resolved) -> Iterator[Problem]:
    for key, value in found.values.items():
        if key[0] == "models" and key[-1] == "engine" and value and value not in engines.ENGINES:
            given = Given(key, value, found.origins[key])
            known = ", ".join(engines.ENGINES)
            yield given.problem(f"no engine is called {value!r}; there are {known}")
