"""The way of one chat request through the manager, whichever API it came by.

Rule: must not know HTTP's bodies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from backends.api import chat_format, sessions
from backends.api.chat_format import ChatCall
from backends.api.pieces import Pieces, Start, pieces
from backends.api.sessions import Sessions
from backends.backend import Chunk, Sampling
from backends.manager import Manager


def answered(manager: Manager, leases: Sessions, call: ChatCall) -> Pieces:
    """Yield the answer to `call`. Raises MidspanError."""
    request = call.request

    async def ready() -> tuple[str, Start]:
        model, backend = await manager.ready_for_chat(call.model)
        chat_format.check(call, backend.capabilities)

        def start(session: str, sampling: Sampling) -> AsyncIterator[Chunk]:
            return backend.chat(replace(request, session=session, sampling=sampling))

        return model, start

    return pieces(ready, leases, sessions.key(request, call.user), request.sampling, call.choices)
