"""`midspan models search|recommend|pull|verify|delete`: models from a hub.

Rule: the manager downloads, checks and deletes; here it is asked, watched and shown. Ctrl-C cancels
a download, which keeps what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import aclosing

import click

from backends.errors import MidspanError
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, name_width, print_json
from lsp_server.download_rows import ASKING_S, CANCEL, CATALOGUE, DOWNLOAD, PATIENCE_S, Json, words

VERIFY_S = 3600.0  # a large model from a slow disk
MARKS = {"yes": "✓", "tight": "~", "no": "✗"}
LEGEND = "✓ suits this machine, ~ fits but writes slowly here, ✗ does not fit"


@click.command()
@click.argument("text", nargs=-1)
@json_option
def search(text: tuple[str, ...], as_json: bool) -> int:
    """List the models that can be downloaded; with TEXT those that have all of its words."""
    answer = asyncio.run(_ask("GET", CATALOGUE))
    wanted = " ".join(text).lower().split()
    rows = [row for row in answer["models"] if all(word in _searched(row) for word in wanted)]
    if as_json:
        print_json(answer | {"models": rows})
        return Exit.OK
    width = name_width(rows)
    for row in rows:
        click.echo(_line(row, answer["recommended"], width))
    if rows:
        click.echo(f"\n{LEGEND}. Sizes are estimates.")
        click.echo("To download one: midspan models pull NAME")
    else:
        click.echo(
            f"Nothing in the catalogue has {' '.join(text)!r} in it. Any other model of the hub can"
        )
        click.echo("be had by its repository: midspan models pull OWNER/NAME")
    return Exit.OK


def _searched(row: Json) -> str:
    abilities = "fim completes " * row["fim"] + "chat chats" * row["chat"]
    fields = ("name", "repository", "family", "licence", "note", "format")
    return " ".join([*(str(row[field]) for field in fields), abilities]).lower()


def _line(row: Json, recommended: str, width: int) -> str:
    can = [word for word, able in (("completes", row["fim"]), ("chats", row["chat"])) if able]
    parts = [
        f"{_size(row['size_bytes'])} in {row['quantisation']}",
        f"context {row['context_length']}",
        row["licence"],
        " and ".join(can),
        row["note"],
        "downloaded" * row["downloaded"],
        "recommended" * (row["name"] == recommended),
    ]
    said = ", ".join(part for part in parts if part)
    return f"{MARKS[row['fits']]} {row['name']:{width}} {row['parameters']:6.4g}B  {said}"


@click.command()
@json_option
def recommend(as_json: bool) -> int:
    """Say which model suits this machine."""
    answer = asyncio.run(_ask("GET", "/api/models/recommend"))
    if as_json:
        print_json(answer)
        return Exit.OK
    machine = answer["machine"]
    click.echo(
        f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; "
        f"{_size(machine['free_bytes'])} for a model."
    )
    width = name_width(answer["models"])
    for row in answer["models"]:
        click.echo(_line(row, answer["recommended"], width))
    click.echo(f"\n{answer['recommended']}: {answer['why']}.")
    click.echo(f"To have it: midspan models pull {answer['recommended']}")
    return Exit.OK


@click.command()
@click.argument("model")
@click.option("--file", help="Which file of the repository, where it has several models.")
@click.option("--name", help="What to call it; default: its name in the catalogue or at the hub.")
@click.option("--revision", help="Branch, tag or commit; default: main.")
@click.option("--yes", is_flag=True, help="Do not ask before downloading.")
@json_option
def pull(
    model: str, file: str | None, name: str | None, revision: str | None, yes: bool, as_json: bool
) -> int:
    """Download MODEL: a name of `midspan models search`, or OWNER/NAME[:QUANTISATION] of the hub.

    What was interrupted goes on where it was when it is asked for again.
    """
    asked = _asked(model) | {"file": file, "name": name, "revision": revision}
    body: dict[str, object] = {key: value for key, value in asked.items() if value}
    if not yes and sys.stdin.isatty() and not as_json and not asyncio.run(_agreed(model, body)):
        return Exit.FAILURE
    row = asyncio.run(_pull(body, quiet=as_json))
    if as_json:
        print_json(row)
        return Exit.OK
    got = row["model"]
    click.echo(f"{got['name']} is there ({_size(got['size_bytes'])}). {row['reason']}")
    if got["problem"]:
        click.echo(f"Before it can be used: {got['problem']}")
    click.echo(f"To use it: midspan models use {got['name']}")
    return Exit.OK


def _asked(model: str) -> dict[str, str | None]:
    where, _, quantisation = model.partition(":")
    return {"repository" if "/" in where else "model": where, "quantisation": quantisation}


async def _agreed(model: str, body: dict[str, object]) -> bool:
    """Ask the user, with what is known of the model."""
    found = await _ask("GET", CATALOGUE)
    row = next((row for row in found["models"] if row["name"] == body.get("model")), None)
    if row is None:
        return click.confirm(f"Download {model} from the hub?", default=True, err=True)
    size = f"about {_size(row['size_bytes'])}, licence {row['licence']}"
    note = f" ({row['note']})" if row["note"] else ""
    warning = "" if row["fits"] == "yes" else f"\n{MARKS[row['fits']]} {row['why']}"
    text = f"Download {row['name']}{note} from {row['repository']}, {size}?{warning}"
    return click.confirm(text, default=True, err=True)


async def _pull(body: dict[str, object], *, quiet: bool) -> Json:
    """Return the last row of a download, shown while it runs."""
    from backends.client import ManagerClient

    client, name = ManagerClient(client_name="midspan-models"), ""
    try:
        with _Line(quiet) as line:
            events = client.stream(DOWNLOAD, {**body, "stream": True}, patience=PATIENCE_S)
            async with aclosing(events) as rows:
                async for row in rows:
                    name = row["name"]
                    line.show(row)
                    if row["state"] == "done":
                        return row
        raise MidspanError(f"The download of {name} was cancelled; the same command goes on.")
    except asyncio.CancelledError:  # Ctrl-C
        with contextlib.suppress(MidspanError):
            if name:
                await client.post(CANCEL, {"name": name})
                click.echo(
                    "Cancelled. What was received stays; the same command goes on.", err=True
                )
        raise
    finally:
        await client.close()


class _Line:
    """A line of progress on stderr: a bar on a terminal, else a line for each tenth."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("Asking the hub", total=None, words="")
        self._said = ""

    def __enter__(self) -> _Line:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, row: Json) -> None:
        """Show a download as it stands."""
        self._bar.update(
            self._task,
            description=row["file"] or row["name"],
            completed=row["received_bytes"],
            total=row["total_bytes"] or None,
            words=words(row),
        )
        tenth = 10 * row["received_bytes"] // (row["total_bytes"] or 1)
        said = f"{row['state']} {tenth}"
        if not self._console.is_terminal and said != self._said:
            self._said = said
            self._console.print(f"{row['name']}: {words(row)}", soft_wrap=True, highlight=False)


