"""`GET /api/models/compare`: models side by side, whether they are here or can be downloaded.

Rule: a converter. Each row has the same fields, null where something is not known; sizes of what
is not here are estimates. Must not know who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from backends import catalogue, memory
from backends.api.answers import json_response
from backends.api.management import manager_of, row_of
from backends.catalogue import Model
from backends.errors import BadRequest, MidspanError, UnknownModel
from backends.manager import Manager

MOST: Final = 16
FIELDS: Final = (
    *("name", "state", "parameters", "size_bytes", "memory_bytes", "quantisation"),
    *("context_length", "family", "engine", "licence", "fim", "chat", "fits", "why"),
)


async def compare(request: Request) -> Response:
    """Answer for each `name` of the query, in its order."""
    names = request.query_params.getlist("name")
    if not 1 <= len(names) <= MOST:
        raise BadRequest(f"Name 1 to {MOST} models: ?name=A&name=B")
    manager = manager_of(request)
    return json_response({"models": await asyncio.to_thread(_rows, manager, names)})


def _rows(manager: Manager, names: list[str]) -> list[Mapping[str, Any]]:
    here = manager.catalogue.models()
    offered = {row["name"]: row for row in manager.downloads.offers()["models"]}
    rows: list[Mapping[str, Any]] = []
    for name in dict.fromkeys(names):
        if name not in here and name not in offered:
            raise UnknownModel(f"No model is called {name!r}, here or in the catalogue.")
        known = dict(offered.get(name, {}))
        if name in here:
            known |= row_of(manager, here[name])
            known["memory_bytes"] = _memory(here[name])
        rows.append({field: known.get(field) for field in FIELDS} | {"here": name in here})
    return rows


def _memory(model: Model) -> int | None:
    """Return the bytes that a model will take when it is loaded; None where that is not known."""
    if model.is_remote:
        return None
    try:
        engine = catalogue.engine_for(model).name
        return memory.expected(catalogue.read_header(model.path), model.settings, engine)
    except MidspanError:
        return None
