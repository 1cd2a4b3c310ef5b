"""What every backend must do, through the `Backend` seam: one suite for all of them.

Rule: each check is a plain coroutine function and raises AssertionError; it knows no runtime, no
protocol and no test framework, so that backends outside this package can run it too:

    # in conftest.py: failed checks show their values
    pytest.register_assert_rewrite("backends.contract", "backends.contract_streams")

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
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import takewhile

from backends.backend import (
    Backend,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Sampling,
    SteeringUse,
    ToolCall,
)
from backends.contract_streams import (
    COUNT,
    ENDED,
    EVALUATED_PER_KEY,
    FUNCTIONS,
    GAP,
    GONE_WITHIN,
    HELLO,
    LONG,
    LONG_TALK,
    PATIENCE,
    SCHEMA,
    SOON,
    SUMS,
    TOOL,
    Lacking,
    begun,
    chats,
    collected,
    context_length,
    fills,
    gone,
    holds_to_schemas,
    idle,
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
    RemoteProtocolError,
    RemoteRefused,
    Unsupported,
)
from fim.block import Block

__all__ = ["CHECKS", "ENDINGS", "Check", "Ending", "Lacking", "Make"]

Make = Callable[[], Awaitable[Backend]]
Check = Callable[[Backend], Awaitable[None]]
Ending = Callable[[Make], Awaitable[None]]
CHECKS: list[Check] = []
ENDINGS: list[Ending] = []


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def _ending(function: Ending) -> Ending:
    ENDINGS.append(function)
    return function


# Filling in the middle.


@_check
async def an_infill_streams_and_ends_once(backend: Backend) -> None:
    """Text comes as it is generated, and the end says why and what it cost."""
    fills(backend)
    answer = await collected(backend.infill(replace(LONG, max_tokens=16)))
    assert sum(bool(chunk.text) for chunk in answer.chunks) > 1, "text comes as it is generated"
    assert answer.last.finish_reason is FinishReason.LENGTH
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens >= 16
    assert answer.last.timings is not None
    assert backend.in_flight == 0


@_check
async def greedy_text_is_the_same_twice_and_cached(backend: Backend) -> None:
    """Whatever is cached, the text is what the model says."""
    fills(backend)
    cold = await collected(backend.infill(GAP))
    again = await collected(backend.infill(replace(GAP, document="file:///twice.py")))
    cached = await collected(backend.infill(replace(GAP, document="file:///twice.py")))
    assert cold.text
    assert cold.text == again.text == cached.text
    assert cached.usage.prompt_tokens - cached.usage.cached_tokens <= EVALUATED_PER_KEY


@_check
async def typing_on_finds_its_prompt_cached(backend: Backend) -> None:
    """Each key costs what was typed, not the document."""
    fills(backend)
    request = replace(GAP, document="file:///typed.py", max_tokens=2)
    before = await collected(backend.infill(request))
    for typed in ("with", "with open(path)", "with open(path) as file:"):
        warm = await collected(backend.infill(replace(request, prefix=GAP.prefix + typed)))
        evaluated = warm.usage.prompt_tokens - warm.usage.cached_tokens
        assert evaluated <= EVALUATED_PER_KEY
        assert warm.usage.cached_tokens >= before.usage.cached_tokens
    assert warm.usage.cached_tokens > before.usage.cached_tokens


@_check
async def text_ends_before_a_stop_and_names_it(backend: Backend) -> None:
    """Also before one that is made of several tokens, or comes late in the list."""
    fills(backend)
    request = replace(LONG, max_tokens=12)
    whole = (await collected(backend.infill(request))).text
    stop = whole[len(whole) // 2 :][:3]
    cut = await collected(backend.infill(replace(request, stop=("no such text", stop))))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.last.finish_reason is FinishReason.STOP
    assert cut.last.stopping_word in (stop, ""), "it is named, unless the engine doesn't say"


@_check
async def a_single_line_ends_at_its_end(backend: Backend) -> None:
    """The line's end is no part of the text, and no stop of the caller's."""
    fills(backend)
    request = replace(GAP, prefix=FUNCTIONS, suffix="", max_tokens=24)
    whole = (await collected(backend.infill(request))).text
    assert "\n" in whole, "the model must write more than a line"
    line = await collected(backend.infill(replace(request, single_line=True)))
    assert line.text == whole.partition("\n")[0]
    assert line.last.finish_reason is FinishReason.STOP
    assert line.last.stopping_word == ""


@_check
async def text_ends_where_it_leaves_the_cursors_block(backend: Backend) -> None:
    """As soon as that is known: nobody waits for the function that comes next."""
    fills(backend)
    request = replace(GAP, prefix=SUMS, suffix="\n", max_tokens=48)
    whole = await collected(backend.infill(request))
    first, *more = whole.text.split("\n")
    block = Block(SUMS.rpartition("\n")[2] + first)
    kept = [first, *takewhile(lambda line: not block.leaves(line), more)]
    limited = await collected(backend.infill(replace(request, limit_scope=True)))
    assert limited.text.rstrip() == "\n".join(kept).rstrip()
    if len(kept) <= len(more):
        assert limited.last.finish_reason is FinishReason.STOP
        assert limited.last.stopping_word == ""
        assert limited.usage.completion_tokens < whole.usage.completion_tokens


@_check
async def no_tokens_are_none_and_one_is_one(backend: Backend) -> None:
    """Nothing is asked for to have the prompt evaluated before somebody waits."""
    fills(backend)
    none = await collected(backend.infill(replace(LONG, max_tokens=0)))
    assert none.text == ""
    assert none.last.finish_reason is FinishReason.LENGTH
    one = await collected(backend.infill(replace(LONG, max_tokens=1)))
    assert one.last.finish_reason is FinishReason.LENGTH
    # One more may be spent on the word that was begun.
    assert one.usage.completion_tokens in (1, 2)


@_check
async def odd_documents_are_completed(backend: Backend) -> None:
    """None at all, any characters, and names that a template gives a meaning to."""
    fills(backend)
    for prefix, suffix in (
        ("", ""),
        ("", "\n"),
        ('greeting = "héllo 世界 🙂', '"\r\n'),
        ("x = '<|fim_middle|><|endoftext|></s>\x00\x01", "<|fim_prefix|>'\n"),
    ):
        request = replace(GAP, prefix=prefix, suffix=suffix, max_tokens=3)
        answer = await collected(backend.infill(request))
        assert answer.last.finish_reason in ENDED


@_check
async def a_document_longer_than_the_context_is_cut_and_says_so(backend: Backend) -> None:
    """What is shown fits, with room for the answer."""
    fills(backend)
    length = context_length(backend)
    lines = "value = 1\n" * length
    # The prefill's budget keeps it small where evaluating is slow.
    request = InfillRequest(lines, lines, max_tokens=2, prompt_ms=100)
    answer = await collected(backend.infill(request))
    assert answer.last.truncated
    assert answer.usage.prompt_tokens < length
    assert not (await collected(backend.infill(replace(GAP, max_tokens=1)))).last.truncated


@_check
async def samples_are_repeated_by_their_seed(backend: Backend) -> None:
    """And another seed is another text."""
    fills(backend)
    if not backend.capabilities.modulation:
        raise Lacking("its sampling can't be set")
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=7)
    request = replace(GAP, prefix="x = ", suffix="", sampling=sampling)
    first = (await collected(backend.infill(request))).text
    assert (await collected(backend.infill(request))).text == first
    other = replace(request, sampling=replace(sampling, seed=8))
    assert (await collected(backend.infill(other))).text != first


@_check
async def documents_at_once_get_what_each_gets_alone(backend: Backend) -> None:
    """More of them than most engines have slots."""
    fills(backend)
    requests = [
        replace(GAP, prefix=f"{FUNCTIONS}def read_{n}(path):\n    ", document=f"file:///{n}.py")
        for n in range(6)
    ]
    alone = [(await collected(backend.infill(replace(r, document=None)))).text for r in requests]
    together = await asyncio.gather(*(collected(backend.infill(r)) for r in requests))
    assert [answer.text for answer in together] == alone
    assert all(answer.last.finish_reason in ENDED for answer in together)
    assert backend.in_flight == 0


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


# Chat.


@_check
async def an_answer_streams_and_ends_once(backend: Backend) -> None:
    """As an infill does."""
    chats(backend)
    answer = await collected(backend.chat(replace(LONG_TALK, max_tokens=16)))
    assert sum(bool(chunk.text or chunk.reasoning) for chunk in answer.chunks) > 1
    assert answer.last.finish_reason is FinishReason.LENGTH
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens == 16
    assert answer.last.tool_calls == ()


@_check
async def an_answer_ends_before_a_stop_and_names_it(backend: Backend) -> None:
    """As an infill does."""
    chats(backend)
    request = replace(LONG_TALK, max_tokens=12)
    whole = (await collected(backend.chat(request))).text
    stop = whole[len(whole) // 2 :][:3]
    cut = await collected(backend.chat(replace(request, stop=(stop,))))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.last.finish_reason is FinishReason.STOP
    assert cut.last.stopping_word in (stop, ""), "it is named, unless the engine doesn't say"


@_check
async def a_newer_request_of_a_session_cancels_the_older(backend: Backend) -> None:
    """Sessions are not documents: one of the same name goes on."""
    chats(backend)
    older = backend.chat(replace(LONG_TALK, session="same"))
    async with begun(older) as read:
        if backend.capabilities.fim:
            assert (await collected(short(backend, "same"))).last.finish_reason in ENDED
        newer = await collected(backend.chat(replace(HELLO, session="same")))
        assert newer.last.finish_reason in ENDED
        assert (await rest(older, read)).last.finish_reason is FinishReason.CANCELLED


@_check
async def a_conversation_goes_on(backend: Backend) -> None:
    """With what was said before in it, evaluated once where the engine keeps it."""
    chats(backend)
    first = await collected(backend.chat(replace(HELLO, session="goes on")))
    said = (
        Message(Role.SYSTEM, "Be brief."),
        *HELLO.messages,
        Message(Role.ASSISTANT, first.text),
        Message(Role.USER, "And more?"),
    )
    second = await collected(backend.chat(replace(HELLO, messages=said[1:], session="goes on")))
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.usage.cached_tokens >= first.usage.cached_tokens
    assert (await collected(backend.chat(replace(HELLO, messages=said)))).last.finish_reason


@_check
async def a_conversation_is_counted_as_it_is_evaluated(backend: Backend) -> None:
    """To the token, with tools too, and where it goes on; nothing is evaluated for it."""
    chats(backend)
    if not backend.capabilities.counting:
        raise Lacking("it does not count tokens")
    said = (Message(Role.SYSTEM, "Be brief. 🙂"), *COUNT)
    for request in (
        HELLO,
        replace(HELLO, messages=said, session="counted"),
        replace(HELLO, messages=said, tools=(TOOL,)),
    ):
        counted = await collected(backend.chat(replace(request, count_only=True)))
        assert counted.text == ""
        assert counted.usage.completion_tokens == 0
        evaluated = await collected(backend.chat(replace(request, max_tokens=1)))
        assert counted.usage.prompt_tokens == evaluated.usage.prompt_tokens
    if length := backend.capabilities.context_length:
        long = replace(HELLO, messages=(Message(Role.USER, "and so on " * length),))
        counted = await collected(backend.chat(replace(long, count_only=True)))
        assert counted.usage.prompt_tokens > length, "how far it is over is what one wants to know"
    assert backend.in_flight == 0


@_check
async def an_answer_that_is_whole_fits_its_schema(backend: Backend) -> None:
    """An engine elsewhere may not hold the model to it: then that is an error, and no answer."""
    holds_to_schemas(backend)
    try:
        answer = await collected(backend.chat(replace(HELLO, schema=SCHEMA, max_tokens=60)))
    except RemoteProtocolError:
        return
    if answer.last.finish_reason is not FinishReason.LENGTH:
        assert isinstance(json.loads(answer.text)["good"], bool)


@_check
async def calls_are_of_the_tools_that_are_offered(backend: Backend) -> None:
    """With arguments that fit. One that cannot be made to call refuses to be asked for it."""
    holds_to_schemas(backend)
    for choice in ("auto", "required", TOOL.name):
        request = replace(HELLO, tools=(TOOL,), tool_choice=choice, max_tokens=60)
        try:
            answer = await collected(backend.chat(request))
        except RemoteProtocolError:  # the model talks in place of calling
            continue
        except Unsupported:
            assert choice != "auto"
            continue
        if answer.last.finish_reason is FinishReason.TOOL_CALLS:
            assert answer.last.tool_calls
        elif answer.last.tool_calls:  # more of them were to come
            assert answer.last.finish_reason is FinishReason.LENGTH
        for call in answer.last.tool_calls:
            assert call.id
            assert call.name == TOOL.name
            assert isinstance(json.loads(call.arguments)["good"], bool)


@_check
async def a_conversation_goes_on_after_a_call(backend: Backend) -> None:
    """The call and its result are part of it."""
    holds_to_schemas(backend)
    call = ToolCall("call00001", TOOL.name, '{"good": true}')
    said = (
        *HELLO.messages,
        Message(Role.ASSISTANT, "", tool_calls=(call,)),
        Message(Role.TOOL, "noted", tool_call_id=call.id),
    )
    request = replace(HELLO, messages=said, tools=(TOOL,), tool_choice="none")
    assert (await collected(backend.chat(request))).last.finish_reason in ENDED


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
