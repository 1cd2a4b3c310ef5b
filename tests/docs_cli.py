"""Writes the commands' part of docs/cli.md from the commands themselves.

    python -m tests.docs_cli

A test fails while the two differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from lsp_server.cli.app import cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN, END = "<!-- generated: commands -->\n", "<!-- end -->\n"


def commands() -> str:
    """Return the page's generated part: every command with its options."""
    return "".join(_sections(cli, "midspan"))


def _sections(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _sections(command, f"{path} {name}")
        else:
            yield _section(command, f"{path} {name}")


def _section(command: click.Command, path: str) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join([path, *(_argument(argument) for argument in arguments)])
    lines = [f"### `{usage}`", "", inspect.cleandoc(command.help or "").strip(), ""]
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        lines += ["| option | |", "| --- | --- |", *map(_option, options), ""]
    return "\n".join(lines) + "\n"


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if argument.nargs == -1:
        return f"[{name}]..."
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    shown = option.opts[-1] if option.is_flag else f"{option.opts[-1]} {_value(option)}"
    default = f" Default: {option.default}." if option.show_default else ""
    return f"| `{shown}` | {option.help or ''}{default} |"


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return " or ".join(option.type.choices)
    return option.metavar or (option.name or "").upper()


def render(page: str) -> str:
    """Return `page` with its generated part renewed."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{commands()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
