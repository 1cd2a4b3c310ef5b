"""What every backend must do, through the `Backend` seam: one suite for all of them.

Rule: each check is a plain coroutine function and raises AssertionError; it knows no runtime, no
protocol and no test framework, so that backends outside this package can run it too:

    # in conftest.py: failed checks show their values
    pytest.register_assert_rewrite("backends.contract")

    @pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
    async def test_contract(backend, check):
        try:
            await check(backend)
        except contract.Lacking as lack:  # it says so itself, in its capabilities
            pytest.skip(str(lack))

`CHECKS` take a backend that is ready and leave it so; `ENDINGS` take a function that makes one, and
end it. The model must write on when shown a list of numbers, in a context of 512 tokens or more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from backends.backend import Backend, FinishReason, Message, Role, SteeringUse
from backends.contract import chat, infill
from backends.contract.chat import (
    a_conversation_goes_on,
    a_conversation_goes_on_after_a_call,
    a_conversation_is_counted_as_it_is_evaluated,
    a_newer_request_of_a_session_cancels_the_older,
    an_answer_ends_before_a_stop_and_names_it,
    an_answer_streams_and_ends_once,
    an_answer_that_is_whole_fits_its_schema,
    calls_are_of_the_tools_that_are_offered,
)
from backends.contract.infill import (
    a_document_longer_than_the_context_is_cut_and_says_so,
    a_single_line_ends_at_its_end,
    an_infill_streams_and_ends_once,
    documents_at_once_get_what_each_gets_alone,
    greedy_text_is_the_same_twice_and_cached,
    no_tokens_are_none_and_one_is_one,
    odd_documents_are_completed,
    samples_are_repeated_by_their_seed,
    text_ends_before_a_stop_and_names_it,
    text_ends_where_it_leaves_the_cursors_block,
    typing_on_finds_its_prompt_cached,
)
from backends.contract.streams import (
    ENDED,
    GAP,
    GONE_WITHIN,
    HELLO,
    LONG,
    LONG_TALK,
    PATIENCE,
    SOON,
    TOOL,
    Check,
    Lacking,
    begun,
    chats,
    collected,
    context_length,
    gone,
    holds_to_schemas,
    idle,
    into,
    long,
    reading,
    refused,
    rest,
    short,
    until,
)
from backends.errors import (
    BackendError,
    BadRequest,
    MidspanError,
    NoFim,
    RemoteRefused,
    Unsupported,
)

# Also those of the other modules: who runs the suite names checks that do not hold for a backend.
__all__ = [
    "CHECKS",
    "ENDINGS",
    "Check",
    "Ending",
    "Lacking",
    "Make",
    "a_conversation_goes_on",
    "a_conversation_goes_on_after_a_call",
    "a_conversation_is_counted_as_it_is_evaluated",
    "a_document_longer_than_the_context_is_cut_and_says_so",
    "a_newer_request_of_a_session_cancels_the_older",
    "a_single_line_ends_at_its_end",
    "an_answer_ends_before_a_stop_and_names_it",
    "an_answer_streams_and_ends_once",
    "an_answer_that_is_whole_fits_its_schema",
    "an_infill_streams_and_ends_once",
    "calls_are_of_the_tools_that_are_offered",
    "documents_at_once_get_what_each_gets_alone",
    "greedy_text_is_the_same_twice_and_cached",
    "no_tokens_are_none_and_one_is_one",
    "odd_documents_are_completed",
    "samples_are_repeated_by_their_seed",
    "text_ends_before_a_stop_and_names_it",
    "text_ends_where_it_leaves_the_cursors_block",
    "typing_on_finds_its_prompt_cached",
]

Make = Callable[[], Awaitable[Backend]]
Ending = Callable[[Make], Awaitable[None]]
CHECKS: list[Check] = [*infill.CHECKS]
ENDINGS: list[Ending] = []
_check = into(CHECKS)


def _ending(function: Ending) -> Ending:
    ENDINGS.append(function)
    return function


# Ending early.


@_check
async def a_newer_request_of_a_document_cancels_the_older(backend: Backend) -> None:
    """In mid-text and before any; the older still ends, and nobody else's does."""
    older = long(backend, "a")
    async with begun(older) as read, reading(long(backend, "b")) as other:
        unread = asyncio.create_task(collected(long(backend, "a")))
        await asyncio.sleep(0.01)
        newer = await collected(short(backend, "a"))
        assert newer.last.finish_reason in ENDED
        for ended in (await rest(older, read), await unread):
            assert ended.last.finish_reason is FinishReason.CANCELLED
        assert not other.done() or (await other).last.finish_reason in ENDED
    await idle(backend)


