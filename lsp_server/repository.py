"""A repository's own file, `.midspan.toml`: what of it midspan keeps its hands off.

    disable = true                          # nothing of this repository is shown to a model
    languages = ["python"]                  # only files of these languages are
    ignore = ["secrets/", "*.generated.py"] # these files are not; rules as in .gitignore

Rule: it can only narrow. Whoever wrote the repository is not the user, so that endpoints, models,
keys, commands and all else in it are problems that say so. What cannot be understood counts as
"nothing may be shown": a rule that is lost would show what it was to keep back. Knows no pygls.

What repositories keep back from other tools, in `.aiexclude` and `.cursorignore`, is kept back too.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends import config_files, config_layers
from backends.config_files import Document as File
from backends.config_layers import Shape
from backends.config_schema import Given, Problem, Scope, setting, similar, specs
from lsp_server import ignore
from lsp_server.settings import SHAPE

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

logger = logging.getLogger(__name__)

NAME = ".midspan.toml"
EXCLUDES = ".aiexclude"  # of Gemini's tools; an empty one leaves everything out
_EVERYTHING = ("*",)
_TABLE = "repository"


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """All that a repository's file may say."""

    disable: bool = setting(
        False, "Show nothing of this repository to a model.", scope=Scope.REPOSITORY
    )
    languages: tuple[str, ...] = setting(
        (),
        "Language ids; only files in them are shown to a model. Empty for all.",
        scope=Scope.REPOSITORY,
    )
    ignore: tuple[str, ...] = setting(
        (), "Files not shown to a model, by the rules of .gitignore.", scope=Scope.REPOSITORY
    )


_SHAPE = Shape(tables={_TABLE: RepositorySettings})


def check_text(text: str, source: str) -> tuple[Problem, ...]:
    """Return what is wrong in a repository's file, as an editor has it."""
    return _understand(config_files.parse(text, source))[1]


def _understand(file: File) -> tuple[RepositorySettings, tuple[Problem, ...], bool]:
    """Return the settings, what is wrong, and whether all that narrows was understood."""
    known = specs(RepositorySettings)
    givens, foreign = [], []
    for name, value in file.values.items():
        given = Given((_TABLE, name), value, file.origin((name,)))
        if name in known:
            givens.append(given)
        else:
            foreign.append(given.problem(_why_ignored(name)))
    found = config_layers.resolve(givens, _SHAPE, file.problems)
    problems, settings = list(found.problems), found.table(_TABLE)
    if settings.ignore and (wrong := _wrong_pattern(settings.ignore)):
        problems.append(Given((), None, file.origin(("ignore",))).problem(wrong))
    return settings, (*problems, *foreign), not problems


def _why_ignored(name: str) -> str:
    known = list(specs(RepositorySettings))
    users = name in SHAPE.tables or name in SHAPE.foreign
    if not users and (hint := similar(name, known)).startswith("; did"):
        return f"unknown key {name!r}{hint}"
    return (
        f"{name!r} is ignored here: a repository's file can only narrow, with "
        f"{', '.join(known)}; models, endpoints and commands are the user's own choice"
    )


def _wrong_pattern(patterns: tuple[str, ...]) -> str:
    try:
        _compiled(patterns)
    except ValueError as exc:
        return f"'ignore' has a pattern that is none: {exc}"
    return ""


def _compiled(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # 20 ms, and few repositories need it

    return GitIgnoreSpec.from_lines(patterns)


# --- which rules hold for a file ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rules:
    """One file's rules, compiled."""

    file: Path
    settings: RepositorySettings
    understood: bool
    ignored: Callable[[str], bool]

    def refusal(self, path: Path, language_id: str) -> str | None:
        """Say why `path`, in this file's folder or below, must not be shown to a model."""
        if not self.understood:
            return f"{self.file} can't be understood, and may say to keep this file back"
        if self.settings.disable:
            return f"{self.file} switches midspan off in this repository"
        if self.settings.languages and language_id not in self.settings.languages:
            return f"{self.file} leaves {language_id or 'this language'} out"
        if self.ignored(path.relative_to(self.file.parent).as_posix()):
            return f"{self.file} ignores it"
        return None


class Repositories:
    """The rules of the repositories in which documents are, read when they have changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], _Rules]] = {}

    def refusal(self, path: str, language_id: str) -> str | None:
        """Say why the file at `path` must not be shown to a model; None: it may be.

        Every file of `READERS` in its folder and above counts. Reads them when they are new.
        """
        file = Path(path)
        if not file.is_absolute():
            return None  # untitled: in no repository
        for rules in self._rules(file):
            if reason := rules.refusal(file, language_id):
                return reason
        return None

    def _rules(self, file: Path) -> Iterator[_Rules]:
        for folder, name in itertools.product(file.parents, READERS):
            place = folder / name
            try:
                info = place.stat()
            except (OSError, ValueError):  # none there, or no path at all (a NUL in it)
                continue
            version = info.st_mtime_ns, info.st_size
            known = self._known.get(place)
            if known is None or known[0] != version:
                known = self._known[place] = version, READERS[name](place)
            yield known[1]


def _read(place: Path) -> _Rules:
    file = config_files.read(place) or File(str(place))
    settings, problems, understood = _understand(file)
    for problem in problems:
        logger.warning("%s", problem)
    matches = _matcher(settings.ignore) if understood and settings.ignore else lambda path: False
    return _Rules(place, settings, understood, matches)


def _read_patterns(place: Path) -> _Rules:
    """Read another tool's file: patterns, by the rules of .gitignore."""
    try:
        text = config_files.read_text(place)
    except (OSError, ValueError) as exc:
        logger.warning("%s %s", place, config_files.unreadable(exc))
        return _Rules(place, RepositorySettings(), understood=False, ignored=lambda path: True)
    patterns = tuple(text.splitlines())
    if place.name == EXCLUDES and not text.strip():
        patterns = _EVERYTHING
    ignored = functools.partial(ignore.matches, patterns)
    return _Rules(place, RepositorySettings(), understood=True, ignored=ignored)


# By the name of the file.
READERS: Mapping[str, Callable[[Path], _Rules]] = {
    NAME: _read,
    EXCLUDES: _read_patterns,
    ".cursorignore": _read_patterns,
}


def _matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    spec = _compiled(patterns)
    return lambda path: bool(spec.match_file(path))