@click.command()
@click.argument("name")
@json_option
def verify(name: str, as_json: bool) -> int:
    """Check the downloaded model NAME, every byte, against what was downloaded."""
    answer = asyncio.run(_ask("POST", "/api/models/verify", {"name": name}, VERIFY_S))
    if as_json:
        print_json(answer)
    else:
        for file in answer["files"]:
            mark = "✓" if file["ok"] else "✗"
            click.echo(f"{mark} {file['file']} {file['sha256'][:16]} {file['reason']}".rstrip())
        if not answer["ok"]:
            click.echo(f"Delete it and download it anew: midspan models delete {name}")
    return Exit.OK if answer["ok"] else Exit.FAILURE


@click.command()
@click.argument("name")
@json_option
def delete(name: str, as_json: bool) -> int:
    """Delete the downloaded model NAME, its files too, or what an unfinished download left."""
    answer = asyncio.run(_ask("POST", "/api/models/delete", {"name": name}))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Deleted {name}: {_size(answer['freed_bytes'])} are free again.")
    return Exit.OK


async def _ask(
    method: str, path: str, body: dict[str, object] | None = None, limit: float = ASKING_S
) -> Json:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-models")
    try:
        if method == "GET":
            return await client.get(path, timeout=limit)
        return await client.post(path, body or {}, timeout=limit)
    finally:
        await client.close()


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


COMMANDS = (search, recommend, pull, verify, delete)
