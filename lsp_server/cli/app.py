"""The click application: the group, its lazily imported commands, and the edge where errors end.

Rule: a command's module is imported only when it runs. A `MidspanError` becomes one line on
stderr (with --json also one object on stdout) and an exit code of `exits`; never a traceback.
Must not know what any command does.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from backends import __version__
from backends.errors import MidspanError
from lsp_server.cli.exits import Exit, exit_code
from lsp_server.cli.output import print_json

# name → (module:attribute, one line for --help; kept here so that help imports nothing)
COMMANDS: dict[str, tuple[str, str]] = {
    "lsp": ("lsp_server.cli.serve:lsp", "Run the language server on stdio (what editors start)."),
    "serve": ("lsp_server.cli.serve:serve", "Run the backend manager in the foreground."),
    "stop": ("lsp_server.cli.serve:stop", "Stop the backend manager."),
    "complete": ("lsp_server.cli.complete:complete", "Complete the code at FILE:LINE:COL."),
    "chat": ("lsp_server.cli.chat:chat", "Ask the model, or talk with it on the terminal."),
    "kernel": (
        "lsp_server.cli.kernel:kernel",
        "Generate a kernel of a PyTorch function, and check it.",
    ),
    "demo": ("lsp_server.cli.demo:demo", "Type a function with ghost text, live in the terminal."),
    "models": ("lsp_server.cli.models:models", "List, choose, download and add models."),
    "ui": ("lsp_server.cli.ui:ui", "Open the models page in the browser."),
    "steer": ("lsp_server.cli.steer:steer", "Make and list steering vectors."),
    "config": ("lsp_server.cli.config:config", "Show the configuration and check it."),
    "stats": ("lsp_server.cli.stats:stats", "Say what was suggested and accepted, and how fast."),
    "doctor": ("lsp_server.cli.doctor:doctor", "Check this installation and say what to do."),
    "bench": ("lsp_server.cli.bench:bench", "Run a benchmark."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[1]) for name, row in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="midspan")
def cli() -> None:
    """Code completions from models on your own machine, in any editor."""


def _report(kind: str, message: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    click.echo(f"midspan: {' '.join(message.split())}", err=True)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every expected failure ends here."""
    as_json = "--json" in arguments
    try:
        # A command returns its exit code, or None for 0.
        result = cli.main(args=list(arguments), prog_name="midspan", standalone_mode=False)
        return result if isinstance(result, int) else Exit.OK
    except MidspanError as error:
        _report(error.kind, str(error), as_json=as_json)
        return exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.USAGE
    except click.ClickException as error:
        _report("usage", error.format_message(), as_json=as_json)
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) went away; say nothing, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILURE
