"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`: OpenAI's API, as its clients expect it.

Rule: the generation ends with the client's interest in it (`streams`). What the fields mean is in
`openai_format`, what comes back in `openai_answers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from backends.api import chat, openai_format, steering
from backends.api.answers import json_response, openai_error, read_object
from backends.api.chat_format import ChatCall
from backends.api.openai_answers import Answer, ChatAnswer, Object, TextAnswer
from backends.api.openai_format import CompletionCall
from backends.api.pieces import Pieces, Start, pieces
from backends.api.sessions import Sessions
from backends.api.streams import Events, EventStream, event, whole
from backends.backend import Chunk, Sampling
from backends.catalogue import Model
from backends.errors import MidspanError, UnknownModel
from backends.manager import Manager

DONE = b"data: [DONE]\n\n"

Make = Callable[[str], Answer]  # of a model's name


async def chat_completions(request: Request) -> Response:
    """Answer `POST /v1/chat/completions`."""
    state = request.app.state
    call = openai_format.parse_chat(await read_object(request))
    make = partial(ChatAnswer, call)
    return await _respond(request, call, chat.answered(state.manager, state.sessions, call), make)


async def completions(request: Request) -> Response:
    """Answer `POST /v1/completions`."""
    state = request.app.state
    call = openai_format.parse_completion(await read_object(request))
    make = partial(TextAnswer, include_usage=call.include_usage)
    return await _respond(request, call, _infilled(state.manager, state.sessions, call), make)


async def _respond(
    request: Request, call: ChatCall | CompletionCall, found: Pieces, make: Make
) -> Response:
    if call.stream:
        return EventStream(_events(found, make), _error_event)
    return await whole(request, _whole(found, make))


async def models(request: Request) -> Response:
    """Answer `GET /v1/models`; clients of Anthropic's API can read it, too."""
    manager: Manager = request.app.state.manager
    rows = await asyncio.to_thread(lambda: list(map(_row, manager.catalogue.models().values())))
    ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {}
    return json_response({"object": "list", "data": rows, "has_more": False, **ends})


async def model(request: Request) -> Response:
    """Answer `GET /v1/models/NAME`."""
    manager: Manager = request.app.state.manager
    name = request.path_params["name"]
    found = await asyncio.to_thread(manager.catalogue.models)
    if name not in found:
        raise UnknownModel(f"No model is called {name!r}; there are {', '.join(found)}.")
    return json_response(await asyncio.to_thread(_row, found[name]))


def _row(model: Model) -> Object:
    created = 0
    with suppress(OSError):
        created = int(model.path.stat().st_mtime)
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": model.source.value,
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat(),
    }


def _infilled(manager: Manager, leases: Sessions, call: CompletionCall) -> Pieces:
    request = call.request

    async def ready() -> tuple[str, Start]:
        model, backend = await manager.ready(call.model)
        steering.check(request.steering, backend.capabilities)

        def start(session: str, sampling: Sampling) -> AsyncIterator[Chunk]:
            return backend.infill(replace(request, document=session, sampling=sampling))

        return model, start

    return pieces(ready, leases, f"completions:{call.user}", request.sampling, call.choices)


async def _whole(found: Pieces, make: Make) -> Object:
    answer: Answer | None = None
    async with aclosing(found) as pieces:
        async for model, index, chunk in pieces:
            answer = answer or make(model)
            answer.add(index, chunk)
    assert answer is not None  # there is at least one piece, or an error
    return answer.body()


async def _events(found: Pieces, make: Make) -> Events:
    answer: Answer | None = None
    async with aclosing(found) as pieces:
        async for model, index, chunk in pieces:
            answer = answer or make(model)
            for body in answer.add(index, chunk):
                yield event(body)
    for body in answer.end() if answer is not None else ():
        yield event(body)
    yield DONE


def _error_event(error: MidspanError) -> bytes:
    return event(openai_error(error))
