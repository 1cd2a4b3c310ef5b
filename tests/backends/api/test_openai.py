from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from backends.backend import Chunk, FinishReason, SteeringUse, ToolCall, Usage
from backends.errors import BackendError, Unsupported, WorkerDied
from tests.backends.api.conftest import END, USAGE, Scripted
from tests.backends.conftest import TOKEN

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = ToolCall("call_1", "add", '{"a":1}')
CALLS = Chunk("", finish_reason=FinishReason.TOOL_CALLS, usage=USAGE, tool_calls=(CALL, CALL))


async def test_chat_answers_in_openais_shape(scripted: Scripted) -> None:
    scripted.script(Chunk("", reasoning="Let me "), Chunk("", reasoning="see."), Chunk("4"), END)
    status, body = await scripted.ask(CHAT, HI)
    assert status == 200
    assert (body["object"], body["model"]) == ("chat.completion", "a")
    assert body["id"].startswith("chatcmpl-")
    [choice] = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"] == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "Let me see.",
        "refusal": None,
    }
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 7},
    }


async def test_chat_streams_deltas_then_usage_then_done(scripted: Scripted) -> None:
    scripted.script(Chunk("", reasoning="Hm."), Chunk("Hel"), Chunk("lo"), END)
    events = await scripted.events(CHAT, {**HI, "stream_options": {"include_usage": True}})
    assert events.pop() == ("", "[DONE]")
    bodies = [body for _, body in events]
    assert {body["object"] for body in bodies} == {"chat.completion.chunk"}
    assert len({body["id"] for body in bodies}) == 1
    deltas = [(b["choices"][0]["delta"], b["choices"][0]["finish_reason"]) for b in bodies[:-1]]
    assert deltas == [
        ({"role": "assistant", "content": ""}, None),
        ({"reasoning_content": "Hm."}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({}, "stop"),
    ]
    assert [body["usage"] for body in bodies[:-1]] == [None] * 5
    assert bodies[-1]["choices"] == []
    assert bodies[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}


async def test_chat_streams_no_usage_unless_asked(scripted: Scripted) -> None:
    events = await scripted.events(CHAT, HI)
    assert not any("usage" in body for _, body in events[:-1])


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.DEADLINE, "length"),
        (FinishReason.TOOL_CALLS, "tool_calls"),
    ],
)
async def test_chat_says_why_it_ended(scripted: Scripted, reason: FinishReason, said: str) -> None:
    scripted.script(Chunk("x"), Chunk("", finish_reason=reason, usage=USAGE))
    _, body = await scripted.ask(CHAT, HI)
    assert body["choices"][0]["finish_reason"] == said


async def test_chat_gives_calls_of_tools(scripted: Scripted) -> None:
    scripted.script(CALLS)
    _, body = await scripted.ask(CHAT, {**HI, "tools": [TOOL]})
    [choice] = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    function = {"name": "add", "arguments": '{"a":1}'}
    call = {"id": "call_1", "type": "function", "function": function}
    assert choice["message"]["tool_calls"] == [call, call]


