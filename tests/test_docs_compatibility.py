from __future__ import annotations

import pytest

from tests import docs_compatibility

TEXT = docs_compatibility.PAGE.read_text(encoding="utf-8")


def test_docs_compatibility_shows_the_suites_as_they_are() -> None:
    assert docs_compatibility.render(TEXT) == TEXT, "run python -m tests.docs_compatibility"


@pytest.mark.parametrize("part", docs_compatibility._PARTS)
def test_docs_compatibility_has_every_generated_part(part: str) -> None:
    assert f"<!-- generated: {part} -->" in TEXT


def test_docs_compatibility_says_what_nobody_tried() -> None:
    cells = {cell.strip() for line in TEXT.splitlines() for cell in line.split("|")}
    assert {docs_compatibility.TESTED, docs_compatibility.UNTESTED} <= cells
