"""Generating a kernel: templates first, then a model, each candidate checked, until one is right.

Rule: the checks decide, never the one who wrote it. Workers write side by side; the first verified
kernel stops the others, and cancelling stops them all, down to the processes that run. A model that
chats is told what was wrong; one that only completes tries again, since it repairs badly. Must not
know editors, nor how a model is reached.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backends.errors import MidspanError
from lsp_server.kernels import files, test_source
from lsp_server.kernels.evidence import statement
from lsp_server.kernels.judge import Judge
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.models import ManagerModel, ModelSource
from lsp_server.kernels.settings import KernelSettings
from lsp_server.kernels.task import (
    Attempt,
    Candidate,
    Evidence,
    Language,
    Outcome,
    Result,
    Step,
    Task,
    Tell,
)
from lsp_server.kernels.templates import library
from lsp_server.kernels.verify import verify

if TYPE_CHECKING:
    from lsp_server.kernels.models import Manager

logger = logging.getLogger(__name__)

FIRST_TEMPERATURE, TEMPERATURE_STEP = 0.8, 0.1
TEMPLATES = 0  # the worker that the templates' steps are told of; models' count from 1

Checker = Callable[[Candidate, int], Awaitable[Evidence]]


async def given(manager: Manager) -> tuple[ModelSource, KernelSettings]:
    """Return the manager's model, not yet asked for anything, and the user's settings."""
    from lsp_server import user_config

    settings = await asyncio.to_thread(user_config.kernel_settings)
    return ManagerModel(manager, settings.max_tokens), settings


async def generate(
    task: Task,
    *,
    model: ModelSource | None,
    settings: KernelSettings,
    tell: Tell,
    known: Sequence[Attempt] = (),
    resample: bool = False,
) -> Outcome:
    """Generate a kernel and return the best, with all attempts.

    With `known` attempts the templates have had their turn: a model repairs the last of them, or
    writes afresh where `resample` is set. `model` None: templates alone.

    Raises MidspanError where nothing could be tried: no sandbox, no compiler, no model to ask.
    """
    run = _Run(task, model, settings, tell, list(known), resample)
    run.seen.update(files.canonical(attempt.candidate.code) for attempt in known)
    try:
        async with asyncio.timeout(settings.time_limit_s):
            return await run.outcome()
    except TimeoutError:
        run.note = f"The time limit of {settings.time_limit_s:g} s was reached."
        return run.finished()


@dataclass(slots=True)
class _Run:
    task: Task
    model: ModelSource | None
    settings: KernelSettings
    tell: Tell
    known: list[Attempt]
    resample: bool
    attempts: list[Attempt] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    why_no_template: str = ""
    note: str = ""  # what else there is to say
    written: int = 0  # by the model, also what was not worth checking

    async def outcome(self) -> Outcome:
        if not self.known:
            await self._templates()
        if self._settled() or self.model is None:
            return self.finished()
        try:
            await self._models(self.model)
        except MidspanError as exc:
            if not self.attempts:
                raise
            logger.info("kernel generation stopped: %s", exc)
            self.note = str(exc)
        return self.finished()

    # --- templates -----------------------------------------------------------------------------

    async def _templates(self) -> None:
        made = library.make(self.task)
        if made.candidate is None:
            self.why_no_template = made.reason
            return
        self.seen.add(files.canonical(made.candidate.code))
        await self._check(made.candidate, TEMPLATES, None)

    # --- models --------------------------------------------------------------------------------

    async def _models(self, model: ModelSource) -> None:
        cores = asyncio.Semaphore(_cores())
        limits = Limits(python=self.settings.python)
        async with AsyncExitStack() as stack:
            judge: Judge | None = None
            if self.task.language is not Language.CUDA:
                judge = await stack.enter_async_context(Judge.open(self.task, limits))
            workers = [
                asyncio.create_task(self._worker(model, number, cores, judge))
                for number in range(1, self.settings.workers + 1)
            ]
            try:
                pending = set(workers)
                while pending and not self._settled():
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for worker in done:
                        worker.result()  # raises what it raised
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(
        self, model: ModelSource, number: int, cores: asyncio.Semaphore, judge: Judge | None
    ) -> None:
        """Write and check, round after round, until no check fails."""
        temperature = FIRST_TEMPERATURE + TEMPERATURE_STEP * (number - 1)
        failed = [] if self.resample else list(self.known)
        try:
            for turn in range(1, self.settings.rounds + 1):
                self._say(number, "writing", f"writing, round {turn}")
                shown = failed if model.chats else ()
                code = await model.write(self.task, shown, temperature=temperature, worker=number)
                self.written += 1
                code = files.canonical(code) if code else ""
                if not code or code in self.seen:
                    self._say(number, "failed", "no code" if not code else "the same again")
                    continue
                self.seen.add(code)
                candidate = Candidate(code, f"model:{model.name}", self.written)
                async with cores:
                    attempt = await self._check(candidate, number, judge)
                if attempt.evidence.failure is None:
                    return
                failed.append(attempt)
        except asyncio.CancelledError:
            self._say(number, "stopped", "stopped")
            raise

    async def _check(self, candidate: Candidate, number: int, judge: Judge | None) -> Attempt:
        self._say(number, "checking", "checking")
        evidence = await verify(
            self.task,
            candidate,
            lambda level, message: self._say(number, "checking", message),
            limits=Limits(python=self.settings.python),
            judge=judge,
        )
        attempt = Attempt(candidate, evidence)
        self.attempts.append(attempt)
        failure = evidence.failure
        if evidence.verified:
            self._say(number, "verified", statement(evidence))
        else:
            self._say(number, "failed", failure.reason if failure else statement(evidence))
        return attempt

    # --- the end -------------------------------------------------------------------------------

    def _settled(self) -> bool:
        """Whether one is verified, or nothing failed and yet it is not: then no other can be."""
        return any(attempt.evidence.failure is None for attempt in self.attempts)

    def finished(self) -> Outcome:
        """Return what there is."""
        best = max(self.attempts, key=_height, default=None)
        code = best.candidate.code if best else ""
        module = files.module_name(self.task.name, self.task.language)
        return Outcome(
            task=self.task,
            best=best,
            attempts=tuple(self.attempts),
            test=test_source.write(self.task, module, code),
            message=self._message(best),
        )

    def _message(self, best: Attempt | None) -> str:
        """Say what came of it: what the templates did, what a model did, and what to do."""
        parts = []
        if best is not None and best.evidence.verified:
            source = best.candidate.origin.partition(":")
            who = "A template" if source[0] == "template" else f"The model {source[2]}"
            parts.append(f"{who} gives a kernel that is {statement(best.evidence)}.")
        elif best is not None and best.evidence.failure is None:
            parts.append(f"Not verified: {statement(best.evidence)}.")
        else:
            parts.append(f"No {'other ' if self.known else ''}kernel passed its checks.")
        if self.why_no_template:
            parts.append(f"No template fits: {self.why_no_template}.")
        if self.written:
            checked = [one for one in self.attempts if one.candidate.origin.startswith("model:")]
            passed = sum(one.evidence.verified for one in checked)
            parts.append(
                f"The model wrote {self.written}, {len(checked)} worth checking, {passed} verified."
            )
            if self.model is not None and not self.model.chats and not passed:
                parts.append(
                    f"{self.model.name} only completes: a model that chats is told what was wrong."
                )
        elif self.model is None and (best is None or not best.evidence.verified):
            parts.append("No model was asked.")
        guessed = [one.name for one in self.task.parameters if one.guessed]
        if guessed and (best is None or not best.evidence.verified):
            parts.append(f"What {', '.join(guessed)} may be was guessed: say it if it is wrong.")
        return " ".join([*parts, self.note]).strip()

    def _say(self, worker: int, state: str, message: str) -> None:
        total = self.settings.workers * self.settings.rounds
        self.tell(Step(worker, state, message, self.written, total if self.written else 0))


def _height(attempt: Attempt) -> tuple[bool, int, int]:
    """How far up the ladder an attempt came; of equals the last is best."""
    passed = [one for one in attempt.evidence.checks if one.result is Result.PASSED]
    cases = sum(check.cases for check in attempt.evidence.checks)
    return attempt.evidence.verified, len(passed), cases


def _cores() -> int:
    """Checks that run at the same time."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity else os.cpu_count() or 1)