async def test_chat_streams_calls_of_tools(scripted: Scripted) -> None:
    scripted.script(Chunk("Let me add. "), CALLS)
    events = await scripted.events(CHAT, {**HI, "tools": [TOOL], "parallel_tool_calls": False})
    deltas = [body["choices"][0]["delta"] for _, body in events[:-1]]
    head = {"name": "add", "arguments": ""}
    assert deltas[2:] == [
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": head}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
        {},
    ]
    assert events[-2][1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_chat_gives_distinct_choices_with_seeds_of_their_own(
    scripted: Scripted, stream: bool
) -> None:
    same = (Chunk("x"), END)
    scripted.script(*same)
    scripted.backend.more = [same, (Chunk("y"), END), (Chunk("z"), END)]
    body = {**HI, "n": 3, "seed": 0, "temperature": 1}
    if stream:
        texts = ["", "", ""]
        order = []
        usage = {"stream_options": {"include_usage": True}}
        events = [body for _, body in (await scripted.events(CHAT, body | usage))[:-1]]
        for choice in (choice for event in events for choice in event["choices"]):
            texts[choice["index"]] += choice["delta"].get("content", "")
            order.append(choice["index"])
        assert order == sorted(order)
        answer = events[-1]
    else:
        _, answer = await scripted.ask(CHAT, body)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == ["x", "y", "z"]
    assert [sampling.seed for sampling in scripted.backend.sampling] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 10  # one prompt
    assert answer["usage"]["completion_tokens"] == 9
    assert len({request.session for request in scripted.backend.requests}) == 1


async def test_chat_gives_up_on_a_choice_that_cannot_differ(scripted: Scripted) -> None:
    _, body = await scripted.ask(CHAT, {**HI, "n": 2, "temperature": 1})
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Hello", "Hello"]
    assert len(scripted.backend.requests) == 5


async def test_chat_passes_the_whole_request(scripted: Scripted) -> None:
    await scripted.ask(
        CHAT,
        {
            **HI,
            "modulation": {"arousal": 0.5, "valence": -1},
            "steering": [{"name": "brevity", "coefficient": -1.5}],
            "tools": [TOOL],
            "stop": "END",
        },
    )
    request = scripted.request
    assert request.steering == (SteeringUse("brevity", -1.5),)
    assert (request.sampling.temperature, request.sampling.top_p) == pytest.approx((0.6, 0.8))
    assert request.stop == ("END",)
    assert request.tools[0].name == "add"


async def test_chat_finds_the_session_of_a_conversation_that_goes_on(scripted: Scripted) -> None:
    begin = [{"role": "system", "content": "S"}, *HI["messages"]]
    reply = {"role": "assistant", "content": "Hello"}
    for messages in (begin, [*begin, reply, {"role": "user", "content": "More"}]):
        await scripted.ask(CHAT, {"messages": messages})
    await scripted.ask(CHAT, {"messages": [{"role": "user", "content": "Other"}]})
    await scripted.ask(CHAT, {"messages": begin, "user": "u"})
    first, again, other, of_user = (request.session for request in scripted.backend.requests)
    assert first == again
    assert len({first, other, of_user}) == 3


async def test_chat_requests_at_the_same_time_do_not_share_a_session(scripted: Scripted) -> None:
    scripted.backend.token_seconds = 0.1
    answers = await asyncio.gather(*(scripted.ask(CHAT, HI) for _ in range(3)))
    assert [status for status, _ in answers] == [200] * 3
    sessions = [request.session for request in scripted.backend.requests]
    assert len(set(sessions)) == 3
    await scripted.ask(CHAT, HI)
    assert scripted.request.session == min(sessions, key=len)  # free again


@pytest.mark.parametrize(
    ("missing", "body", "said"),
    [
        ({"tools": False}, {"tools": [TOOL]}, "schema"),
        ({"tools": False}, {"response_format": {"type": "json_object"}}, "schema"),
        ({"steering": False}, {"steering": [{"name": "x", "coefficient": 1}]}, "steer"),
        ({"modulation": False}, {"modulation": {"arousal": 0}}, "modulate"),
    ],
)
async def test_chat_refuses_what_the_model_cannot(
    scripted: Scripted, stream: bool, missing: dict[str, bool], body: dict[str, Any], said: str
) -> None:
    scripted.can(**missing)
    status, answer = await scripted.ask(CHAT, {**HI, **body, "stream": stream})
    assert (status, answer["error"]["code"]) == (409, "unsupported")
    assert said in answer["error"]["message"]
    assert not scripted.backend.requests


@pytest.mark.parametrize("path", ["/infill", "/v1/completions"])
async def test_completion_is_steered_like_a_chat(
    scripted: Scripted, stream: bool, path: str
) -> None:
    body = {"prompt": "x", "stream": stream, "steering": [{"name": "brevity", "coefficient": 2}]}
    await scripted.raw("POST", path, body)
    assert scripted.request.steering == (SteeringUse("brevity", 2.0),)
    scripted.can(steering=False)
    status, answer = await scripted.ask(path, body)
    assert (status, answer["error"]["kind"]) == (409, "unsupported")
    assert "steer" in answer["error"]["message"]
    status, answer = await scripted.ask(path, {**body, "steering": [{"name": "x"}]})
    assert (status, answer["error"]["kind"]) == (422, "bad_request")
    assert len(scripted.backend.requests) == 1


ERRORS: list[tuple[str, Any, int, str, str]] = [
    (CHAT, {}, 422, "bad_request", "invalid_request_error"),
    (CHAT, {**HI, "model": "none"}, 404, "unknown_model", "not_found_error"),
    (CHAT, {**HI, "functions": []}, 422, "bad_request", "invalid_request_error"),
    (TEXT, {}, 422, "bad_request", "invalid_request_error"),
    ("/v1/nothing", {}, 404, "not_found", "not_found_error"),
]


@pytest.mark.parametrize(("path", "body", "status", "kind", "type"), ERRORS)
async def test_errors_have_openais_shape(
    scripted: Scripted, path: str, body: Any, status: int, kind: str, type: str
) -> None:
    found, answer = await scripted.ask(path, body)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code", "kind"}
    assert (answer["error"]["code"], answer["error"]["type"]) == (kind, type)


async def test_errors_that_repeating_cannot_help_tell_clients_not_to(scripted: Scripted) -> None:
    scripted.manager.refusal = Unsupported("a cannot chat.")
    raw = await scripted.raw("POST", CHAT, HI)
    assert raw.startswith(b"HTTP/1.1 409")
    assert b"x-should-retry: false" in raw.lower()
    scripted.manager.refusal = BackendError("Not now.")
    raw = await scripted.raw("POST", CHAT, HI)
    assert raw.startswith(b"HTTP/1.1 503")
    assert b"x-should-retry" not in raw.lower()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Authorization": None, "X_Api_Key": TOKEN}, 200),
        ({"X_Api_Key": TOKEN}, 200),
        ({"Authorization": None}, 401),
        ({"Authorization": None, "X_Api_Key": "wrong"}, 401),
        ({"Authorization": None, "X_Api_Key": f"Bearer {TOKEN}"}, 401),
        ({"X_Api_Key": "wrong"}, 401),
        ({"Authorization": "Bearer wrong", "X_Api_Key": TOKEN}, 401),
    ],
)
async def test_guard_takes_the_token_as_bearer_or_key(
    scripted: Scripted, headers: dict[str, str | None], status: int
) -> None:
    found, body = await scripted.ask(CHAT, HI, **headers)
    assert found == status
    if status == 401:
        assert body["error"]["code"] == "unauthorized"


