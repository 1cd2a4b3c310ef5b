"""What every backend must do that chats; see `backends.contract`."""

from __future__ import annotations

import json
from dataclasses import replace

from backends.backend import Backend, FinishReason, Message, Role, ToolCall
from backends.contract.streams import (
    COUNT,
    ENDED,
    HELLO,
    LONG_TALK,
    SCHEMA,
    TOOL,
    Check,
    Lacking,
    begun,
    chats,
    collected,
    holds_to_schemas,
    into,
    rest,
    short,
)
from backends.errors import RemoteProtocolError, Unsupported

CHECKS: list[Check] = []
_check = into(CHECKS)


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
