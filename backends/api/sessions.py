"""Which cached sequence a conversation goes on with.

Rule: clients of the chat APIs send the whole conversation each time and name no session, so one is
found by how the conversation begins. It only says where to look: what is reused is compared token
by token. Two requests never share a session at a time, since the newer would end the older. Must
not know HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import msgspec

from backends.backend import ChatRequest, Role


def key(request: ChatRequest, user: str = "") -> str:
    """Return what all turns of the conversation of `request` have in common."""
    begin = []
    for message in request.messages:
        begin.append(message)
        if message.role is not Role.SYSTEM:
            break
    data = msgspec.json.encode((user, begin, request.tools))
    return f"chat:{hashlib.sha256(data).hexdigest()[:16]}"


class Sessions:
    """The sessions in use."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @contextmanager
    def lease(self, key: str) -> Iterator[str]:
        """Give a session for `key` that nobody uses for as long as the context lasts."""
        names = (key if n == 1 else f"{key}#{n}" for n in count(1))
        session = next(name for name in names if name not in self._taken)
        self._taken.add(session)
        try:
            yield session
        finally:
            self._taken.discard(session)
