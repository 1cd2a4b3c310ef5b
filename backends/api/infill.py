"""`POST /infill`: the way of one completion through the manager.

Rule: the generation ends with the client's interest in it (`streams`). Must not know how it is
made.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from backends.api import infill_format, steering
from backends.api.answers import error_body, read_object
from backends.api.infill_format import InfillCall
from backends.api.streams import Events, EventStream, event, whole
from backends.backend import Backend, Chunk
from backends.errors import MidspanError, WorkerDied
from backends.manager import Manager


async def infill(request: Request) -> Response:
    """Answer `POST /infill`."""
    manager: Manager = request.app.state.manager
    call = infill_format.parse(await read_object(request))
    if call.stream:
        return EventStream(_events(manager, call), _error_event)
    return await whole(request, _whole(manager, call))


async def _ready(manager: Manager, call: InfillCall) -> tuple[str, Backend]:
    model, backend = await manager.ready(call.model)
    steering.check(call.request.steering, backend.capabilities)
    return model, backend


async def _whole(manager: Manager, call: InfillCall) -> dict[str, object]:
    model, backend = await _ready(manager, call)
    earlier: list[Chunk] = []  # of engines that stream whether anyone reads along or not
    async with aclosing(backend.infill(replace(call.request, whole=True))) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason is not None:
                return infill_format.answer(call, model, chunk.after(earlier))
            earlier.append(chunk)
    raise WorkerDied(f"The worker of {model} ended its stream early.")


async def _events(manager: Manager, call: InfillCall) -> Events:
    model, backend = await _ready(manager, call)
    async with aclosing(backend.infill(call.request)) as chunks:
        async for chunk in chunks:
            if chunk.finish_reason is None:
                yield event(infill_format.piece(chunk))
            else:
                yield event(infill_format.answer(call, model, chunk))


def _error_event(error: MidspanError) -> bytes:
    return event(error_body(error))
