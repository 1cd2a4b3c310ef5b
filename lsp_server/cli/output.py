"""What commands write: one JSON object on stdout, or lines for people; progress on stderr.

Must not know any command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click


def print_json(value: dict[str, Any]) -> None:
    """Write `value` as the one JSON object on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def name_width(rows: Iterable[Mapping[str, Any]]) -> int:
    """Return how wide a column must be for the rows' names to stand in it."""
    return max((len(row["name"]) for row in rows), default=0)


def progress(message: str) -> None:
    """Write a line of progress to stderr."""
    click.echo(message, err=True)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout."
)

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting as the command line gives it, like manager.port=8012; may be repeated.",
)
