from __future__ import annotations

import re
from pathlib import Path

import pytest

from backends.api import page
from tests.backends.api.conftest import Scripted
from tests.backends.conftest import TOKEN


async def _ask(
    scripted: Scripted, path: str, *headers: str, method: str = "GET"
) -> tuple[str, str]:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{scripted.port}", *headers]
    text = "\r\n".join([*lines, "Connection: close", "", ""])
    head, _, body = (await scripted.served.raw(text.encode())).decode().partition("\r\n\r\n")
    return head, body


@pytest.mark.parametrize("path", page.FILES)
async def test_files_need_no_token_and_load_from_nowhere_else(
    scripted: Scripted, path: str
) -> None:
    head, body = await _ask(scripted, path)
    assert head.startswith("HTTP/1.1 200")
    assert "default-src 'none'; script-src 'self'" in head
    assert "frame-ancestors 'none'" in head
    assert "access-control" not in head.lower()
    assert TOKEN not in body
    assert re.findall(r"(?:https?:)?//[\w.]+/", body) == []


@pytest.mark.parametrize("headers", [["Origin: http://evil.example"]])
async def test_files_are_refused_to_other_origins(scripted: Scripted, headers: list[str]) -> None:
    head, _ = await _ask(scripted, "/ui", *headers)
    assert head.startswith("HTTP/1.1 403")


@pytest.mark.parametrize(
    "path", ["/ui/../api/models/status", "/ui/page", "/ui/", "/api/models/status"]
)
async def test_nothing_else_comes_without_the_token(scripted: Scripted, path: str) -> None:
    head, _ = await _ask(scripted, path)
    assert head.startswith("HTTP/1.1 401")


async def test_files_are_read_not_written(scripted: Scripted) -> None:
    head, _ = await _ask(scripted, "/ui", method="POST")
    assert head.startswith("HTTP/1.1 401")


def test_the_script_never_writes_html() -> None:
    text = (Path(page.__file__).with_name("page") / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
