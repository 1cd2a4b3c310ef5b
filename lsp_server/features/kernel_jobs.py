"""Generating and verifying for the editor: one job per function, shown and cancellable.

Rule: cancelling the job's task cancels what it runs, down to the sandboxed processes. What was
found is kept as evidence. Must not know what the editor makes of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lsprotocol import types

from backends.errors import Conflict
from lsp_server.features import kernel_documents
from lsp_server.kernels import session
from lsp_server.kernels.files import TITLES
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import Attempt, Candidate, Evidence, Level, Outcome, Step, Task
from lsp_server.kernels.verify import verify
from lsp_server.progress import Report, progress

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer


@asynccontextmanager
async def job(
    ls: MidspanServer,
    uri: str,
    task: Task,
    title: str,
    token: types.ProgressToken | None,
) -> AsyncIterator[Report]:
    """The one job of a function of `uri`'s folder. Raises Conflict where there is one already.

    `title` has places for the language and the function's name.
    """
    key = (uri.rpartition("/")[0], task.name)
    if key in ls.kernel_jobs:
        raise Conflict(
            f"A kernel of {task.name} is being worked on already. Wait for it, or cancel it."
        )
    ls.kernel_jobs.add(key)
    shown = title.format(TITLES[task.language], task.name)
    try:
        async with progress(ls, shown, token, measured=True) as report:
            with ls.status.working(shown):
                yield report
    finally:
        ls.kernel_jobs.discard(key)


async def generated(
    ls: MidspanServer,
    task: Task,
    report: Report,
    known: Sequence[Attempt] = (),
    *,
    resample: bool = False,
) -> Outcome:
    """Generate, and keep the evidence of the best attempt."""
    model, settings = await session.given(ls.manager)
    outcome = await session.generate(
        task,
        model=model,
        settings=settings,
        tell=_Watch(report).step,
        known=known,
        resample=resample,
    )
    if outcome.best is not None:
        kernel_documents.keep(outcome.best.evidence, outcome.best.candidate.code, task)
    return outcome


async def verified(ls: MidspanServer, candidate: Candidate, task: Task, report: Report) -> Evidence:
    """Verify, and keep the evidence."""
    _, settings = await session.given(ls.manager)
    found = await verify(
        task,
        candidate,
        lambda level, message: report(message, level / len(Level)),
        limits=Limits(python=settings.python),
    )
    kernel_documents.keep(found, candidate.code, task)
    return found


class _Watch:
    """Tells the client what the workers are at."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._workers: dict[int, str] = {}

    def step(self, step: Step) -> None:
        if step.worker != session.TEMPLATES:  # the templates had their turn
            self._workers.pop(session.TEMPLATES, None)
        self._workers[step.worker] = step.message or step.state
        workers = sorted(self._workers.items())
        told = " · ".join(
            text if len(workers) == 1 else f"{number}: {text}" for number, text in workers
        )
        if step.total:
            told = f"{step.done} of {step.total} · {told}"
        self._report(told, step.done / step.total if step.total else None)