@_check
async def a_closed_stream_stops_the_work(backend: Backend) -> None:
    """Closed by whoever reads it, or because that one was cancelled."""
    async with begun(long(backend)):
        assert backend.in_flight == 1
    await idle(backend)
    reader = asyncio.create_task(collected(long(backend)))
    await until(lambda: backend.in_flight > 0, SOON)
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    await idle(backend)
    assert (await collected(short(backend))).last.finish_reason in ENDED


@_check
async def a_deadline_ends_it(backend: Backend) -> None:
    """With what there is by then; one that is far off changes nothing."""
    async with asyncio.timeout(PATIENCE):
        if backend.capabilities.fim:
            late = backend.infill(replace(LONG, deadline_ms=1))
            early = backend.infill(replace(GAP, deadline_ms=PATIENCE * 1000))
        else:
            late = backend.chat(replace(LONG_TALK, deadline_ms=1))
            early = backend.chat(replace(HELLO, deadline_ms=PATIENCE * 1000))
        assert (await collected(late)).last.finish_reason is FinishReason.DEADLINE
        assert (await collected(early)).last.finish_reason in ENDED
    await idle(backend)


CHECKS += chat.CHECKS


# What it refuses, and how it is.


@_check
async def what_it_cannot_do_is_refused_with_a_reason(backend: Backend) -> None:
    """The capabilities say it first, and the error in the same words."""
    can = backend.capabilities
    assert can.fim or can.no_fim_reason
    assert can.chat or can.no_chat_reason
    if not can.fim:
        assert await refused(collected(backend.infill(GAP)), NoFim) == can.no_fim_reason
    if not can.chat:
        assert await refused(collected(backend.chat(HELLO)), Unsupported) == can.no_chat_reason
    steering = (SteeringUse("no such vector", 1.0),)
    kind = MidspanError if can.steering else Unsupported
    if can.fim:
        assert await refused(collected(backend.infill(replace(GAP, steering=steering))), kind)
    if can.chat:
        assert await refused(collected(backend.chat(replace(HELLO, steering=steering))), kind)
    if can.chat and not can.counting:
        counted = backend.chat(replace(HELLO, count_only=True))
        assert await refused(collected(counted), Unsupported)


@_check
async def a_wrong_request_is_the_caller_s_fault(backend: Backend) -> None:
    """It says what is wrong; the next request is answered."""
    holds_to_schemas(backend)
    for request in (
        replace(HELLO, tools=(TOOL,), tool_choice="no_such_tool"),
        replace(HELLO, tool_choice="required"),
        replace(HELLO, schema={"type": "no such type"}),
    ):
        assert await refused(collected(backend.chat(request)), BadRequest), request
    assert (await collected(backend.chat(HELLO))).last.finish_reason in ENDED


@_check
async def a_conversation_longer_than_the_context_is_refused(backend: Backend) -> None:
    """Cutting it is the caller's business."""
    chats(backend)
    words = "and so on " * 4 * context_length(backend)
    request = replace(HELLO, messages=(Message(Role.USER, words),))
    # An engine elsewhere knows how many tokens it has, and midspan does not.
    assert await refused(collected(backend.chat(request)), (BadRequest, RemoteRefused))
    assert (await collected(backend.chat(HELLO))).last.finish_reason in ENDED


@_check
async def it_is_well_and_says_what_it_is(backend: Backend) -> None:
    """Also in mid-request."""
    assert backend.description
    assert backend.capabilities.context_length >= 0
    if backend.pid is not None:
        assert not gone(backend.pid)
        assert backend.memory_bytes > 0
    async with begun(long(backend)), asyncio.timeout(PATIENCE):
        await backend.health()
    await idle(backend)


# The end.


@_ending
async def drained_requests_end_and_nothing_is_left(make: Make) -> None:
    """What is nearly done is finished, the rest cancelled; then everything is freed."""
    backend = await make()
    pid = backend.pid
    async with reading(long(backend)) as reader, asyncio.timeout(PATIENCE):
        assert (await collected(short(backend))).last.finish_reason in ENDED
        await backend.drain(0.05)
        assert (await reader).last.finish_reason is FinishReason.CANCELLED
    await _freed(backend, pid)


@_ending
async def closing_fails_what_is_under_way(make: Make) -> None:
    """Nobody waits for ever for a model that was unloaded."""
    backend = await make()
    pid = backend.pid
    async with reading(long(backend)) as reader:
        await _freed(backend, pid)
        assert await refused(reader, BackendError)


async def _freed(backend: Backend, pid: int | None) -> None:
    """Close it; afterwards it answers nothing and its process is gone."""
    async with asyncio.timeout(PATIENCE):
        await backend.close()
        await backend.close()  # whoever closes it again does no harm
    assert await refused(collected(short(backend)), BackendError)
    assert await refused(backend.health(), BackendError)
    if pid is not None:
        await until(lambda: gone(pid), GONE_WITHIN)
