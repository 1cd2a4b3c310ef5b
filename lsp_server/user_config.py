"""The user's configuration file and environment, as the language server sees them.

Rule: the manager's tables are checked by the manager's own schema, `[lsp]` and `[kernels]` by
ours, and a file has one list of problems. Reads files: not for the event loop. Knows no pygls.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends import config, config_environment, config_files, config_layers, paths
from backends.config_layers import Resolved
from backends.config_schema import Given, Problem
from lsp_server.kernels.settings import TABLE as KERNELS
from lsp_server.kernels.settings import KernelSettings
from lsp_server.settings import SHAPE


@dataclass(frozen=True, slots=True)
class UserConfig:
    """What was read: the values for this window, the manager's, and all that is wrong."""

    path: Path
    window: tuple[Given, ...]
    manager: Resolved
    problems: tuple[Problem, ...]


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
    return UserConfig(path, tuple(window), manager, (*manager.problems, *wrong))


def kernel_settings(assignments: tuple[str, ...] = ()) -> KernelSettings:
    """Return `[kernels]`; what is wrong in it keeps its default."""
    found: KernelSettings = config_layers.resolve(
        read(assignments=assignments).window, SHAPE
    ).table(KERNELS)
    return found


def check_text(text: str, source: str) -> tuple[Problem, ...]:
    """Return what is wrong in the text of a configuration file, as an editor has it."""
    window, _ = _window(config_files.parse(text, source), {})
    wrong = config_layers.resolve(window, SHAPE).problems
    return (*config.check_text(text, source), *wrong)


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
