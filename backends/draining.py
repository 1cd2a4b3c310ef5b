"""Letting requests finish, within bounds.

Rule: knows neither requests nor what they run on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

END_TIMEOUT = 3.0  # seconds for requests to end, once they are cancelled


async def drain(idle: asyncio.Event, limit: float, cancel: Callable[[], None]) -> None:
    """Wait `limit` seconds for `idle`; then `cancel` what is under way, and wait for its end."""
    if not await _set_within(idle, limit):
        cancel()
        await _set_within(idle, END_TIMEOUT)


async def _set_within(event: asyncio.Event, limit: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await event.wait()
    return event.is_set()
