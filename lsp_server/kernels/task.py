"""What a kernel is to be made of, what was made, and what is known of it: data, no decisions.

Rule: standard library only and importable by anything here; a check that was not run says so and
why, it is never left out. Must not know how anything is generated or run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Language(StrEnum):
    """What a kernel is written in."""

    TRITON = "triton"
    C = "c"
    NUMBA = "numba"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the reference. A tensor has a shape; numbers and flags have a value.

    Sizes are names that stand for any size ("N") or fixed numbers; the same name is the same size
    everywhere. `kind` is "tensor", "float", "int" or "bool".
    """

    name: str
    kind: str
    shape: tuple[int | str, ...] = ()
    dtype: str = "float32"  # torch's name, of a tensor
    value: float | int | bool | None = None  # of the others: what they are tried with
    guessed: bool = False  # nobody wrote the shape down


@dataclass(frozen=True, slots=True)
class Task:
    """One reference function, able to stand alone.

    `source` is a whole module: the imports and helpers that the function needs, and the function.
    `line` and `end_line` (1-based, inclusive) are where it stands in `path`.
    """

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    language: Language
    path: str = ""
    line: int = 0
    end_line: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel's module. It defines a function of the reference's name and parameters.

    `origin` is "template:NAME" or "model:NAME"; `attempt` counts from 1 within its origin.
    """

    code: str
    origin: str
    attempt: int = 1


class Level(IntEnum):
    """The evidence ladder; each step needs the one before."""

    PARSES = 0
    ALLOWED = 1  # its syntax tree keeps to an allow-list
    COMPILES = 2  # for the named targets, without a device
    CORRECT = 3  # numerics against the reference: odd sizes, strides, dtypes, seeds
    ROBUST = 4  # hidden inputs, unmutated inputs, no aliasing, guard canaries
    FAST = 5  # timed against eager and compiled, on a device


class Result(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the ladder. `summary` is for people: "24 cases, float32 and float16".

    `reason` says why it failed or was not run; `line` (1-based) is of the candidate's code, 0 where
    none is to blame. `counterexample` names the case: sizes, dtype, seed, greatest difference.
    """

    level: Level
    result: Result
    summary: str = ""
    reason: str = ""
    line: int = 0
    column: int = 0
    cases: int = 0
    counterexample: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a candidate.

    `key` is the hash of the kernel, the reference with its shapes, and the versions.
    """

    key: str
    language: Language
    checks: tuple[Check, ...]
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def verified(self) -> bool:
        """Whether it was shown to compute what the reference does, as far as this machine can."""
        results = {check.level: check.result for check in self.checks}
        return (
            all(
                results.get(level) is Result.PASSED
                for level in (Level.PARSES, Level.ALLOWED, Level.CORRECT, Level.ROBUST)
            )
            and Result.FAILED not in results.values()
        )

    @property
    def failure(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.result is Result.FAILED), None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate and what was found."""

    candidate: Candidate
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Outcome:
    """What generating came to: the best attempt first, and all of them in order.

    `test` is the test's source, which the tool wrote from the reference. `message` is for people.
    """

    task: Task
    best: Attempt | None
    attempts: tuple[Attempt, ...]
    test: str
    message: str

    @property
    def success(self) -> bool:
        """Whether there is a verified kernel."""
        return self.best is not None and self.best.evidence.verified


@dataclass(frozen=True, slots=True)
class Step:
    """What a worker is doing just now, for whoever watches: `done` of `total` attempts."""

    worker: int
    state: str  # "writing", "checking", "verified", "failed", "stopped"
    message: str
    done: int = 0
    total: int = 0


Tell = Callable[[Step], None]
