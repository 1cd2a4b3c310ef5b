"""`midspan complete FILE:LINE:COL`: one completion, as an editor would get it.

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
from lsp_server.cli.output import json_option, print_json
from lsp_server.documents import Document

MAX_BYTES = 10 * 1024 * 1024
LINES_AROUND = 4  # shown before and after the completion


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; `line` and `column` count from 1, `column` in characters."""

    path: Path
    line: int
    column: int


def parse_place(text: str) -> Place:
    """Parse "FILE:LINE:COL"; FILE may itself hold colons. Raises BadRequest."""
    file, _, rest = text.rpartition(":")
    file, _, line = file.rpartition(":")
    if not file or not line.isdecimal() or not rest.isdecimal():
        raise BadRequest(f"{text!r} is not FILE:LINE:COL, for example src/app.py:12:5.")
    return Place(Path(file), int(line), int(rest))


def read_text(path: Path) -> str:
    """Return the text of `path`, line ends as they are. Raises BadRequest."""
    try:
        if path.is_dir():
            raise BadRequest(f"{path} is a directory.")
        if not path.is_file() and path.exists():
            raise BadRequest(f"{path} is not a regular file.")
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(f"{path} is larger than {MAX_BYTES // 2**20} MiB.")
        data = path.read_bytes()
    except OSError as exc:
        raise BadRequest(f"{path} cannot be read: {exc.strerror}.") from exc
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"{path} is not UTF-8 text (byte {exc.start}).") from exc
    if "\0" in text:
        raise BadRequest(f"{path} is a binary file.")
    return text


def offset_of(text: str, place: Place) -> int:
    """Return the index into `text` of `place`. Raises BadRequest where it lies outside."""
    document = Document(place.path.as_posix(), text, 0, "", "utf-32")  # characters, not units
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


def infill_body(path: Path, prefix: str, suffix: str) -> dict[str, object]:
    """Return the body of the /infill request for the gap between `prefix` and `suffix`."""
    document = path.resolve()
    return {
        "input_prefix": prefix,
        "input_suffix": suffix,
        "document": document.as_uri(),
        "path": document.name,
        "temperature": 0.0,
    }


@click.command()
@click.argument("place", metavar="FILE:LINE:COL")
@click.option("--model", help="The model to ask; default: the one in use.")
@click.option("--max-tokens", type=click.IntRange(1, 1024), default=64, show_default=True)
@json_option
def complete(place: str, model: str | None, max_tokens: int, as_json: bool) -> int:
    """Complete the code at FILE:LINE:COL, lines and columns counted from 1.

    Exit code 3 says that the model has nothing to suggest there.
    """
    spot = parse_place(place)
    text = read_text(spot.path)
    offset = offset_of(text, spot)
    prefix, suffix = text[:offset], text[offset:]
    body = infill_body(spot.path, prefix, suffix) | {"n_predict": max_tokens}
    if model is not None:
        body["model"] = model
    answer = asyncio.run(_infill(body))
    result = _result(answer, prefix, suffix)
    if as_json:
        print_json(result)
    elif result["text"]:
        _show(prefix, str(result["text"]), suffix, spot)
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


def _result(answer: dict[str, Any], prefix: str, suffix: str) -> dict[str, object]:
    """Return what `--json` prints; the text is tidied as the language server does it."""
    from fim.postprocess import tidy

    tidied = tidy(answer["content"], prefix=prefix, suffix=suffix)
    result: dict[str, object] = {
        "text": tidied.text,
        "model": answer["model"],
        "finish_reason": answer["finish_reason"],
        "usage": answer["usage"],
        "timings": answer["timings"],
    }
    if not tidied.text:
        result["reason"] = tidied.reason or "the model ended at once"
    return result


def _show(prefix: str, text: str, suffix: str, spot: Place) -> None:
    """Print the lines around the place with the completion highlighted."""
    from rich.console import Console
    from rich.text import Text

    before = prefix.split("\n")[-1 - LINES_AROUND :]
    after = suffix.split("\n")[: 1 + LINES_AROUND]
    shown = Text("\n".join(before))
    shown.append(text, style="bold green")
    shown.append("\n".join(after))
    first = spot.line - len(before) + 1
    console = Console(highlight=False, soft_wrap=True)
    for number, line in enumerate(shown.split("\n", allow_blank=True), start=first):
        console.print(Text(f"{number:5} ", style="dim") + line)
