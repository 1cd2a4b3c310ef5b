"""An answer on its way, from a model that is made ready to chunks that say which choice they are.

Rule: the session it goes on with is nobody else's until it ends. Must not know any API.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from backends.api.choices import choices
from backends.api.sessions import Sessions
from backends.backend import Chunk, Sampling


class Piece(NamedTuple):
    """A chunk of one of the choices, by `model`."""

    model: str
    choice: int
    chunk: Chunk


Pieces = AsyncGenerator[Piece, None]
Start = Callable[[str, Sampling], AsyncIterator[Chunk]]  # in a session
Ready = Callable[[], Awaitable[tuple[str, Start]]]  # a model's name, and how to ask it


async def pieces(ready: Ready, leases: Sessions, key: str, sampling: Sampling, n: int) -> Pieces:
    """Yield `n` choices of what the model that `ready` gives says. Raises MidspanError.

    `key` is what requests have in common that should go on with one another's session.
    """
    model, start = await ready()
    with leases.lease(key) as session:
        async with aclosing(choices(partial(start, session), sampling, n)) as found:
            async for index, chunk in found:
                yield Piece(model, index, chunk)
