"""Levels 3 and 4: calls a candidate on every case and has what it returns judged.

Rule: the candidate's process gets inputs and nothing else; the first case that fails ends it. Must
not know what is computed or what is expected.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lsp_server.kernels import cases, loaders, sandbox
from lsp_server.kernels.cases import Case
from lsp_server.kernels.children import wire
from lsp_server.kernels.judge import Judge, Made
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import Candidate, Language, Level, Task
from lsp_server.kernels.toolchain import Toolchain

Launch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Library:
    """C or CUDA source that was built for the check: the library, and where its source begins."""

    data: bytes
    preload: str  # the sanitiser's runtime
    line: int  # of the candidate's module


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed in which case.

    `raised` is set when the code itself raised, `typing` when Numba could not type the kernel.
    """

    level: Level
    reason: str
    case: Case | None = None
    line: int = 0
    raised: bool = False
    typing: bool = False


@dataclass(slots=True)
class Run:
    """What came of a candidate's calls so far."""

    passed: list[Case] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    failure: Failure | None = None

    def count(self, level: Level) -> int:
        """How many cases of a level passed."""
        return sum(case.level is level for case in self.passed)


_ENVIRONMENT: Mapping[Language, Mapping[str, str]] = {
    Language.TRITON: {"TRITON_INTERPRET": "1"},
    Language.NUMBA: {"NUMBA_BOUNDSCHECK": "1"},
    Language.C: {
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "print_stacktrace=0:halt_on_error=1",
    },
    Language.CUDA: {},
}


async def run(
    task: Task,
    candidate: Candidate,
    judge: Judge,
    make: Callable[[], Awaitable[Sequence[Made]]],
    number: int,
    chain: Toolchain,
    limits: Limits,
    *,
    library: Library | None = None,
    traced: Callable[[Run], None] = lambda run: None,
    go_on: Callable[[Run], bool] = lambda run: True,
) -> Run:
    """Call the candidate on the judge's set of cases, in order, until one fails or `go_on` says no.

    `traced` is called once the first case of each type is done: then the launches are known.
    """
    found = Run()
    bounds = limits.candidate
    environment = dict(_ENVIRONMENT[task.language])
    if library is not None:
        # Sanitisers and GPU drivers reserve far more addresses than they use.
        bounds = sandbox.without_address_limit(bounds)
        if library.preload:
            environment["LD_PRELOAD"] = library.preload
    device = task.language is Language.CUDA
    program = sandbox.Program("candidate", chain, environment, devices=device)
    async with sandbox.start(program, bounds) as child:
        opened = {
            "do": "open",
            "source": candidate.code,
            "name": task.name,
            "language": task.language.value,
            "loader": loaders.NAME,
        }
        current: Case | None = None
        types: set[str] = set()
        level = Level.CORRECT
        try:
            await child.write(opened, library.data if library else b"")
            ready = await make()
            answer, _ = await child.read()
            if answer["event"] == "failed":
                found.failure = _failed(answer, level, None)
            types = {one.case.dtype for one in ready}
            for position, one in enumerate(ready):
                if position == len(types):
                    traced(found)
                if found.failure is not None or not go_on(found):
                    break
                current, level = one.case, one.case.level
                found.failure = await _call(child, judge, task, number, one, found, limits.call_s)
                if found.failure is None:
                    found.passed.append(current)
        except sandbox.Died as died:
            reason, line = _crash(died, library)
            found.failure = Failure(level, reason, current, line)
    if len(found.passed) < len(types):
        traced(found)
    return found


async def _call(
    child: sandbox.Child,
    judge: Judge,
    task: Task,
    number: int,
    one: Made,
    found: Run,
    call_s: float,
) -> Failure | None:
    case = one.case
    await child.write(_arguments(task, one), one.values)
    try:
        async with asyncio.timeout(call_s):
            answer, outputs = await child.read()
    except TimeoutError:
        child.kill(f"one call took more than {call_s:g} s")
        answer, outputs = await child.read()  # which says so
    if case.level is Level.CORRECT:
        found.launches += answer.get("launches", [])
    if answer["event"] == "failed":
        return _failed(answer, case.level, case)
    difference = await judge.verdict(number, case.index, answer, outputs)
    return Failure(case.level, difference, case) if difference else None


def _arguments(task: Task, one: Made) -> wire.Header:
    numbers = cases.numbers(task.parameters, one.case)
    return {
        "do": "call",
        "index": one.case.index,
        "layout": one.case.layout,
        "inputs": list(one.inputs),
        "arguments": [
            [p.name, [numbers[p.name]] if p.name in numbers else "tensor"] for p in task.parameters
        ],
    }


def _failed(answer: wire.Header, level: Level, case: Case | None) -> Failure:
    return Failure(
        level,
        answer["reason"],
        case,
        answer["line"],
        not answer.get("broken"),
        bool(answer.get("typing")),
    )


def _crash(died: sandbox.Died, library: Library | None) -> tuple[str, int]:
    """Why a candidate's process died, from what a sanitiser printed where there is one."""
    text = died.stderr
    problem = re.search(r"AddressSanitizer: ([\w-]+)", text) or re.search(
        r"runtime error: (.+)", text
    )
    if library is None or problem is None:
        return str(died), 0
    access = re.search(r"^(READ|WRITE) of size (\d+)", text, re.MULTILINE)
    where = re.search(r"kernel\.c:(\d+)", text)
    words = problem[1] + (f" ({access[1].lower()} of {access[2]} bytes)" if access else "")
    return words, library.line + int(where[1]) - 1 if where else 0
