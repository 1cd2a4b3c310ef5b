"""What is known of a kernel: its key, the sentence that says it, and the folder that keeps it.

Rule: evidence is for one text of kernel and reference, what that is called with, and one set of
versions; any edit of any of them and it is not found. Files are written whole or not at all, and
only the user can read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import backends
from backends import paths
from lsp_server.kernels import files, inputs
from lsp_server.kernels.task import Check, Evidence, Language, Level, Result, Task

LADDER = 1  # to be raised when the checks change: what older ones found is stale
INTERPRETER = "interpreter"  # whose packages the others are
_NOT_A_PACKAGE = {INTERPRETER, "python", "midspan", "ladder", "cc", "nvcc"}

Versions = tuple[tuple[str, str], ...]


def key(code: str, reference: str, versions: Versions) -> str:
    """The hash of a kernel's text, its reference's and all versions."""
    whole = json.dumps([code, reference, [list(pair) for pair in sorted(versions)]])
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def subject(task: Task) -> str:
    """The text that a kernel is held against: the reference's, and the shapes it is tried with."""
    return f"{task.source}\n# {inputs.shown(task.parameters)}\n"


def versions(installed: Iterable[tuple[str, str]]) -> Versions:
    """All versions that evidence depends on: those installed, midspan's and the ladder's."""
    ours = (("ladder", str(LADDER)), ("midspan", backends.__version__))
    return tuple(sorted((*installed, *ours)))


def statement(evidence: Evidence) -> str:
    """All that is known, in one line: what was shown, and what was not."""
    failure = evidence.failure
    if failure is not None:
        words = f"failed: {_LEVELS[failure.level]}: {failure.reason.splitlines()[0][:160]}"
        return words + (f" ({failure.counterexample})" if failure.counterexample else "")
    checks = {check.level: check for check in evidence.checks}
    parts = [_numerics(evidence, checks), _compiled(evidence, checks)]
    speed = checks.get(Level.FAST)
    passed = speed is not None and speed.result is Result.PASSED
    parts.append(speed.summary if speed is not None and passed else "speed not measured")
    return " · ".join(part for part in parts if part)


_LEVELS = {
    Level.PARSES: "it is no module with the function",
    Level.ALLOWED: "not allowed",
    Level.COMPILES: "it does not compile",
    Level.CORRECT: "wrong",
    Level.ROBUST: "wrong on hidden inputs",
    Level.FAST: "speed",
}
_RAN_ON = {
    Language.TRITON: "CPU interpreter",
    Language.C: "this processor, with sanitisers",
    Language.NUMBA: "this processor, with bounds checked",
    Language.CUDA: "this machine's GPU",
}


def _numerics(evidence: Evidence, checks: dict[Level, Check]) -> str:
    both = [checks.get(Level.CORRECT), checks.get(Level.ROBUST)]
    if not evidence.verified:
        reason = next((c.reason for c in both if c is not None and c.reason), "not run")
        return f"not verified ({reason})"
    count = sum(check.cases for check in both if check is not None)
    types = both[0].summary.partition(", ")[2] if both[0] is not None else ""
    words = f"verified on {_RAN_ON[evidence.language]}, {count} cases"
    return words + (f", {types}" if types else "")


def _compiled(evidence: Evidence, checks: dict[Level, Check]) -> str:
    check = checks.get(Level.COMPILES)
    if check is None or check.result is not Result.PASSED:
        return f"not compiled ({check.reason})" if check is not None and check.reason else ""
    return f"compiled for {check.summary}"


class Store:
    """A folder of evidence, one JSON file for each pair of kernel and reference."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def save(self, evidence: Evidence, code: str, reference: str) -> None:
        """Keep it. OSError when the disk is full or the folder cannot be written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(code, reference)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(evidence), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def find(self, code: str, reference: str) -> Evidence | None:
        """What is known of just these texts with what is installed now; None when nothing is.

        Packages are compared with those of this interpreter, where they were its own.
        """
        try:
            data = json.loads(self._path(code, reference).read_text(encoding="utf-8"))
            found = _read(data)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if found.key != key(code, reference, found.versions):
            return None
        return found if _current(found.versions) else None

    def _path(self, code: str, reference: str) -> Path:
        return self._folder / f"{key(code, reference, ())}.json"


def store() -> Store:
    """The folder in which this machine's evidence is kept."""
    return Store(paths.state_dir() / "kernels")


def keep(evidence: Evidence, code: str, task: Task) -> None:
    """Keep it for the code as `files.code_of` reads it, whatever line ends `code` has.

    Raises OSError as `Store.save` does.
    """
    code = files.canonical(code)
    about = subject(task)
    found = replace(evidence, key=key(code, about, evidence.versions))
    store().save(found, code, about)


def known(code: str, task: Task) -> Evidence | None:
    """What is known of the code, as `files.code_of` reads it; None when nothing is."""
    return store().find(code, subject(task))


def _current(kept: Versions) -> bool:
    now = dict(versions(()))
    here = os.path.abspath(sys.executable)
    ours = dict(kept).get(INTERPRETER, here) == here
    for name, version in kept:
        if name in now and now[name] != version:
            return False
        if ours and name not in _NOT_A_PACKAGE:
            with contextlib.suppress(metadata.PackageNotFoundError):
                if metadata.version(name) != version:
                    return False
    return all(name in dict(kept) for name in now)


def _read(data: dict[str, object]) -> Evidence:
    checks = data["checks"]
    kept = data["versions"]
    if not isinstance(checks, list) or not isinstance(kept, list):
        raise TypeError("no list")
    return Evidence(
        key=str(data["key"]),
        language=Language(str(data["language"])),
        checks=tuple(
            Check(
                level=Level(int(one["level"])),
                result=Result(one["result"]),
                summary=str(one["summary"]),
                reason=str(one["reason"]),
                line=int(one["line"]),
                column=int(one["column"]),
                cases=int(one["cases"]),
                counterexample=str(one["counterexample"]),
            )
            for one in checks
        ),
        versions=tuple((str(name), str(version)) for name, version in kept),
    )
