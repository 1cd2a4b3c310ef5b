"""`midspan ui`: the models page in the browser.

Rule: the token is in no command line, where others on the machine could read it: the browser opens
a private file that leads it on. Must not know what is on the page.
"""

from __future__ import annotations

import html
import webbrowser

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json

PAGE = "ui.html"


@click.command()
@click.option("--no-open", is_flag=True, help="Say the address, and open no browser.")
@json_option
def ui(no_open: bool, as_json: bool) -> int:
    """Open the models page in the browser: list, search, download, compare, switch, try.

    The address holds the manager's token: whoever has it can use your models until the manager
    ends.
    """
    from backends import launcher, paths

    manager = launcher.ensure()
    url = f"http://{manager.host}:{manager.port}/ui#token={manager.token}"
    opened = False
    if not no_open:
        file = paths.runtime_dir() / PAGE
        target = html.escape(url, quote=True)
        text = f'<!doctype html><meta http-equiv="refresh" content="0; url={target}">\n'
        paths.write_private(file, text.encode())
        opened = webbrowser.open(file.as_uri())
    if as_json:
        print_json({"url": url, "opened": opened})
    elif opened:
        click.echo("The page opens in your browser.")
    else:
        click.echo(url)
    return Exit.OK
