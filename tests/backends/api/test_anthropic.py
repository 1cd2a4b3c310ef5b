from __future__ import annotations

from typing import Any

import pytest

from backends.backend import Chunk, FinishReason, ToolCall
from backends.errors import Unsupported, WorkerDied
from tests.backends.api.conftest import END, USAGE, Scripted
from tests.backends.conftest import TOKEN

PATH = "/v1/messages"
HI: dict[str, Any] = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"name": "add", "input_schema": {"type": "object"}}
CALL = ToolCall("toolu_1", "add", '{"a":1}')
CALLS = Chunk("", finish_reason=FinishReason.TOOL_CALLS, usage=USAGE, tool_calls=(CALL, CALL))
COUNTS = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 7,
    "output_tokens": 3,
}


async def test_messages_answer_in_anthropics_shape(scripted: Scripted) -> None:
    scripted.script(Chunk("", reasoning="Let me "), Chunk("", reasoning="see."), Chunk("4"), END)
    status, body = await scripted.ask(PATH, HI)
    assert status == 200
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "a",
        "content": [
            {"type": "thinking", "thinking": "Let me see.", "signature": ""},
            {"type": "text", "text": "4"},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": COUNTS,
    }


async def test_messages_count_the_prompt_once(scripted: Scripted) -> None:
    _, body = await scripted.ask(PATH, HI)
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert sum(body["usage"][part] for part in parts) == USAGE.prompt_tokens


async def test_count_tokens_asks_for_a_count_alone(scripted: Scripted) -> None:
    scripted.script(END)
    body = {name: value for name, value in HI.items() if name != "max_tokens"}
    status, answer = await scripted.ask(f"{PATH}/count_tokens", body)
    assert (status, answer) == (200, {"input_tokens": 10})
    assert scripted.request.count_only
    for wrong in ("max_tokens", "temperature", "metadata", "steering", "nonsense"):
        status, answer = await scripted.ask(f"{PATH}/count_tokens", {**body, wrong: 1})
        assert (status, answer["error"]["type"]) == (422, "invalid_request_error")
        assert wrong in answer["error"]["message"]
    scripted.can(counting=False)
    status, answer = await scripted.ask(f"{PATH}/count_tokens", body)
    assert (status, answer["error"]["kind"]) == (409, "unsupported")
    assert "count" in answer["error"]["message"]
    assert len(scripted.backend.requests) == 1


async def test_messages_stream_the_exact_sequence(scripted: Scripted) -> None:
    scripted.script(
        Chunk("", reasoning="Hm."), Chunk("", reasoning=" So"), Chunk("Hel"), Chunk("lo"), CALLS
    )
    events = await scripted.events(PATH, {**HI, "tools": [TOOL]})
    assert all(name == body["type"] for name, body in events)
    start = events[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    told = [
        (name, body.get("index"), body.get("content_block") or body.get("delta"))
        for name, body in events[1:]
    ]
    tool_use = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}
    tool_input = {"type": "input_json_delta", "partial_json": '{"a":1}'}
    assert told == [
        ("ping", None, None),
        ("content_block_start", 0, {"type": "thinking", "thinking": "", "signature": ""}),
        ("content_block_delta", 0, {"type": "thinking_delta", "thinking": "Hm."}),
        ("content_block_delta", 0, {"type": "thinking_delta", "thinking": " So"}),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, {"type": "text", "text": ""}),
        ("content_block_delta", 1, {"type": "text_delta", "text": "Hel"}),
        ("content_block_delta", 1, {"type": "text_delta", "text": "lo"}),
        ("content_block_stop", 1, None),
        *(
            event
            for index in (2, 3)
            for event in (
                ("content_block_start", index, tool_use),
                ("content_block_delta", index, tool_input),
                ("content_block_stop", index, None),
            )
        ),
        ("message_delta", None, {"stop_reason": "tool_use", "stop_sequence": None}),
        ("message_stop", None, None),
    ]
    assert events[-2][1]["usage"] == COUNTS


