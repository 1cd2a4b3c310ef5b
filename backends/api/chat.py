"""The way of one chat request through the manager, whichever API it came by.

Rule: the session it goes on with is nobody else's until it ends. Must not know HTTP's bodies.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from backends.api import chat_format, sessions
from backends.api.chat_format import ChatCall
from backends.api.choices import choices
from backends.api.sessions import Sessions
from backends.backend import Chunk, Sampling
from backends.manager import Manager


class Piece(NamedTuple):
    """A chunk of one of the choices, by `model`."""

    model: str
    choice: int
    chunk: Chunk


Pieces = AsyncGenerator[Piece, None]


async def pieces(manager: Manager, leases: Sessions, call: ChatCall) -> Pieces:
    """Yield the answer to `call`. Raises MidspanError."""
    model, backend = await manager.ready_for_chat(call.model)
    chat_format.check(call, backend.capabilities)
    with leases.lease(sessions.key(call.request, call.user)) as session:
        request = replace(call.request, session=session)

        def start(sampling: Sampling) -> AsyncIterator[Chunk]:
            return backend.chat(replace(request, sampling=sampling))

        async with aclosing(choices(start, request.sampling, call.choices)) as found:
            async for index, chunk in found:
                yield Piece(model, index, chunk)
