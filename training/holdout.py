"""The hold-out rule: which standard-library modules no part of training may see.

Rule of this module: pure standard library, so that the benchmark can import the very same rule. It
knows nothing of tokenizers or models. A module is one *top-level* name (`json`, `email`): a
package's files stand or fall together.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from pathlib import Path

HOLD_OUT_SHARE = 5
"""One module in this many is held out."""

EXCLUDED_MODULES = frozenset({"idlelib", "turtledemo", "pydoc_data", "test"})
"""Not source worth learning or measuring: an application, demos, generated help text, tests."""

EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "pgen2"}
)
"""Folder names that are skipped wherever they occur inside a module."""

GENERATED = re.compile(
    r"generated (by|from|automatically)|automatically generated|do not edit", re.IGNORECASE
)
"""In a file's first characters: written by a program. In Python 3.11, a third of all held-out
characters are the code tables of `encodings`, which say nothing about completing code."""


def is_held_out(module: str) -> bool:
    """Whether the top-level standard-library module of this name is held out of training.

    >>> is_held_out("json") == is_held_out("json")
    True
    """
    return int(hashlib.sha256(module.encode()).hexdigest(), 16) % HOLD_OUT_SHARE == 0


def stdlib_root() -> Path:
    """The running interpreter's standard-library folder."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_files(root: Path | None = None) -> dict[str, list[Path]]:
    """Source files by top-level module name, both sorted; tests, caches and `EXCLUDED_MODULES`
    left out.

    `root` is a standard-library folder, by default the running interpreter's. Modules without
    Python source (built-in or compiled) don't appear.
    """
    root = root or stdlib_root()
    modules: dict[str, list[Path]] = {}
    for name in sorted(set(sys.stdlib_module_names) - EXCLUDED_MODULES):
        single, package = root / f"{name}.py", root / name
        if single.is_file():
            modules[name] = [single]
        elif package.is_dir():
            files = [
                p
                for p in sorted(package.rglob("*.py"))
                if not EXCLUDED_FOLDERS & set(p.relative_to(root).parts)
            ]
            if files:
                modules[name] = files
    return modules


def is_generated(text: str) -> bool:
    """Whether a file says of itself that a program wrote it. Neither trained nor measured on."""
    return GENERATED.search(text[:800]) is not None


def held_out_modules(root: Path | None = None) -> dict[str, list[Path]]:
    """The held-out part of `module_files`: what benchmarks may measure on."""
    return {name: files for name, files in module_files(root).items() if is_held_out(name)}


def training_modules(root: Path | None = None) -> dict[str, list[Path]]:
    """The rest of `module_files`: what training may read."""
    return {name: files for name, files in module_files(root).items() if not is_held_out(name)}
