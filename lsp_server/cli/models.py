"""`midspan models list|use|add|remove`: what the manager's model API can do.

Must not know where models are kept: the manager does.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, progress

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
    """List, choose, add and remove models."""


@models.command(name="list")
@json_option
def list_models(as_json: bool) -> int:
    """List the models there are; the one in use has a star."""
    answer = asyncio.run(_get("/api/models/available"))
    if as_json:
        print_json(answer)
        return Exit.OK
    for row in answer["models"]:
        mark = "*" if row["name"] == answer["current"] else " "
        what = row["problem"] or row["no_fim_reason"] or _describe(row)
        click.echo(f"{mark} {row['name']:32} {row['state']:9} {what}")
    return Exit.OK


def _describe(row: dict[str, Any]) -> str:
    size = f"{row['size_bytes'] / 2**20:.0f} MiB"
    return f"{row['family']}, {size}, context {row['context_length']}, from {row['source']}"


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
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="What to call it; default: after the file.")
@json_option
def add(file: Path, name: str | None, as_json: bool) -> int:
    """Add the GGUF model FILE, which stays where it is."""
    body: dict[str, object] = {"path": str(file.absolute())}
    if name is not None:
        body["name"] = name
    answer = asyncio.run(_post("/api/models/add", body))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Added {answer['name']}. To use it: midspan models use {answer['name']}")
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
