from __future__ import annotations

import html
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from lsp_server.cli.exits import Exit

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]


def test_ui_says_an_address_that_leads_to_the_page(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    done = run_midspan(["ui", "--no-open", "--json"], shared_midspan_env)
    assert done.returncode == Exit.OK, done.stderr
    answer = one_object(done.stdout)
    assert answer["opened"] is False
    with urllib.request.urlopen(answer["url"]) as page:
        assert b"<title>midspan</title>" in page.read()


def test_ui_keeps_the_token_off_the_command_line_of_the_browser(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$*" > {told}\n')
    browser.chmod(0o700)
    env = shared_midspan_env | {"BROWSER": f"{browser} %s"}
    answer = one_object(run_midspan(["ui", "--json"], env).stdout)
    assert answer["opened"] is True
    address = told.read_text()
    assert answer["url"].partition("#token=")[2] not in address
    file = Path(address.removeprefix("file://"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert html.escape(answer["url"]) in file.read_text()
