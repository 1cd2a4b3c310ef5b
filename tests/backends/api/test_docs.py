"""docs/http-api.md names every field that the APIs know, and no API knows one it does not name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from backends.api import anthropic_format, openai_format
from backends.api.app import ROUTES

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text(encoding="utf-8")
OURS = {"modulation", "steering", "model"}  # told once for all


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"## `POST {title}`\n")[2], maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        (
            "/v1/chat/completions",
            {*openai_format.CHAT_FIELDS, *openai_format.IGNORED, *openai_format.NEUTRAL},
        ),
        (
            "/v1/completions",
            {*openai_format.COMPLETION_FIELDS, *openai_format.COMPLETION_NEUTRAL},
        ),
        (
            "/v1/messages",
            {*anthropic_format.FIELDS, *anthropic_format.IGNORED, *anthropic_format.NEUTRAL},
        ),
        ("/v1/messages/count_tokens", anthropic_format.FIELDS - anthropic_format.NOT_COUNTED),
    ],
)
def test_page_names_every_field(title: str, fields: Iterable[str]) -> None:
    named = set(re.findall(r"`(\w+)`", section(title)))
    assert set(fields) - OURS <= named
    assert all(f"`{name}`" in PAGE for name in OURS)


def test_page_names_every_endpoint_under_v1() -> None:
    for route in ROUTES:
        if route.path.startswith("/v1/"):
            assert route.path.replace("{name}", "NAME") in PAGE
