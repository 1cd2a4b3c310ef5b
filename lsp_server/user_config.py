"""The user's configuration file and environment, as the language server sees them.

Rule: the manager's tables are checked by the manager's own schema, `[lsp]` and `[kernels]` by
ours, and a file has one list of problems. Reads files: not for the event loop. Knows no pygls.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backends import config, config_environment, config_files, config_layers, paths
from backends.config_layers import Resolved
from backends.config_schema import Given, Problem, by_place
from lsp_server.kernels.settings import TABLE as KERNELS
from lsp_server.kernels.settings import KernelSettings
from lsp_server.settings import SHAPE, TABLE


@dataclass(frozen=True, slots=True)
class UserConfig:
    """What was read: the values for this window, the manager's, and all that is wrong."""

    path: Path
    window: tuple[Given, ...]
    manager: Resolved
    problems: tuple[Problem, ...]

    def checked(self) -> tuple[Problem, ...]:
        """Return the problems, and names of models and engines that there are not.

        It looks for models, which nobody needs who only reads the values.
        """
        return by_place((*self.problems, *_names(self.manager, self.window)))


def read(
    environment: Mapping[str, str] | None = None, assignments: tuple[str, ...] = ()
) -> UserConfig:
    """Read the user's file and the environment; `assignments` are the command line's."""
    environment = os.environ if environment is None else environment
    path = paths.config_file()
    ours = [text for text in assignments if text.partition(".")[0] in SHAPE.tables]
    manager = config.resolve(
        path, environment, assignments=[text for text in assignments if text not in ours]
    )
    window, problems = _window(config_files.read_user(path), environment)
    window += config_layers.assignments(ours)
    wrong = config_layers.resolve(window, SHAPE, problems).problems
    return UserConfig(path, tuple(window), manager, by_place((*manager.problems, *wrong)))


def kernel_settings(assignments: tuple[str, ...] = ()) -> KernelSettings:
    """Return `[kernels]`; what is wrong in it keeps its default."""
    found: KernelSettings = config_layers.resolve(
        read(assignments=assignments).window, SHAPE
    ).table(KERNELS)
    return found


def check_text(text: str, source: str) -> tuple[Problem, ...]:
    """Return what is wrong in the text of a configuration file, wherever it is."""
    window, _ = _window(config_files.parse(text, source), {})
    wrong = config_layers.resolve(window, SHAPE).problems
    return by_place((*config.resolve_text(text, source).problems, *wrong))


def check_users(text: str, source: str) -> tuple[Problem, ...]:
    """Return what is wrong in the text of the user's file, as an editor has it, names included."""
    window, _ = _window(config_files.parse(text, source), {})
    # The environment may name models as well, but what is wrong with it stands in no file.
    names = _names(config.resolve_text(text, source, os.environ), window)
    here = [problem for problem in names if problem.source == source]
    return by_place((*check_text(text, source), *here))


def _names(manager: Resolved, window: Iterable[Given]) -> list[Problem]:
    from backends import config_names  # 100 ms with what it needs

    own = config_layers.resolve(window, SHAPE)
    wish = (TABLE, "model")
    others = [Given(wish, own.values[wish], own.origins[wish])] if wish in own.values else []
    return config_names.check(manager, others)


def files() -> tuple[Path, ...]:
    """Return where the user's configuration may be."""
    path = paths.config_file()
    return (path, path.with_name("config.json")) if path.name == "config.toml" else (path,)


def used() -> Path:
    """Return the file that is read: config.json only where there is no config.toml."""
    candidates = files()
    return next((file for file in candidates if file.is_file()), candidates[0])


def _window(
    document: config_files.Document, environment: Mapping[str, str]
) -> tuple[list[Given], list[Problem]]:
    ours = {name: value for name, value in document.values.items() if name in SHAPE.tables}
    folder = os.path.dirname(document.source)
    in_file = list(config_layers.flatten(ours, SHAPE, document.origin, folder=folder))
    variables, problems = config_environment.read(environment, SHAPE.tables, {})
    return in_file + variables, problems
