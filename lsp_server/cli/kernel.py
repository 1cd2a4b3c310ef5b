"""`midspan kernel FILE::FUNCTION`: a kernel for a PyTorch function, with what is known of it.

Rule: the same session as the editors' code actions; progress on stderr, the kernel on stdout. Files
are written only with --write, and never over a file that is not a kernel of the same function.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from backends.errors import BadRequest, MidspanError
from lsp_server.cli.exits import Exit
from lsp_server.cli.files import open_document
from lsp_server.cli.output import json_option, print_json, progress
from lsp_server.kernels.task import Attempt, Language, Outcome, Step, Task

_LANGUAGES = [language.value for language in Language]


def parse_target(text: str) -> tuple[Path, str | int]:
    """Parse "FILE::FUNCTION" or "FILE:LINE". Raises BadRequest."""
    file, found, name = text.rpartition("::")
    if found and file and name:
        return Path(file), name
    file, found, line = text.rpartition(":")
    if found and file and line.isdecimal() and int(line) > 0:
        return Path(file), int(line)
    raise BadRequest(f"{text!r} is not FILE::FUNCTION, for example model.py::softmax.")


@click.command()
@click.argument("target", metavar="FILE::FUNCTION")
@click.option(
    "--language",
    type=click.Choice(_LANGUAGES),
    default="triton",
    show_default=True,
    help="What to write the kernel in.",
)
@click.option(
    "--shapes",
    default="",
    metavar="TEXT",
    help='Shapes, dtypes and numbers that the file does not say: "x: (N, 128) float16, eps: 1e-6".',
)
@click.option("--n", "workers", type=click.IntRange(1, 16), help="Kernels written side by side.")
@click.option("--rounds", type=click.IntRange(1, 20), help="Rounds of writing and checking.")
@click.option("--no-model", is_flag=True, help="Use the templates alone.")
@click.option("--write", is_flag=True, help="Write the kernel and its test beside FILE.")
@json_option
def kernel(
    target: str,
    language: str,
    shapes: str,
    workers: int | None,
    rounds: int | None,
    no_model: bool,
    write: bool,
    as_json: bool,
) -> int:
    """Generate a kernel of the PyTorch function FILE::FUNCTION, and check it.

    The checks run in a sandbox, on this machine. Exit code 3 says that no kernel passed them; the
    best attempt is still shown. FILE:LINE names the function around a line.
    """
    from lsp_server.kernels import reference

    path, place = parse_target(target)
    document = open_document(path)
    task = reference.task(document.text, place, Language(language), shapes, str(path))
    targets = _free_files(task, path) if write else None
    outcome = asyncio.run(_generate(task, workers, rounds, with_model=not no_model))
    written = [] if targets is None else _write(outcome, path, shapes, *targets)
    if as_json:
        print_json(_as_json(outcome, written))
    else:
        _show(outcome, written)
    return Exit.OK if outcome.success else Exit.NO_SUGGESTION


async def _generate(
    task: Task, workers: int | None, rounds: int | None, *, with_model: bool
) -> Outcome:
    from dataclasses import replace

    from backends.client import ManagerClient
    from lsp_server.kernels import session

    client = ManagerClient(client_name="midspan-kernel")
    try:
        model, settings = await session.given(client)
        settings = replace(
            settings, workers=workers or settings.workers, rounds=rounds or settings.rounds
        )
        return await session.generate(
            task, model=model if with_model else None, settings=settings, tell=_Teller().step
        )
    finally:
        await client.close()


class _Teller:
    """Says what each worker is at, each thing once."""

    def __init__(self) -> None:
        self._said: dict[int, str] = {}

    def step(self, step: Step) -> None:
        if self._said.get(step.worker) != step.message:
            self._said[step.worker] = step.message
            who = f"worker {step.worker}" if step.worker else "template"
            progress(f"{who}: {step.message}")


def _free_files(task: Task, reference: Path) -> tuple[Path, Path]:
    """Return where the kernel and its test go. Raises MidspanError where something is in the way.

    A kernel of the same function is replaced, with its test; nothing else is.
    """
    from lsp_server.kernels import files

    module = files.module_name(task.name, task.language)
    kernel_file = reference.with_name(f"{module}.py")
    test_file = reference.with_name(f"{files.test_module_name(module)}.py")
    if kernel_file.exists():
        try:
            marker = files.read(kernel_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            marker = None
        if marker is None or (marker.function, marker.language) != (task.name, task.language):
            raise MidspanError(f"{kernel_file} is there already and is no kernel of {task.name}.")
    elif test_file.exists():
        raise MidspanError(f"{test_file} is there already, without a kernel. Move it away first.")
    return kernel_file, test_file


def _write(
    outcome: Outcome, reference: Path, shapes: str, kernel_file: Path, test_file: Path
) -> list[Path]:
    """Write the kernel and its test, and keep the evidence. Raises MidspanError."""
    from lsp_server.kernels import files

    if outcome.best is None:
        return []
    text = files.kernel_text(outcome.task, outcome.best.candidate, reference.name, shapes)
    try:
        kernel_file.write_text(text, encoding="utf-8")
        test_file.write_text(outcome.test, encoding="utf-8")
    except OSError as exc:
        raise MidspanError(f"{exc.filename} cannot be written: {exc.strerror}.") from exc
    _keep(outcome.best, outcome.task)
    return [kernel_file, test_file]


def _keep(attempt: Attempt, task: Task) -> None:
    """Keep the evidence, so that editors show it for the file."""
    from lsp_server.kernels import evidence

    try:
        evidence.keep(attempt.evidence, attempt.candidate.code, task)
    except OSError as exc:
        progress(f"midspan: the evidence could not be kept: {exc.strerror}.")


def _show(outcome: Outcome, written: list[Path]) -> None:
    if outcome.best is not None and not written:
        click.echo(outcome.best.candidate.code, nl=False)
    for path in written:
        progress(f"Written: {path}")
    for attempt in outcome.attempts:
        failure = attempt.evidence.failure
        if failure is not None:
            place = f", line {failure.line}" if failure.line else ""
            progress(f"{_called(attempt)}: {failure.reason}{place}")
            if failure.counterexample:
                progress(f"  for {failure.counterexample}")
    progress(outcome.message)


def _called(attempt: Attempt) -> str:
    return f"{attempt.candidate.origin}, attempt {attempt.candidate.attempt}"


def _as_json(outcome: Outcome, written: list[Path]) -> dict[str, Any]:
    from lsp_server.features.kernel_answers import attempts_json, checks_json
    from lsp_server.kernels import inputs
    from lsp_server.kernels.evidence import statement

    best = outcome.best
    return {
        "success": outcome.success,
        "name": outcome.task.name,
        "language": outcome.task.language.value,
        "shapes": inputs.shown(outcome.task.parameters),
        "guessed": [one.name for one in outcome.task.parameters if one.guessed],
        "message": outcome.message,
        "statement": statement(best.evidence) if best else "",
        "origin": best.candidate.origin if best else "",
        "code": best.candidate.code if best else "",
        "test": outcome.test,
        "checks": checks_json(best.evidence) if best else [],
        "attempts": attempts_json(outcome),
        "files": [str(path) for path in written],
    }
