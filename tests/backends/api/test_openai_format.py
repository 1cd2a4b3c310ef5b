from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.api import openai_format
from backends.api.openai_format import parse_chat, parse_completion
from backends.backend import Message, Role, Tool, ToolCall
from backends.errors import BadRequest

USER = {"role": "user", "content": "Hi"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], **fields}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_parse_chat_of_little_has_the_profile_for_chat() -> None:
    call = parse_chat(chat())
    assert call.request.messages == (Message(Role.USER, "Hi"),)
    assert call.request.sampling.temperature == pytest.approx(0.7)
    assert call.request.sampling.top_p == pytest.approx(0.9)
    assert (call.model, call.stream, call.choices, call.modulated) == (None, False, 1, False)
    assert call.request.tool_choice == "auto"


def test_parse_chat_of_a_conversation_with_calls() -> None:
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", **function("add", arguments='{"a": 1}')}],
    }
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, TEXT_PART]},
        USER,
        called,
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    assert parse_chat({"messages": messages}).request.messages == (
        Message(Role.SYSTEM, "Be\nbrief"),
        Message(Role.USER, "Hi"),
        Message(Role.ASSISTANT, "", (ToolCall("c", "add", '{"a": 1}'),)),
        Message(Role.TOOL, "2", tool_call_id="c"),
    )


TEXT_PART = {"type": "text", "text": "brief"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = function("add", description="Adds.", parameters=SCHEMA, strict=True)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"max_tokens": 0}, "max_tokens", 1),
        ({"max_tokens": 7}, "max_tokens", 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, "max_tokens", 9),
        ({"max_tokens": 10**9}, "max_tokens", 131_072),
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", "", "b"]}, "stop", ("a", "b")),
        ({"reasoning_effort": "minimal"}, "reasoning_effort", "low"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction", "x"),
        ({"prediction": {"type": "content", "content": [TEXT_PART]}}, "prediction", "brief"),
        ({"response_format": {"type": "text"}}, "schema", None),
        ({"response_format": {"type": "json_object"}}, "schema", {"type": "object"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "schema",
            SCHEMA,
        ),
        ({"tools": [ADD]}, "tools", (Tool("add", "Adds.", SCHEMA),)),
        ({"tools": [ADD], "tool_choice": "required"}, "tool_choice", "required"),
        ({"tools": [ADD], "tool_choice": function("add")}, "tool_choice", "add"),
        ({"tools": [ADD], "tool_choice": None}, "tool_choice", "auto"),
    ],
)
def test_parse_chat_maps(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse_chat(chat(**body)).request, field) == value


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 0, "modulation": {"arousal": -3}}, "temperature", 0.0),
        ({"temperature": 9}, "temperature", 2.0),
        ({"top_p": 0}, "top_p", 0.0),
        ({"top_p": -1}, "top_p", 0.0),
        ({"top_k": 0}, "top_k", 0),
        ({"min_p": 2}, "min_p", 1.0),
        ({"seed": 0}, "seed", 0),
        ({"seed": -1}, "seed", 2**32 - 1),
        ({"seed": 2**40 + 3}, "seed", 3),
        ({"modulation": {"arousal": 0, "valence": 0}}, "temperature", 0.7),
        ({"modulation": {"arousal": 1}}, "temperature", 0.5),
        ({"modulation": {"valence": -4}}, "top_p", 0.5),
        ({"modulation": {"valence": 1}, "top_p": 0.3}, "top_p", 0.3),
    ],
)
def test_parse_chat_clamps_sampling_and_keeps_zero(
    body: dict[str, Any], field: str, value: float
) -> None:
    sampling = parse_chat(chat(**body)).request.sampling
    assert getattr(sampling, field) == pytest.approx(value)


@pytest.mark.parametrize("name", sorted(openai_format.IGNORED))
def test_parse_chat_ignores_what_changes_no_answer(name: str) -> None:
    assert parse_chat(chat(**{name: "x"})) == parse_chat(chat())


@pytest.mark.parametrize(("name", "values"), openai_format.NEUTRAL.items())
def test_parse_chat_takes_only_neutral_values(name: str, values: tuple[object, ...]) -> None:
    for value in (None, *values):
        assert parse_chat(chat(**{name: value})) == parse_chat(chat())
    with pytest.raises(BadRequest, match=name):
        parse_chat(chat(**{name: "other"}))


def test_a_refused_value_is_told_as_json_has_it() -> None:
    with pytest.raises(BadRequest, match="only false can be given"):
        parse_chat(chat(logprobs=True))


DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"properties": DEEP}

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("anything", {"anything": 1}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "Hi"}),
    ("messages", {"messages": ["Hi"]}),
    ("role", {"messages": [{"role": "function", "content": "x"}]}),
    ("role", {"messages": [{"content": "x"}]}),
    ("content", {"messages": [{"role": "user"}]}),
    ("content", {"messages": [{"role": "user", "content": 3}]}),
    ("image_url", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ("function_call", {"messages": [{**USER, "function_call": {}}]}),
    ("tool_calls", {"messages": [{**USER, "tool_calls": [{}]}]}),
    ("message to answer", {"messages": [{"role": "system", "content": "x"}]}),
    ("last", {"messages": [USER, {"role": "assistant", "content": "x"}]}),
    ("call 'c'", {"messages": [USER, {"role": "tool", "tool_call_id": "c", "content": "x"}]}),
    ("max_tokens", {"max_tokens": "many"}),
    ("max_tokens", {"max_tokens": 1.5}),
    ("temperature", {"temperature": True}),
    ("seed", {"seed": "x"}),
    ("'n'", {"n": 0}),
    ("'n'", {"n": 99}),
    ("temperature", {"n": 2, "temperature": 0}),
    ("stop", {"stop": 3}),
    ("stop", {"stop": ["a"] * 33}),
    ("stop", {"stop": ["a" * 1025]}),
    ("stream", {"stream": 1}),
    ("stream_options", {"stream_options": {"other": 1}}),
    ("reasoning_effort", {"reasoning_effort": "none"}),
    ("modulation", {"modulation": {"dominance": 1}}),
    ("arousal", {"modulation": {"arousal": "high"}}),
    ("steering", {"steering": {"name": "x"}}),
    ("steering", {"steering": [{"name": "x"}]}),
    ("steering", {"steering": [{"name": "x", "coefficient": 1, "layer": 2}]}),
    ("prediction", {"prediction": {"type": "other"}}),
    ("response_format", {"response_format": {"type": "grammar"}}),
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": {}}}),
    (
        "nested",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}},
    ),
    ("custom", {"tools": [{"type": "custom"}]}),
    ("name for a tool", {"tools": [function("a b")]}),
    ("name for a tool", {"tools": [function("required")]}),
    ("name for a tool", {"tools": [function("")]}),
    ("nested", {"tools": [function("f", parameters=DEEP)]}),
    ("same name", {"tools": [function("f"), function("f")]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": [function("f")], "tool_choice": function("g")}),
    ("tool_choice", {"tools": [function("f")], "tool_choice": "f"}),
    ("tool_choice", {"tools": [function("f")], "tool_choice": {"type": "allowed_tools"}}),
]


@pytest.mark.parametrize(("said", "body"), WRONG)
def test_parse_chat_refuses_by_name(said: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=said):
        parse_chat(chat(**body))


@pytest.mark.parametrize(
    ("said", "body"),
    [
        ("prompt", {}),
        ("prompt", {"prompt": ["a", "b"]}),
        ("prompt", {"prompt": [1, 2]}),
        ("suffix", {"suffix": 3}),
        ("logprobs", {"logprobs": 0}),
        ("echo", {"echo": True}),
        ("best_of", {"best_of": 2}),
        ("temperature", {"n": 2, "temperature": 0}),
    ],
)
def test_parse_completion_refuses_by_name(said: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=said):
        parse_completion({"prompt": "x", **body} if body else {})


@pytest.mark.parametrize(
    ("body", "temperature"),
    [({}, 0), ({"n": 2}, 0.7), ({"temperature": 1}, 1), ({"temperature": 0}, 0)],
)
def test_parse_completion_is_greedy_unless_several_are_wanted(
    body: dict[str, Any], temperature: float
) -> None:
    assert parse_completion({"prompt": "x", **body}).request.sampling.temperature == temperature


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "name", "x", "text", "role"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(openai_format.CHAT_FIELDS)), JSON, max_size=6))
def test_parse_chat_raises_nothing_but_bad_request(body: dict[str, Any]) -> None:
    try:
        request = parse_chat({"messages": [USER], **body}).request
    except BadRequest:
        return
    assert 1 <= request.max_tokens <= 131_072


@given(st.dictionaries(st.sampled_from(sorted(openai_format.COMPLETION_FIELDS)), JSON, max_size=6))
def test_parse_completion_raises_nothing_but_bad_request(body: dict[str, Any]) -> None:
    try:
        call = parse_completion({"prompt": "x", **body})
    except BadRequest:
        return
    assert 1 <= call.choices <= 16


def test_parse_completion_takes_apart_what_a_client_wrote_in_a_models_format() -> None:
    written = "<|fim_prefix|>def f(<|fim_suffix|>\n    pass<|fim_middle|>"
    request = parse_completion({"prompt": written}).request
    assert (request.prefix, request.suffix) == ("def f(", "\n    pass")
    request = parse_completion({"prompt": written, "suffix": "x"}).request
    assert (request.prefix, request.suffix) == (written, "x")
