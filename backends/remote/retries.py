"""What is done about a request that failed before its answer began.

    no connection, 5xx   once more after a jittered pause, at most `retries` times
    429                  once more after what the server says, if somebody can wait so long
    anything else        never

Rule: pure decisions; `repeated` is the one effect. Must not know HTTP or any engine.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from backends.errors import RemoteError, RemoteFailed, RemoteRateLimited, RemoteUnreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """`retries` beyond the first try. Times in seconds."""

    retries: int = 2
    pause: float = 0.25  # before the first repetition; doubled for each other one
    longest_wait: float = 20.0  # that a server may ask for
    waits: bool = True  # whether anybody can wait for a rate limit: not at the cursor


def pause(error: RemoteError, attempt: int, policy: Policy, jitter: float) -> float | None:
    """Return the seconds to wait before attempt number `attempt` + 1, None to give up.

    `attempt` counts from 1; `jitter` is a random number from 0 to 1.
    """
    if attempt > policy.retries:
        return None
    if isinstance(error, RemoteRateLimited):
        wait = error.retry_after
        fits = policy.waits and wait is not None and wait <= policy.longest_wait
        return wait if fits else None
    if isinstance(error, RemoteFailed | RemoteUnreachable):
        return policy.pause * 2.0 ** (attempt - 1) * (0.5 + jitter)
    return None


async def repeated(attempt: Callable[[], Awaitable[T]], policy: Policy) -> T:
    """Return what `attempt` returns, trying again where `pause` says so. Raises RemoteError."""
    number = 1
    while True:
        try:
            return await attempt()
        except RemoteError as exc:
            wait = pause(exc, number, policy, random.random())
            if wait is None:
                raise
            logger.info("%s, trying again in %.2f s", exc.kind, wait)
        await asyncio.sleep(wait)
        number += 1