async def test_messages_stream_of_nothing_has_no_block(scripted: Scripted) -> None:
    scripted.script(END)
    names = [name for name, _ in await scripted.events(PATH, HI)]
    assert names == ["message_start", "ping", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("last", "reason", "stop"),
    [
        (Chunk("", finish_reason=FinishReason.STOP), "end_turn", None),
        (Chunk("", finish_reason=FinishReason.STOP, stopping_word="END"), "stop_sequence", "END"),
        (Chunk("", finish_reason=FinishReason.LENGTH), "max_tokens", None),
        (Chunk("", finish_reason=FinishReason.DEADLINE), "max_tokens", None),
        (CALLS, "tool_use", None),
    ],
)
async def test_messages_say_why_they_ended(
    scripted: Scripted, last: Chunk, reason: str, stop: str | None
) -> None:
    scripted.script(Chunk("x"), last)
    _, body = await scripted.ask(PATH, HI)
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, stop)
    delta = (await scripted.events(PATH, HI))[-2][1]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": stop}


async def test_messages_give_calls_of_tools_as_objects(scripted: Scripted) -> None:
    scripted.script(Chunk("Adding."), CALLS)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    _, body = await scripted.ask(PATH, {**HI, "tools": [TOOL], "tool_choice": choice})
    call = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
    assert body["content"] == [{"type": "text", "text": "Adding."}, call]


async def test_messages_whose_call_is_no_json_are_an_error(scripted: Scripted) -> None:
    broken = ToolCall("c", "add", '{"a":')
    scripted.script(Chunk("", finish_reason=FinishReason.TOOL_CALLS, tool_calls=(broken,)))
    status, body = await scripted.ask(PATH, {**HI, "tools": [TOOL]})
    assert (status, body["error"]["kind"]) == (503, "backend")


async def test_messages_leave_out_thinking_that_is_disabled(
    scripted: Scripted, stream: bool
) -> None:
    scripted.script(Chunk("", reasoning="Hm."), Chunk("4"), END)
    body = {**HI, "thinking": {"type": "disabled"}}
    if stream:
        assert "thinking" not in str(await scripted.events(PATH, body))
    else:
        _, answer = await scripted.ask(PATH, body)
        assert answer["content"] == [{"type": "text", "text": "4"}]


@pytest.mark.parametrize("header", ["Authorization", "X_Api_Key"])
async def test_messages_take_both_headers(scripted: Scripted, header: str) -> None:
    value = f"Bearer {TOKEN}" if header == "Authorization" else TOKEN
    headers: dict[str, str | None] = {"Authorization": None, header: value}
    assert (await scripted.ask(PATH, HI, **headers))[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "type"),
    [
        ({}, {}, 422, "invalid_request_error"),
        ({**HI, "model": "none"}, {}, 404, "not_found_error"),
        ({**HI, "container": "c"}, {}, 422, "invalid_request_error"),
        (HI, {"Authorization": None}, 401, "authentication_error"),
        (HI, {"Origin": "https://evil.example"}, 403, "permission_error"),
        (HI, {"Content_Type": "text/plain"}, 415, "invalid_request_error"),
        (HI, {"Content_Length": str(2**30)}, 413, "request_too_large"),
    ],
)
async def test_errors_have_anthropics_shape(
    scripted: Scripted, body: Any, headers: dict[str, Any], status: int, type: str
) -> None:
    found, answer = await scripted.ask(PATH, body, **headers)
    assert found == status
    assert set(answer) == {"type", "error", "request_id"}
    assert answer["type"] == "error"
    assert answer["error"]["type"] == type
    assert answer["error"]["message"]


async def test_messages_to_a_model_that_cannot_chat_are_refused(scripted: Scripted) -> None:
    scripted.manager.refusal = Unsupported("a cannot chat: it has no chat template.")
    status, body = await scripted.ask(PATH, {**HI, "stream": True})
    assert (status, body["error"]["kind"]) == (409, "unsupported")
    assert "chat template" in body["error"]["message"]


async def test_stream_that_breaks_ends_with_an_error_event(scripted: Scripted) -> None:
    scripted.script(Chunk("x"), WorkerDied("The worker died."))
    name, body = (await scripted.events(PATH, HI))[-1]
    assert (name, body["error"]["type"]) == ("error", "overloaded_error")
    assert body["error"]["message"] == "The worker died."


async def test_client_that_vanishes_cancels_within_a_token(
    scripted: Scripted, stream: bool
) -> None:
    scripted.script(*[Chunk("x")] * 1000, END)
    scripted.backend.token_seconds = 0.05
    await scripted.vanish(PATH, {**HI, "stream": stream}, after=3)
    assert scripted.backend.sent <= 6
