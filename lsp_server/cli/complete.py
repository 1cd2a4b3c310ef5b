"""`midspan complete FILE:LINE:COL`: one completion, as an editor would get it while typing.

Places count from 1, in characters, as editors show them. Must not know LSP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from backends.errors import BadRequest
from lsp_server.cli.exits import Exit
from lsp_server.cli.files import open_document
from lsp_server.cli.output import json_option, print_json
from lsp_server.documents import Document
from lsp_server.settings import Settings
from lsp_server.snapshot import Snapshot, single_line, take

LINES_AROUND = 4  # shown before and after the completion


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; `line` and `column` count from 1, `column` in characters."""

    path: Path
    line: int
    column: int


def parse_place(text: str) -> Place:
    """Parse "FILE:LINE:COL"; FILE may itself hold colons. Raises BadRequest."""
    file, _, column = text.rpartition(":")
    file, _, line = file.rpartition(":")
    if not file or not line.isdecimal() or not column.isdecimal():
        raise BadRequest(f"{text!r} is not FILE:LINE:COL, for example src/app.py:12:5.")
    return Place(Path(file), int(line), int(column))


def offset_of(document: Document, place: Place) -> int:
    """Return the offset of `place` in `document`. Raises BadRequest where it lies outside."""
    if not 1 <= place.line <= document.line_count:
        raise BadRequest(
            f"Line {place.line} is outside {place.path}, whose lines are 1 to "
            f"{document.line_count}."
        )
    start, end = document.line_bounds(place.line - 1)
    if not 1 <= place.column <= end - start + 1:
        raise BadRequest(
            f"Column {place.column} is outside line {place.line} of {place.path}, "
            f"whose columns are 1 to {end - start + 1}."
        )
    return start + place.column - 1


@click.command()
@click.argument("place", metavar="FILE:LINE:COL")
@click.option("--model", help="The model that must answer; default: the one in use.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="The longest completion.",
)
@json_option
def complete(place: str, model: str | None, max_tokens: int, as_json: bool) -> int:
    """Complete the code at FILE:LINE:COL, lines and columns counted from 1.

    Exit code 3 says that there is nothing to suggest there.
    """
    spot = parse_place(place)
    document = open_document(spot.path)
    offset = offset_of(document, spot)
    snapshot = take(document, offset, offset)
    on_line = single_line(snapshot, Settings().multiline, automatic=True)
    body: dict[str, object] = {
        "input_prefix": snapshot.before,
        "input_suffix": snapshot.after,
        "document": document.uri,
        "path": spot.path.name,
        "n_predict": max_tokens,
        "single_line": on_line,
        "limit_scope": not on_line,
        "temperature": 0,
    }
    if model is not None:
        body["model"] = model
    result = _tidied(asyncio.run(_infill(body)), snapshot, on_line)
    if as_json:
        print_json(result)
    elif result["text"]:
        _show(snapshot, str(result["text"]), spot)
    else:
        click.echo(f"midspan: no suggestion: {result['reason']}", err=True)
    return Exit.OK if result["text"] else Exit.NO_SUGGESTION


async def _infill(body: dict[str, object]) -> dict[str, Any]:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-complete")
    try:
        return await client.infill(body)
    finally:
        await client.close()


def _tidied(answer: dict[str, Any], snapshot: Snapshot, on_line: bool) -> dict[str, object]:
    """Return what `--json` prints; `reason` says why `text` is empty."""
    from fim.postprocess import tidy

    tidied = tidy(
        answer["content"],
        prefix=snapshot.before,
        suffix=snapshot.after,
        line_ending=snapshot.line_ending,
        single_line=on_line,
        language_id=snapshot.language_id,
    )
    result: dict[str, object] = {"text": tidied.text}
    result |= {name: answer[name] for name in ("model", "finish_reason", "usage", "timings")}
    return result if tidied.text else result | {"reason": tidied.reason}


def _show(snapshot: Snapshot, text: str, spot: Place) -> None:
    """Print the lines around the place with the completion highlighted."""
    from rich.console import Console
    from rich.text import Text

    before = snapshot.before.split("\n")[-1 - LINES_AROUND :]
    after = snapshot.after.split("\n")[: 1 + LINES_AROUND]
    shown = Text("\n".join(before))
    shown.append(text.replace(snapshot.line_ending, "\n"), style="bold green")
    shown.append("\n".join(after))
    console = Console(highlight=False, soft_wrap=True)
    first = spot.line - len(before) + 1
    for number, line in enumerate(shown.split("\n", allow_blank=True), start=first):
        console.print(Text(f"{number:5} ", style="dim") + line)
