"""Climbs the evidence ladder with a candidate and says all that was found.

Rule: cheap levels first; the first that fails ends it, and the others say that they were not run.
Nothing generated runs outside the sandbox. Must not know where a candidate comes from.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from lsp_server.kernels import (
    allowlist,
    cases,
    compiling,
    evidence,
    loaders,
    numerics,
    sandbox,
    speed,
    toolchain,
)
from lsp_server.kernels.judge import Judge
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import (
    Candidate,
    Check,
    Evidence,
    Language,
    Level,
    Result,
    Task,
)
from lsp_server.kernels.toolchain import Toolchain

logger = logging.getLogger(__name__)

SECONDS_PER_MIB = 1.5  # of a call's inputs, besides what any call may take
MAX_CODE = 256 * 2**10  # bytes
Tell = Callable[[Level, str], None]

_WORDS = {
    Level.ALLOWED: "reading the host code",
    Level.COMPILES: "compiling",
    Level.CORRECT: "comparing with the reference",
    Level.ROBUST: "trying hidden inputs",
    Level.FAST: "measuring",
}


async def verify(
    task: Task,
    candidate: Candidate,
    tell: Tell | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008
    judge: Judge | None = None,
) -> Evidence:
    """Find out all that this machine can about a candidate. Cancelling kills what runs.

    Several candidates of one task may share a `judge` (`async with Judge.open(task, limits)`),
    also at the same time; without one, the reference gets a process for this candidate alone.

    Raises:
        NoSandbox: nothing can confine it, so nothing was run.
        EngineMissing: the interpreter lacks what kernels in this language need.
        BadRequest: the reference itself cannot be tried.
    """
    await sandbox.require()
    chain = await toolchain.find(limits.python)
    climb = _Climb(task, candidate, limits, chain, tell or (lambda level, message: None))
    await climb.run(judge)
    return await climb.evidence()


def parse(task: Task, code: str) -> tuple[Check, ast.Module | None]:
    """Level 0: whether it is a module that defines the function with its parameters."""

    def no(reason: str, line: int = 0, column: int = 0) -> tuple[Check, None]:
        failed = Check(Level.PARSES, Result.FAILED, reason=reason, line=line, column=column)
        return failed, None

    if len(code.encode("utf-8", "replace")) > MAX_CODE:
        return no(f"it is longer than {MAX_CODE // 2**10} KiB")
    try:
        tree = ast.parse(code)
        compile(tree, "kernel.py", "exec")
    except SyntaxError as error:
        return no(error.msg, error.lineno or 0, error.offset or 0)
    except (ValueError, RecursionError, MemoryError, UnicodeError) as error:
        return no(f"it cannot be read: {error}")
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == task.name]
    if len(functions) != 1:
        there, line = ("twice", functions[-1].lineno) if functions else ("not", 0)
        return no(f"a function {task.name} is {there} defined in it", line)
    arguments = functions[0].args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    wanted = [parameter.name for parameter in task.parameters]
    positional = (*arguments.posonlyargs, *arguments.args)
    required = {one.arg for one in positional[: len(positional) - len(arguments.defaults)]}
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    required |= {one.arg for one, default in keywords if default is None}
    if arguments.posonlyargs or arguments.vararg or arguments.kwarg:
        return no(f"{task.name} must take just {', '.join(wanted)}, by name", functions[0].lineno)
    # Others, with a default, may stand between: text and the like, that no case varies.
    if [name for name in names if name in wanted] != wanted or not required.issubset(wanted):
        return no(
            f"{task.name} takes {', '.join(names) or 'nothing'}, expected {', '.join(wanted)}",
            functions[0].lineno,
        )
    return Check(Level.PARSES, Result.PASSED), tree


class _Climb:
    def __init__(
        self, task: Task, candidate: Candidate, limits: Limits, chain: Toolchain, tell: Tell
    ) -> None:
        self._task = task
        self._candidate = candidate
        self._limits = limits
        self._chain = chain
        self._tell = tell
        self._checks: dict[Level, Check] = {}
        self._compiling: asyncio.Task[None] | None = None

    async def run(self, judge: Judge | None) -> None:
        """All levels, until one fails."""
        check, tree = parse(self._task, self._candidate.code)
        self._add(check)
        if tree is None:
            return
        self._say(Level.ALLOWED)
        self._add(allowlist.check(tree, self._task))
        if self._failed:
            return
        self._chain.check(self._task.language)
        library = None
        device = sandbox.has_device()
        source = loaders.source_of(tree)
        if source is not None:
            self._say(Level.COMPILES)
            built, library = await compiling.native(
                tree, source, self._task.language, self._chain, self._limits, device=device
            )
            self._add(built)
            if self._failed:
                return
            if library is None:
                reason = "no GPU on this machine" if not device else built.reason
                for level in (Level.CORRECT, Level.ROBUST):
                    self._add(Check(level, Result.NOT_RUN, reason=reason))
                return
        async with contextlib.AsyncExitStack() as stack:
            if judge is None:
                judge = await stack.enter_async_context(Judge.open(self._task, self._limits))
            await self._numerics(judge, library)
        if not self._failed:
            self._say(Level.FAST)
            self._add(
                await speed.measure(self._task, self._candidate, self._chain, self._limits, library)
            )

    async def _numerics(self, judge: Judge, library: numerics.Library | None) -> None:
        self._say(Level.CORRECT)
        seed = self._limits.seed if self._limits.seed is not None else secrets.randbelow(2**31)
        types, left_out = _types(self._task, self._candidate.code)
        number = judge.new_set()
        planned = cases.plan(self._task, seed, types)
        if fewer := len(cases.whole(self._task, seed, types)) - len(planned):
            left_out += f" ({fewer} more left out for the size of the inputs)"
        try:
            run = await numerics.run(
                self._task,
                self._candidate,
                judge,
                lambda: judge.make(number, planned),
                number,
                self._chain,
                patient(self._limits, [cases.input_bytes(self._task, case) for case in planned]),
                library=library,
                traced=self._traced,
                go_on=self._go_on,
            )
        except BaseException:
            if self._compiling is not None:
                self._compiling.cancel()
            raise
        finally:
            if self._compiling is not None:
                (error,) = await asyncio.gather(self._compiling, return_exceptions=True)
                self._not_compiled(error)
            judge.forget(number)
        self._judge(run, types, left_out)

    def _traced(self, run: numerics.Run) -> None:
        """The launches are known: compile them beside the calls that remain.

        Of code that raised, the compiler says more; for results that are wrong it is not asked.
        """
        if self._task.language is Language.TRITON:
            if self._compiling is not None or (run.failure and not run.failure.raised):
                return
            self._compiling = asyncio.create_task(self._compile(list(run.launches)))
        elif self._task.language is Language.NUMBA and run.passed:
            self._add(Check(Level.COMPILES, Result.PASSED, summary="this processor", cases=1))

    async def _compile(self, launches: list[numerics.Launch]) -> None:
        self._say(Level.COMPILES)
        self._add(await compiling.triton(self._candidate, launches, self._chain, self._limits))

    def _not_compiled(self, error: BaseException | None) -> None:
        """Say why nothing is known of the compiler; numerics stand without it."""
        if isinstance(error, Exception):
            logger.error("the compiler could not be asked", exc_info=error)
            reason = str(error) or type(error).__name__
            self._add(Check(Level.COMPILES, Result.NOT_RUN, reason=reason))

    def _go_on(self, run: numerics.Run) -> bool:
        if run.count(Level.ROBUST) == 0 and run.passed and run.passed[-1].level is Level.CORRECT:
            agree = "1 case agrees" if len(run.passed) == 1 else f"{len(run.passed)} cases agree"
            self._say(Level.CORRECT, agree)
        return not self._failed

    def _judge(self, run: numerics.Run, types: tuple[str, ...], left_out: str) -> None:
        failure = run.failure
        if failure is not None and failure.typing:
            self._add(_failure(failure, Level.COMPILES))
        if self._failed:
            return
        for level in (Level.CORRECT, Level.ROBUST):
            count = run.count(level)
            if failure is not None and failure.level is level:
                self._add(_failure(failure, level, count))
                return
            words = " and ".join(name for name in types if name)
            summary = f"{count} cases" + (f", {words}" if words else "")
            if level is Level.CORRECT:
                summary += left_out
            self._add(Check(level, Result.PASSED, summary=summary, cases=count))

    async def evidence(self) -> Evidence:
        """What was found, with the levels that were not run."""
        for level in Level:
            if level not in self._checks:
                reason = "an earlier check failed" if self._failed else "not run"
                self._checks[level] = Check(level, Result.NOT_RUN, reason=reason)
        installed = dict(self._chain.versions)
        used = {*toolchain.NEEDS[self._task.language], "python"}
        pairs = [(name, version) for name, version in installed.items() if name in used]
        pairs.append((evidence.INTERPRETER, self._chain.python))
        if self._task.language in toolchain.COMPILERS:
            compiler = toolchain.COMPILERS[self._task.language]
            version = await toolchain.compiler_version(self._task.language)
            pairs.append((compiler, version or "none"))
        versions = evidence.versions(pairs)
        return Evidence(
            key=evidence.key(self._candidate.code, evidence.subject(self._task), versions),
            language=self._task.language,
            checks=tuple(self._checks[level] for level in Level),
            versions=versions,
        )

    def _add(self, check: Check) -> None:
        self._checks[check.level] = check

    def _say(self, level: Level, message: str = "") -> None:
        self._tell(level, message or _WORDS[level])

    @property
    def _failed(self) -> bool:
        return any(check.result is Result.FAILED for check in self._checks.values())


def patient(limits: Limits, sizes: Sequence[int]) -> Limits:
    """The limits for calls with inputs of these sizes, in bytes: large ones take their time.

    In Triton's interpreter seconds for each MiB, where the machine has other work too.
    """
    together, one = (int(n / 2**20 * SECONDS_PER_MIB) for n in (sum(sizes), max(sizes, default=0)))
    bounds = limits.candidate
    candidate = replace(bounds, wall_s=bounds.wall_s + together, cpu_s=bounds.cpu_s + together)
    return replace(limits, candidate=candidate, call_s=limits.call_s + one)


def _failure(failure: numerics.Failure, level: Level, passed: int = 0) -> Check:
    return Check(
        level,
        Result.FAILED,
        reason=failure.reason,
        line=failure.line,
        cases=passed,
        counterexample=failure.case.describe() if failure.case and not failure.typing else "",
    )


def _types(task: Task, code: str) -> tuple[tuple[str, ...], str]:
    """What to try it with, and a word on what had to be left out."""
    types = cases.dtypes(task)
    said = ""
    # The interpreter multiplies matrices of bfloat16 wrongly.
    if task.language is Language.TRITON and "bfloat16" in types and "tl.dot" in code:
        types = tuple(name for name in types if name != "bfloat16")
        said = " (bfloat16 tl.dot unverified)"
    if task.language is Language.TRITON and "triton.autotune" in code:
        said += " (autotune: its first configuration)"
    return types, said
