from __future__ import annotations

import asyncio

import pytest

from lsp_server.generations import Generations, Rank


async def value(result: int, gate: asyncio.Event | None = None) -> int:
    if gate is not None:
        await gate.wait()
    return result


async def started(generations, document, work, **options):
    task = asyncio.ensure_future(generations.run(document, work, **options))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_newer_cancels_older_of_the_same_document_only():
    generations, gate = Generations(), asyncio.Event()
    older = await started(generations, "a", value(1, gate))
    other = await started(generations, "b", value(2, gate))
    assert await generations.run("a", value(3)) == 3
    assert await older is None
    gate.set()
    assert await other == 2
    assert generations._running == {}


async def test_cancelling_the_caller_cancels_the_work_and_is_raised():
    generations, gate = Generations(), asyncio.Event()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await gate.wait()
        finally:
            ended.set()

    caller = await started(generations, "a", work())
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
    assert generations._running == {}


async def test_by_hand_is_not_disturbed_by_typing_but_by_hand():
    generations, gate = Generations(), asyncio.Event()
    by_hand = await started(generations, "a", value(1, gate), rank=Rank.BY_HAND)
    assert await generations.run("a", value(2)) is None
    generations.cancel("a", Rank.TYPING)
    gate.set()
    assert await by_hand == 1
    gate.clear()
    by_hand = await started(generations, "a", value(1, gate), rank=Rank.BY_HAND)
    assert await generations.run("a", value(2), rank=Rank.BY_HAND) == 2
    assert await by_hand is None


async def test_failure_is_the_callers_and_frees_the_document():
    generations = Generations()

    async def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await generations.run("a", fails())
    assert await generations.run("a", value(1)) == 1


async def test_idle_gives_way_to_typing_and_never_the_reverse():
    generations, gate = Generations(), asyncio.Event()
    idle = await started(generations, "a", value(1, gate), rank=Rank.IDLE)
    typing = await started(generations, "a", value(2, gate))
    assert await idle is None
    assert await generations.run("a", value(3), Rank.IDLE) is None
    generations.cancel("a", Rank.IDLE)
    gate.set()
    assert await typing == 2
    assert await generations.run("a", value(4), Rank.IDLE) == 4
