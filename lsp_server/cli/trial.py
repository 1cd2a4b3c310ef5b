"""`midspan models test`: a model tried out before anybody relies on it.

Rule: shows each step when it is over. Must not know how a model is tried.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.memory import find_model
from lsp_server.cli.output import json_option, print_json, progress

if TYPE_CHECKING:
    from backends.catalogue import Model
    from backends.trial import Step

MARKS = {"ok": "✓", "note": "·", "failed": "✗"}


@click.command(name="test")
@click.argument("model")
@click.option("--engine", default="", help="The engine to try it with; default: the model's own.")
@json_option
def test_command(model: str, engine: str, as_json: bool) -> int:
    """Try MODEL (a name, a GGUF file or a folder) in a process of its own, and say how it did.

    It is read, loaded, asked for a completion, typed along with, and asked to chat; the model in
    use goes on serving. Exit code 4 says that a step failed.
    """
    found = find_model(model)
    if engine:
        found = replace(found, settings=replace(found.settings, engine=engine))
    progress(f"Trying {found.name} …")
    steps = asyncio.run(_tried(found, show=not as_json))
    failed = any(step.outcome == "failed" for step in steps)
    if as_json:
        rows = [asdict(step) for step in steps]
        print_json({"model": found.name, "ok": not failed, "steps": rows})
    return Exit.UNAVAILABLE if failed else Exit.OK


async def _tried(model: Model, *, show: bool) -> list[Step]:
    from backends import trial

    done = []
    async for step in trial.steps(model):
        done.append(step)
        if show:
            click.echo(f"{MARKS[step.outcome]} {step.name:12} {' '.join(step.said.split())}")
    return done
