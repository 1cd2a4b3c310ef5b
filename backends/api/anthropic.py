"""`/v1/messages`: Anthropic's API, as its clients expect it.

Rule: the generation ends with the client's interest in it (`streams`). What the fields mean is in
`anthropic_format`, what comes back in `anthropic_answers`.
"""

from __future__ import annotations

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from backends.api import anthropic_format, chat
from backends.api.answers import anthropic_error, read_object
from backends.api.anthropic_answers import MessageAnswer, Object
from backends.api.chat_format import ChatCall
from backends.api.pieces import Pieces
from backends.api.streams import Events, EventStream, event, whole
from backends.backend import Usage
from backends.errors import MidspanError


async def messages(request: Request) -> Response:
    """Answer `POST /v1/messages`."""
    state = request.app.state
    call = anthropic_format.parse(await read_object(request))
    found = chat.answered(state.manager, state.sessions, call)
    if call.stream:
        return EventStream(_events(found, call), _error_event)
    return await whole(request, _whole(found, call))


async def count_tokens(request: Request) -> Response:
    """Answer `POST /v1/messages/count_tokens`."""
    state = request.app.state
    call = anthropic_format.parse_count(await read_object(request))
    return await whole(request, _counted(chat.answered(state.manager, state.sessions, call)))


async def _counted(found: Pieces) -> Object:
    async with aclosing(found) as pieces:
        usages = [piece.chunk.usage async for piece in pieces]
    return {"input_tokens": (usages[-1] or Usage()).prompt_tokens}


async def _whole(found: Pieces, call: ChatCall) -> Object:
    answer: MessageAnswer | None = None
    async with aclosing(found) as pieces:
        async for model, _, chunk in pieces:
            answer = answer or MessageAnswer(call, model)
            answer.add(chunk)
    assert answer is not None  # there is at least one piece, or an error
    return answer.body()


async def _events(found: Pieces, call: ChatCall) -> Events:
    answer: MessageAnswer | None = None
    async with aclosing(found) as pieces:
        async for model, _, chunk in pieces:
            bodies: list[Object] = []
            if answer is None:
                answer = MessageAnswer(call, model)
                bodies += answer.start()
            for body in bodies + answer.add(chunk):
                yield event(body, body["type"])


def _error_event(error: MidspanError) -> bytes:
    return event(anthropic_error(error), "error")