async def test_stream_that_breaks_ends_with_an_error(scripted: Scripted) -> None:
    scripted.script(Chunk("x"), WorkerDied("The worker died."))
    events = await scripted.events(CHAT, HI)
    assert events[-1][1]["error"]["code"] == "worker_died"
    assert events[-2][1]["choices"][0]["delta"] == {"content": "x"}


@pytest.mark.parametrize(
    "last", [Chunk("", finish_reason=FinishReason.CANCELLED, usage=Usage()), Chunk("more")]
)
async def test_answer_that_was_cut_off_is_an_error(scripted: Scripted, last: Chunk) -> None:
    scripted.script(Chunk("x"), last)
    status, body = await scripted.ask(CHAT, HI)
    assert status == 503
    assert "Ask again" in body["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_client_that_vanishes_cancels_within_a_token(
    scripted: Scripted, stream: bool, path: str
) -> None:
    scripted.script(*[Chunk("x")] * 1000, END)
    scripted.backend.token_seconds = 0.05
    body: dict[str, Any] = {**HI} if path == CHAT else {"prompt": "x"}
    await scripted.vanish(path, {**body, "stream": stream}, after=3)
    assert scripted.backend.sent <= 6  # the one under way, and what the sockets took
    assert (await scripted.ask("/v1/models", method="GET"))[0] == 200


async def test_loop_is_never_blocked_while_streaming(scripted: Scripted) -> None:
    scripted.script(*[Chunk("word ")] * 2000, END)
    gaps = []

    async def heart() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    beating = asyncio.create_task(heart())
    events = await scripted.events(CHAT, HI)
    beating.cancel()
    assert len(events) == 2003
    assert len(gaps) > 1
    assert max(gaps) < 2  # seconds; a stream that holds the loop to its end shows no gap at all


async def test_completions_fill_the_gap_before_a_suffix(scripted: Scripted, stream: bool) -> None:
    body = {"prompt": ["def f():\n"], "suffix": "\nf()\n", "max_tokens": 5, "stop": ["\n\n"]}
    if stream:
        events = await scripted.events(TEXT, body)
        assert events.pop()[1] == "[DONE]"
        text = "".join(event["choices"][0]["text"] for _, event in events)
        answer = events[-1][1]
    else:
        _, answer = await scripted.ask(TEXT, body)
        text = answer["choices"][0]["text"]
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    assert text == "Hello"
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "stop")
    request = scripted.request
    assert (request.prefix, request.suffix) == ("def f():\n", "\nf()\n")
    assert (request.max_tokens, request.stop) == (5, ("\n\n",))
    assert request.sampling.temperature == 0


async def test_completions_without_a_suffix_go_on_at_the_end(scripted: Scripted) -> None:
    await scripted.ask(TEXT, {"prompt": "import o"})
    assert (scripted.request.prefix, scripted.request.suffix) == ("import o", "")


async def test_completions_give_several(scripted: Scripted) -> None:
    scripted.backend.more = [(Chunk("b"), END)]
    _, body = await scripted.ask(TEXT, {"prompt": "x", "n": 2, "seed": 5})
    assert [choice["text"] for choice in body["choices"]] == ["Hello", "b"]
    assert [(s.seed, s.temperature > 0) for s in scripted.backend.sampling] == [
        (5, True),
        (6, True),
    ]


async def test_models_are_listed_for_both_kinds_of_clients(scripted: Scripted) -> None:
    _, body = await scripted.ask("/v1/models", method="GET")
    assert (body["object"], body["has_more"]) == ("list", False)
    [row] = body["data"]
    assert (row["id"], row["object"], row["type"]) == ("a", "model", "model")
    assert (await scripted.ask("/v1/models/a", method="GET"))[1] == row
    status, body = await scripted.ask("/v1/models/none", method="GET")
    assert (status, body["error"]["code"]) == (404, "unknown_model")
