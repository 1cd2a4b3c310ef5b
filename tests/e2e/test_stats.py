"""From a key to `midspan stats`: the real server, manager, worker and starter model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Env
from tests.e2e.conftest import PATIENCE, Editor
from tests.e2e.test_lsp_editor import PATTERN

pytestmark = pytest.mark.engine


async def test_accepted_suggestion_is_in_the_stats_and_its_text_is_not(
    editor: Editor, midspan_env: Env, run_midspan
):
    buffer = editor.open(PATTERN.replace("multiply", "hunter2"), "secret_name.py")
    buffer.type("retu")
    (item,) = await buffer.ghost_soon()
    buffer.accept(item)
    assert item.command is not None
    assert await editor.command(item.command.command, *(item.command.arguments or [])) is None

    async def figures() -> dict[str, Any]:
        done = await asyncio.to_thread(run_midspan, ["stats", "--json"], midspan_env)
        return json.loads(done.stdout)["models"].get("starter", {})

    async with asyncio.timeout(PATIENCE):  # it is written every few seconds
        while not (found := await figures()).get("accepted"):
            await asyncio.sleep(0.5)
    assert found["accepted"] == found["whole"] == 1
    assert found["characters"] == len(item.insert_text)
    assert found["latency_ms"]["p50"] > 0

    files = Path(midspan_env["MIDSPAN_STATE_DIR"]).glob("ledger.sqlite*")
    data = b"".join(path.read_bytes() for path in files)
    assert b"starter" in data
    for text in (b"hunter2", b"secret_name", item.insert_text.strip().encode()):
        assert text not in data
