"""Writes the table of docs/models.md from the catalogue itself.

    python -m tests.docs_models

A test fails while the two differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from backends.downloads.catalogue import DOWNLOADABLE

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
_REGION = re.compile(r"(<!-- generated: catalogue -->\n).*?(<!-- end -->\n)", re.DOTALL)


def table() -> Iterator[str]:
    yield "| name | repository | parameters | context | licence | completes | chats | |\n"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    for row in DOWNLOADABLE:
        active = f", {row.active:g}B active" if row.active else ""
        yield (
            f"| `{row.name}` | `{row.repository}` | {row.parameters:.3g}B{active} "
            f"| {row.context_length} | {row.licence} | {'yes' if row.fim else 'no'} "
            f"| {'yes' if row.chat else 'no'} | {row.note} |\n"
        )


def render(page: str) -> str:
    """Return `page` with its table renewed."""
    return _REGION.sub(lambda found: f"{found[1]}\n{''.join(table())}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
