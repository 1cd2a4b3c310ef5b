"""Downloading models over HTTP: what there is, progress, cancelling, verifying, deleting.

Rule: converters only. A download is the manager's: closing a stream ends the watching, not it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from backends.api import fields
from backends.api.answers import error_body, json_response, read_object, text_field
from backends.api.management import manager_of, row_of
from backends.api.streams import EventStream, event
from backends.errors import MidspanError
from backends.manager import Manager

if TYPE_CHECKING:
    from backends.downloads.progress import Row

FIELDS = ("model", "repository", "file", "quantisation", "revision", "name")
DONE = b"data: [DONE]\n\n"
BEST = 3  # models that a recommendation names


async def catalogue(request: Request) -> Response:
    """`GET /api/models/catalogue`: what can be downloaded, with what suits this machine."""
    return json_response(await asyncio.to_thread(manager_of(request).downloads.offers))


async def recommend(request: Request) -> Response:
    """`GET /api/models/recommend`: the model to begin with on this machine, and why."""
    found = await asyncio.to_thread(manager_of(request).downloads.offers)
    rows = {row["name"]: row for row in found["models"]}
    best = rows[found["recommended"]]
    order = ("yes", "tight", "no")
    others = sorted(
        (row for row in rows.values() if row["fim"] and row["format"] == best["format"]),
        key=lambda row: (order.index(row["fits"]), -row["parameters"]),
    )
    return json_response(
        {
            "recommended": best["name"],
            "why": best["why"],
            "models": [best, *(row for row in others if row is not best)][:BEST],
            "machine": found["machine"],
        }
    )


async def download(request: Request) -> Response:
    """`POST /api/models/download {"model" | "repository", …, "stream"?}`: begins, or watches."""
    from backends.downloads.downloader import Asked

    body = await read_object(request)
    fields.only(body, {*FIELDS, "stream"})
    asked = Asked(**{name: fields.text(body, name) for name in FIELDS})
    stream = fields.flag(body, "stream")
    manager = manager_of(request)
    name = await manager.downloads.start(asked)
    if not stream:
        return json_response(await _shown(manager, manager.downloads.row(name)))
    return EventStream(_events(manager, name), lambda error: event(error_body(error)))


async def downloads(request: Request) -> Response:
    """`GET /api/models/downloads`: those of this run, and what earlier ones did not finish."""
    rows = await asyncio.to_thread(manager_of(request).downloads.rows)
    return json_response({"downloads": [row.as_json() for row in rows]})


async def cancel(request: Request) -> Response:
    """`POST /api/models/download/cancel {"name"}`: stops; what was received stays."""
    name = text_field(await read_object(request), "name")
    row = await manager_of(request).downloads.cancel(name)
    return json_response(row.as_json())


async def verify(request: Request) -> Response:
    """`POST /api/models/verify {"name"}`: hashes a downloaded model's files."""
    name = text_field(await read_object(request), "name")
    manager = manager_of(request)
    model = manager.catalogue.get(name)
    files = await asyncio.to_thread(manager.downloads.verify, model)
    return json_response({"name": name, "ok": all(file["ok"] for file in files), "files": files})


async def delete(request: Request) -> Response:
    """`POST /api/models/delete {"name"}`: deletes a downloaded model, or a part of one."""
    name = text_field(await read_object(request), "name")
    manager = manager_of(request)
    model = manager.catalogue.models().get(name)
    if model is None:
        freed = await asyncio.to_thread(manager.downloads.delete_left, name)
    else:
        manager.check_unused(name)
        freed = await asyncio.to_thread(manager.downloads.delete, model)
        manager.unload(name)
    return json_response({"deleted": name, "freed_bytes": freed})


async def _events(manager: Manager, name: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(manager.downloads.watch(name)) as rows:
        async for row in rows:
            yield event(await _shown(manager, row))
    yield DONE


async def _shown(manager: Manager, row: Row) -> dict[str, Any]:
    shown = row.as_json()
    if row.state == "done":
        model = manager.catalogue.models().get(row.name)
        if model is None:
            raise MidspanError(f"{row.name} was downloaded, and is gone again.")
        shown["model"] = await asyncio.to_thread(row_of, manager, model)
    return shown
