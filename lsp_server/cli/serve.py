"""`midspan serve`, `midspan stop` and the help page of `midspan lsp`.

Must not know how the manager works: it hands over to it, or asks it over HTTP.
"""

from __future__ import annotations

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json, set_option


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def lsp(arguments: tuple[str, ...]) -> int:
    """Run the language server on stdin and stdout; editors start it.

    It starts the backend manager when it is first needed, and ends with the editor.
    """
    from lsp_server.server import run

    return run(list(arguments))


@click.command()
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log on stderr. Prompts and completions appear at debug only.",
)
@click.option(
    "--model",
    default="",
    help="The model that completes, and chats where it can. Default: the one in use.",
)
@set_option
def serve(log_level: str, model: str, assignments: tuple[str, ...]) -> int:
    """Run the backend manager in the foreground, until Ctrl-C.

    Editors start it themselves; this is for looking at its log, and for other clients of its
    HTTP API.
    """
    from backends.serve import main

    arguments = ["--log-level", log_level]
    if model:
        arguments += ["--model", model]
    for assignment in assignments:
        arguments += ["--set", assignment]
    return Exit.OK if main(arguments, foreground=True) == 0 else Exit.FAILURE


@click.command()
@json_option
def stop(as_json: bool) -> int:
    """Stop the backend manager, if one runs. The next completion starts a new one."""
    from backends import launcher

    endpoint = launcher.find()
    if endpoint is not None:
        launcher.stop(endpoint)
    if as_json:
        print_json({"stopped": endpoint is not None, "pid": endpoint.pid if endpoint else None})
    else:
        click.echo("The manager was stopped." if endpoint else "No manager was running.")
    return Exit.OK
