"""`midspan stats`: what was suggested on this machine, and what became of it.

Rule: reads the ledger and starts nothing. Must not know how it is filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from backends import paths
from lsp_server.cli.exits import Exit
from lsp_server.cli.files import write_text
from lsp_server.cli.output import json_option, print_json
from lsp_server.ledger import Row
from lsp_server.ledger_file import NAME, LedgerFile
from lsp_server.ledger_page import cells, page
from lsp_server.ledger_report import Figures, by_language, by_model, grouped
from lsp_server.ledger_report import as_json as everything

COLUMNS = ("", "shown", "accepted", "kept", "whole·line·word", "chars saved", "p50", "p95")


@click.command()
@click.option("--days", type=click.IntRange(1), help="Only the last so many, today included.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page to this file instead.")
@click.option("--reset", is_flag=True, help="Forget everything counted so far.")
@json_option
def stats(days: int | None, html: Path | None, reset: bool, as_json: bool) -> int:
    """Say what was suggested, accepted and kept, and how fast; counted on this machine alone.

    "kept" is what was still in the document 30 seconds after it was accepted.
    """
    file = LedgerFile(paths.state_dir() / NAME)
    if reset:
        if days is not None or html is not None:
            raise click.UsageError("--reset stands alone.")
        file.reset()
        _say({"reset": True}, "Everything counted so far is forgotten.", as_json=as_json)
        return Exit.OK
    rows = file.rows(days)
    if html is not None:
        write_text(html, page(rows))
        _say({"html": str(html)}, f"The page is in {html}.", as_json=as_json)
    elif as_json:
        print_json(everything(rows))
    else:
        _show(rows)
    return Exit.OK


def _say(value: dict[str, object], sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(sentence)


def _show(rows: Sequence[Row]) -> None:
    if not rows:
        click.echo("Nothing has been counted yet: take a few suggestions in your editor first.")
        return
    days = sorted({row.day for row in rows})
    click.echo(f"{days[0]} to {days[-1]}, on this machine\n")
    table = [COLUMNS, *_lines("", {"all": Figures.of(rows)})]
    for title, by in (("models", by_model), ("languages", by_language)):
        table += _lines(title, grouped(rows, by))
    widths = [max(len(line[at]) for line in table) for at in range(len(COLUMNS))]
    for line in table:
        figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        click.echo("  ".join((line[0].ljust(widths[0]), *figures)).rstrip())


def _lines(title: str, groups: Mapping[str, Figures]) -> Iterator[tuple[str, ...]]:
    if title:
        yield ("",) * len(COLUMNS)
        yield (title, *("",) * (len(COLUMNS) - 1))
    indent = "  " if title else ""
    for name, figures in groups.items():
        yield (indent + name, *cells(figures))
