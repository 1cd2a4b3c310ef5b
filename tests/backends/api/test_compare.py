from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backends import memory
from backends.api.compare import FIELDS
from tests.backends.api.test_endpoints import ask
from tests.backends.conftest import MakeManager, Serve, Served

COMPARE = "/api/models/compare"


@pytest_asyncio.fixture
async def served(make_manager: MakeManager, serve: Serve) -> AsyncIterator[Served]:
    async with serve(await make_manager("a")) as running:
        yield running


async def test_compare_has_the_same_fields_of_what_is_here_and_what_is_not(served: Served) -> None:
    status, answer = await ask(served, "GET", f"{COMPARE}?name=qwen2.5-coder-7b&name=a")
    assert status == 200
    far, here = answer["models"]
    assert far.keys() == here.keys() == {*FIELDS, "here"}
    assert (far["name"], far["here"], far["licence"]) == ("qwen2.5-coder-7b", False, "apache-2.0")
    assert far["fits"] in ("yes", "tight", "no")
    assert far["why"]
    assert (here["name"], here["here"], here["licence"]) == ("a", True, None)
    model = served.manager.catalogue.get("a")
    assert here["size_bytes"] == model.path.stat().st_size
    assert here["memory_bytes"] > memory.runtime_bytes("llama-cpp")


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("", 422, "bad_request"),
        ("?name=" + "&name=".join("a" * 17), 422, "bad_request"),
        ("?name=a&name=no-such", 404, "unknown_model"),
    ],
)
async def test_compare_refuses(served: Served, query: str, status: int, kind: str) -> None:
    code, answer = await ask(served, "GET", COMPARE + query)
    assert (code, answer["error"]["kind"]) == (status, kind)
