"""`midspan models list|status|use|add|remove`, and the group that the others are in.

Must not know where models are kept: the manager does.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from lsp_server.cli import models_pull
from lsp_server.cli.exits import Exit
from lsp_server.cli.memory import memory_command, spec_command
from lsp_server.cli.output import json_option, name_width, print_json, progress
from lsp_server.cli.trial import test_command

LOAD_TIMEOUT_S = 600.0  # a large model from a slow disk


async def _get(path: str) -> dict[str, Any]:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-models")
    try:
        return await client.get(path)
    finally:
        await client.close()


async def _post(path: str, body: dict[str, object]) -> dict[str, Any]:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-models")
    try:
        return await client.post(path, body, timeout=LOAD_TIMEOUT_S)
    finally:
        await client.close()


@click.group()
def models() -> None:
    """List, choose, download, add and remove models."""


models.add_command(memory_command)
models.add_command(spec_command)
models.add_command(test_command)
for command in models_pull.COMMANDS:
    models.add_command(command)


@models.command(name="list")
@json_option
def list_models(as_json: bool) -> int:
    """List the models there are; the one in use has a star."""
    answer = asyncio.run(_get("/api/models/available"))
    if as_json:
        print_json(answer)
        return Exit.OK
    width = name_width(answer["models"])
    for row in answer["models"]:
        mark = "*" if row["name"] == answer["current"] else " "
        click.echo(f"{mark} {row['name']:{width}} {row['state']:9} {_describe(row)}")
    return Exit.OK


def _describe(row: dict[str, Any]) -> str:
    if row["problem"]:
        return str(row["problem"])
    if row["state"] == "failed":
        return str(row["reason"])
    abilities = _abilities(row)
    if row["endpoint"]:
        where = f"{row['engine']} at {row['endpoint']}".removeprefix(" at ")
        return f"{where}{abilities}"
    parts = [
        row["family"] or row["architecture"],
        f"{row['size_bytes'] / 2**20:.0f} MiB",
        row["quantisation"],
        f"context {row['context_length']}",
        row["engine"],
        f"from {row['source']}",
    ]
    warning = f" (! {row['warning']})" if row["warning"] else ""
    return ", ".join(part for part in parts if part) + abilities + warning


def _abilities(row: dict[str, Any]) -> str:
    """Return what a model can do; nothing where that is only known once it is connected."""
    if row["fim"] is None:
        return ""
    can = [word for word, able in (("completes", row["fim"]), ("chats", row["chat"])) if able]
    if not row["fim"]:
        can.append(f"does not complete: {row['no_fim_reason']}")
    return f"; {' and '.join(can)}"


@models.command()
@json_option
def status(as_json: bool) -> int:
    """Show the models in memory: what each is used for, what runs it and what it takes."""
    answer = asyncio.run(_get("/api/models/status"))
    if as_json:
        print_json(answer)
        return Exit.OK
    rows = [row for row in answer["models"] if row["state"] != "stopped"]
    width = name_width(rows)
    for row in rows:
        roles = ", ".join(row["roles"]) or "standby"
        size = f", {row['memory_bytes'] / 2**20:.0f} MiB" if row["memory_bytes"] else ""
        what = row["reason"] if row["state"] == "failed" else row.get("description", "")
        click.echo(f"{row['name']:{width}} {row['state']:9} {roles}{size}: {what}")
    if not rows:
        click.echo(f"No model is loaded; {answer['serving']} is when it is asked for something.")
    return Exit.OK


@models.command()
@click.argument("name")
@json_option
def use(name: str, as_json: bool) -> int:
    """Switch to the model NAME; the old one serves until the new one is ready."""
    progress(f"Loading {name} …")
    answer = asyncio.run(_post("/api/models/select", {"name": name}))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{name} is in use now.")
    return Exit.OK


@models.command()
@click.argument("path")
@click.option("--name", help="What to call it; default: after the file or folder.")
@json_option
def add(path: str, name: str | None, as_json: bool) -> int:
    """Add the model at PATH, a GGUF file or a folder of safetensors, which stays where it is."""
    if "://" in path:
        raise click.UsageError(
            f"{path} is an endpoint. Only the configuration file can name one, so that nothing "
            f'else decides where your text goes:\n\n[models.{name or "NAME"}]\nendpoint = "{path}"'
        )
    body: dict[str, object] = {"path": str(Path(path).expanduser().absolute())}
    if name is not None:
        body["name"] = name
    answer = asyncio.run(_post("/api/models/add", body))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Added {answer['name']}{_abilities(answer)}.")
        click.echo(f"To try it: midspan models test {answer['name']}")
        if answer["fim"]:
            click.echo(f"To use it: midspan models use {answer['name']}")
    return Exit.OK


@models.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> int:
    """Forget the added model NAME; its file stays."""
    answer = asyncio.run(_post("/api/models/remove", {"name": name}))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Removed {name}; its file is still there.")
    return Exit.OK
