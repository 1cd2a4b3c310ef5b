"""The hold-out rule: which standard library modules the starter model has never seen.

Rule: standard library only; the one place that says what may be trained on and what may be
measured on. A module is one top-level name (`json`, `email`): a package's files stand or fall
together. Must not know tokenizers or models.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from pathlib import Path

HOLD_OUT_SHARE = 5  # one module in this many

# Not source worth learning or measuring: an application, demos, generated help text, tests.
EXCLUDED_MODULES = frozenset({"idlelib", "turtledemo", "pydoc_data", "test"})

# Folders skipped wherever they occur inside a module.
EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "pgen2"}
)


def is_held_out(module: str) -> bool:
    """Whether the top-level standard library module of this name is held out of training."""
    return int(hashlib.sha256(module.encode()).hexdigest(), 16) % HOLD_OUT_SHARE == 0


def stdlib_root() -> Path:
    """Return the running interpreter's standard library folder."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_files(root: Path | None = None) -> dict[str, list[Path]]:
    """Return source files by top-level module, both sorted, without tests and excluded modules.

    `root` is a standard library folder, by default the running interpreter's. Modules without
    Python source (built in or compiled) are left out.
    """
    root = root or stdlib_root()
    modules: dict[str, list[Path]] = {}
    for name in sorted(set(sys.stdlib_module_names) - EXCLUDED_MODULES):
        single, package = root / f"{name}.py", root / name
        if single.is_file():
            modules[name] = [single]
        elif package.is_dir():
            files = [
                path
                for path in sorted(package.rglob("*.py"))
                if not EXCLUDED_FOLDERS & set(path.relative_to(root).parts)
            ]
            if files:
                modules[name] = files
    return modules


def held_out_modules(root: Path | None = None) -> dict[str, list[Path]]:
    """Return the held-out part of `module_files`: what benchmarks may measure on."""
    return {name: files for name, files in module_files(root).items() if is_held_out(name)}


def training_modules(root: Path | None = None) -> dict[str, list[Path]]:
    """Return the rest of `module_files`: what training may read."""
    return {name: files for name, files in module_files(root).items() if not is_held_out(name)}


def held_out_files(root: Path | None = None) -> list[Path]:
    """Return every held-out source file, sorted by module."""
    return [path for files in held_out_modules(root).values() for path in files]
