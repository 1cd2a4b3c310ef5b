from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import anthropic_format
from backends.api.anthropic_format import parse
from backends.backend import Message, Role, SteeringUse, Tool, ToolCall
from backends.errors import BadRequest

USER = {"role": "user", "content": "Hi"}
HI: dict[str, Any] = {"max_tokens": 9, "messages": [USER]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_parse_of_a_conversation_with_calls() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief", **cached}],
        "messages": [
            USER,
            {"role": "user", "content": [{"type": "text", "text": "there"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "text", "text": "Adding."},
                    {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}},
                    {"type": "tool_use", "id": "2", "name": "add", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": "2", **cached},
                    {
                        "type": "tool_result",
                        "tool_use_id": "2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no 'a'"}],
                    },
                    {"type": "text", "text": "Go on."},
                ],
            },
        ],
    }
    calls = (ToolCall("1", "add", '{"a":1}'), ToolCall("2", "add", "{}"))
    assert parse(body).request.messages == (
        Message(Role.SYSTEM, "Be\nbrief"),
        Message(Role.USER, "Hi\nthere"),
        Message(Role.ASSISTANT, "Adding.", calls),
        Message(Role.TOOL, "2", tool_call_id="1"),
        Message(Role.TOOL, "Error: no 'a'", tool_call_id="2"),
        Message(Role.USER, "Go on."),
    )


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({}, "max_tokens", 9),
        ({"max_tokens": 0}, "max_tokens", 1),
        ({"max_tokens": 10**9}, "max_tokens", 131_072),
        ({"stop_sequences": ["a", ""]}, "stop", ("a",)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "reasoning_effort", "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "reasoning_effort", "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "reasoning_effort", "high"),
        ({"thinking": {"type": "adaptive"}}, "reasoning_effort", ""),
        ({"output_config": {"effort": "max"}}, "reasoning_effort", "high"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "schema",
            SCHEMA,
        ),
        (
            {"tools": [{"name": "add", "description": "Adds.", "input_schema": SCHEMA}]},
            "tools",
            (Tool("add", "Adds.", SCHEMA),),
        ),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "any"}}, "tool_choice", "required"),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "none"}}, "tool_choice", "none"),
        (
            {"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "f"}},
            "tool_choice",
            "f",
        ),
        (
            {"steering": [{"name": "brevity", "coefficient": -1}]},
            "steering",
            (SteeringUse("brevity", -1.0),),
        ),
    ],
)
def test_parse_maps(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse({**HI, **body}).request, field) == value


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({}, "temperature", 0.7),
        ({"temperature": 0}, "temperature", 0.0),
        ({"temperature": 5}, "temperature", 2.0),
        ({"top_k": 0}, "top_k", 0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"modulation": {"arousal": -1}}, "temperature", 0.9),
        ({"seed": 0}, "seed", 0),
    ],
)
def test_parse_clamps_sampling_and_keeps_zero(
    body: dict[str, Any], field: str, value: float
) -> None:
    assert getattr(parse({**HI, **body}).request.sampling, field) == pytest.approx(value)


@pytest.mark.parametrize("name", sorted(anthropic_format.IGNORED))
def test_parse_ignores_what_changes_no_answer(name: str) -> None:
    assert parse({**HI, name: "x"}) == parse(HI)


@pytest.mark.parametrize(("name", "values"), anthropic_format.NEUTRAL.items())
def test_parse_takes_only_neutral_values(name: str, values: tuple[object, ...]) -> None:
    for value in (None, *values):
        assert parse({**HI, name: value}) == parse(HI)
    with pytest.raises(BadRequest, match=name):
        parse({**HI, name: "other"})


def of_user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("anything", {"anything": 1}),
    ("max_tokens", {"max_tokens": None}),
    ("max_tokens", {"max_tokens": "9"}),
    ("messages", {"messages": []}),
    ("role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("content", {"messages": [{"role": "user"}]}),
    ("content", {"messages": [{"role": "user", "content": []}]}),
    ("image", of_user({"type": "image"})),
    ("document", of_user({"type": "document"})),
    ("text", of_user({"type": "text", "text": 3})),
    ("call 'c'", of_user({"type": "tool_result", "tool_use_id": "c", "content": "x"})),
    ("last", {"messages": [USER, {"role": "assistant", "content": "I"}]}),
    ("system", {"system": 3}),
    ("system", {"system": [{"type": "image"}]}),
    ("stop_sequences", {"stop_sequences": "a"}),
    ("stop_sequences", {"stop_sequences": ["a"] * 33}),
    ("thinking", {"thinking": {"type": "sometimes"}}),
    ("effort", {"output_config": {"effort": "some"}}),
    ("output_config", {"output_config": {"other": 1}}),
    ("format", {"output_config": {"format": {"type": "json_schema"}}}),
    ("bash_20250124", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    ("defer_loading", {"tools": [{"name": "f", "defer_loading": True}]}),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice", {"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "g"}}),
    ("tool_choice", {"tools": [{"name": "f"}], "tool_choice": {"type": "other"}}),
]


@pytest.mark.parametrize(("said", "body"), WRONG)
def test_parse_refuses_by_name(said: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=said):
        parse({**HI, **body})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "content", "text", "role"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking"])},
    optional=dict.fromkeys(("text", "id", "name", "input", "tool_use_id", "content"), JSON),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"])},
    optional={"content": st.lists(BLOCK, max_size=3)},
)


@given(st.dictionaries(st.sampled_from(sorted(anthropic_format.FIELDS)), JSON, max_size=6))
def test_parse_raises_nothing_but_bad_request(body: dict[str, Any]) -> None:
    try:
        request = parse({**HI, **body}).request
    except BadRequest:
        return
    assert 1 <= request.max_tokens <= 131_072


@settings(max_examples=40)
@given(st.lists(MESSAGE, max_size=3))
def test_parse_of_any_blocks_raises_nothing_but_bad_request(messages: list[Any]) -> None:
    try:
        parse({"max_tokens": 1, "messages": messages})
    except BadRequest:
        return
