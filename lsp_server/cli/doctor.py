"""`midspan doctor`: the checks, for people and as one JSON object.

Must not know what is checked, nor how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click

from backends import availability, paths
from backends.availability import Availability, Extra
from backends.errors import MidspanError
from lsp_server.cli import doctor_checks as checks
from lsp_server.cli.doctor_checks import Check, Installation, Status
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, progress

MARKS = {Status.OK: "✓", Status.WARN: "!", Status.FAIL: "✗"}
COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
PLAIN = str.maketrans({"✓": "+", "✗": "x", "·": "-"})  # for terminals that lack them


@click.command()
@click.option(
    "--quick", is_flag=True, help="Look whether engines are installed, without using each once."
)
@json_option
def doctor(quick: bool, as_json: bool) -> int:
    """Check everything a completion needs; exit code 1 if something must be put right."""
    if not (quick or as_json):
        progress("Trying each engine once …")
    installation = Installation(use_engines=not quick)
    results = checks.run(installation)
    ok = all(check.status is not Status.FAIL for check in results)
    if as_json:
        print_json({"ok": ok, **report(installation, results)})
    else:
        for line in lines(installation, results):
            click.echo(line)
    return Exit.OK if ok else Exit.FAILURE


def report(installation: Installation, results: list[Check]) -> dict[str, Any]:
    """Return all that was found; null for what could not be found out, whose check says why."""
    return {
        "checks": [asdict(check) for check in results],
        "hardware": _or_none(lambda: asdict(installation.hardware)),
        "backends": _or_none(lambda: [_row(one) for one in installation.backends]),
        "extras": [_extra(one) for one in availability.EXTRAS],
        "models": _or_none(lambda: [_row(one) for one in installation.models]),
        "problems": _or_none(lambda: [asdict(one) for one in installation.configuration[1]]),
        "safe_mode": _or_none(lambda: installation.safe_modes),
        "manager": _or_none(lambda: installation.manager),
        "cache": _or_none(
            lambda: {"folder": str(paths.cells_dir()), "bytes": checks.cache_bytes()}
        ),
    }


def _or_none(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (MidspanError, OSError):
        return None


def _row(found: Availability) -> dict[str, Any]:
    return {**asdict(found), "ok": found.ok}


def _extra(extra: Extra) -> dict[str, Any]:
    return {
        "name": extra.name,
        "purpose": extra.purpose,
        "installed": extra.installed,
        "install": extra.install,
    }


def lines(installation: Installation, results: list[Check]) -> Iterator[str]:
    """Yield what to show: a line for each check, its advice below it, engines one by one."""
    for check in results:
        yield _styled(MARKS[check.status], COLOURS[check.status], f"{check.name:14} {check.detail}")
        if check.name == "Engines":
            yield from _engine_lines(installation)
        if check.advice and not (check.name == "Engines" and check.status is Status.WARN):
            yield f"{'':17}{check.advice}"  # of broken engines their own lines have it


def _engine_lines(installation: Installation) -> Iterator[str]:
    for one in installation.backends:
        if one.ok:
            said = " ".join(filter(None, (one.version, one.detail))) or "installed"
            yield _styled("  ✓", "green", f"{one.backend:12} {said}")
        elif one.importable:
            yield _styled("  ✗", "red", f"{one.backend:12} {one.reason}")
        else:
            yield _styled("  ·", "white", f"{one.backend:12} {one.reason}")


def _styled(mark: str, colour: str, text: str) -> str:
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        mark = mark.translate(PLAIN)
    return f"{click.style(mark, fg=colour)} {text}"
