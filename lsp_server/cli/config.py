"""`midspan config`: what is set, where it comes from, and what is wrong with it.

Rule: reads the same layers as the manager and the language server do, and shows them; changes
nothing. Keys of endpoints are never read, and what may hold one is masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from backends import config_export
from backends.config_layers import Explained
from backends.config_schema import Layer, Problem, similar
from backends.errors import BadRequest
from lsp_server import settings, user_config
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, set_option


@click.group()
def config() -> None:
    """Show the configuration and check it."""


@config.command()
@click.argument("key", required=False)
@click.option("--all", "everything", is_flag=True, help="Also what nobody has set.")
@set_option
@json_option
def explain(key: str | None, everything: bool, assignments: tuple[str, ...], as_json: bool) -> int:
    """Show each value and where it comes from; KEY is a setting or a table.

    Without KEY, only what is not the default. Problems come last.
    """
    found = user_config.read(assignments=assignments)
    window = settings.explained(below=found.window)
    rows = [*found.manager.explain(), *window.explain()]
    if key is not None:
        named = [row for row in rows if row.key == key or row.key.startswith(f"{key}.")]
        if not named:
            raise BadRequest(f"No setting is called {key!r}{similar(key, _keys(rows))}")
        rows = named
    elif not everything and not as_json:
        rows = [row for row in rows if row.origin.layer is not Layer.DEFAULT]
    if as_json:
        print_json(
            {
                "settings": [_as_json(row) for row in rows],
                "problems": [_problem(problem) for problem in found.checked()],
            }
        )
        return Exit.OK
    _print_rows(rows)
    _print_problems(found.checked())
    return Exit.OK


@config.command()
@json_option
def check(as_json: bool) -> int:
    """Say what is wrong in the configuration; exit code 1 if anything is."""
    problems = user_config.read().checked()
    if as_json:
        print_json({"ok": not problems, "problems": [_problem(problem) for problem in problems]})
    else:
        _print_problems(problems)
        if not problems:
            click.echo(f"{user_config.used()}: nothing is wrong.")
    return Exit.FAILURE if problems else Exit.OK


@config.command()
@json_option
def path(as_json: bool) -> int:
    """Print where the configuration file is, or would be."""
    file = user_config.used()
    if as_json:
        print_json({"path": str(file), "exists": file.is_file()})
    else:
        click.echo(str(file))
    return Exit.OK


@config.command()
@click.option("--editor", is_flag=True, help="The editor's settings instead.")
def schema(editor: bool) -> int:
    """Print the JSON schema of the configuration file.

    With --editor, what an extension's package.json declares under contributes.configuration.
    """
    if editor:
        print_json(settings.settings_schema())
    else:
        print_json(config_export.json_schema(settings.SHAPE.tables))
    return Exit.OK


def _keys(rows: Iterable[Explained]) -> set[str]:
    """Return what may be asked for: settings and tables."""
    keys = {row.key for row in rows}
    return keys | {key.rpartition(".")[0] for key in keys}


def _as_json(row: Explained) -> dict[str, Any]:
    origin = row.origin
    return {
        "key": row.key,
        "value": row.value,
        "default": row.default,
        "layer": origin.layer.value,
        "source": origin.source,
        "line": origin.line,
        "doc": row.doc,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "message": problem.message,
        "source": problem.source,
        "line": problem.line,
        "column": problem.column,
    }


def _print_rows(rows: list[Explained]) -> None:
    width = max((len(row.key) for row in rows), default=0)
    for row in rows:
        value = config_export.shown(row.value)
        faint = row.origin.layer is Layer.DEFAULT
        click.echo(f"{row.key:{width}}  {value:24}  {click.style(str(row.origin), dim=faint)}")
    if not rows:
        click.echo("Everything is at its default; midspan config explain --all shows it.")


def _print_problems(problems: Iterable[Problem]) -> None:
    for problem in problems:
        click.secho(str(problem), fg="yellow")
