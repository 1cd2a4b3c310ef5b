"""Calls: the form that each family writes, the grammar of it, and reading it back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.backend import Tool
from backends.decoding import tools
from backends.decoding.constrain import Constrainer, Constraint
from backends.decoding.tools import CallReader, ToolForm
from backends.errors import BackendError, BadRequest
from tests.backends.decoding.chat_families import FAMILIES
from tests.backends.decoding.hash_model import HashModel

ADD = Tool(
    "add_numbers",
    "Add.",
    {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 0, "maximum": 99},
            "kind": {"enum": ["fast", "slow"]},
        },
        "required": ["a", "kind"],
        "additionalProperties": False,
    },
)
NOW = Tool("now", "Tell the time.", {"properties": {}, "additionalProperties": False})
FORMS = {name: tools.detect(family.form) for name, family in FAMILIES.items()}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("qwen25", '<tool_call>\n{"name": "NAME", "arguments": ARGS}\n</tool_call>'),
        ("llama3", '{"name": "NAME", "parameters": ARGS}'),
        ("mistral", '[TOOL_CALLS] [{"name": "NAME", "arguments": ARGS, "id": "ID"}]'),
        ("gemma", '<tool_call>\n{"name": "NAME", "arguments": ARGS}\n</tool_call>'),
    ],
)
def test_detect_finds_the_families_own_form(name: str, call: str) -> None:
    form = FORMS[name]
    written = f"{form.begin}NAME{form.middle}ARGS{form.end}"
    assert written.replace("\0", "ID") == call
    assert form.begin.startswith(form.opening)


def test_detect_finds_control_tokens_around_calls() -> None:
    """DeepSeek's form, in a template that shows tools."""
    family = FAMILIES["deepseek_r1"]
    shows = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    source = family.source.replace("{{ns.system_prompt}}", "{{ns.system_prompt}}" + shows)
    from backends.decoding.chat_format import ChatFormat
    from backends.decoding.chat_template import ChatTemplate

    template = ChatTemplate(source, {"bos_token": family.bos, "eos_token": family.eos})
    form = tools.detect(ChatFormat(template, family.controls, [family.eos]))
    assert form.opening == "<｜tool▁calls▁begin｜>"
    assert form.begin.endswith("<｜tool▁call▁begin｜>function<｜tool▁sep｜>")
    assert form.middle == "\n```json\n"
    assert form.end == "\n```<｜tool▁call▁end｜>"


def make(model: HashModel, form: ToolForm, *, opened: bool, many: bool = True) -> Constraint:
    words = [model.token_bytes(token) for token in range(model.vocab.size)]
    split = FAMILIES["qwen25"].form.split
    lark = tools.grammar(form, (ADD, NOW), split, {}, opened=opened, many=many)
    return Constrainer(model, words).lark(lark)


@pytest.mark.parametrize("name", ["qwen25", "llama3", "mistral"])
@given(choices=st.lists(st.integers(0, 1 << 30), min_size=400, max_size=400))
@settings(max_examples=15)
def test_whatever_is_picked_under_the_grammar_is_calls_that_fit(
    name: str, choices: list[int]
) -> None:
    model = HashModel()
    constraint = make(model, FORMS[name], opened=False)
    data = b""
    for choice in choices:
        allowed = constraint.allowed()
        token = int(allowed[choice % len(allowed)])
        if token in model.vocab.end_tokens:
            break
        data += model.token_bytes(token)
        constraint.consume(token)
        if constraint.complete:
            break
    calls = CallReader(FORMS[name], (ADD, NOW)).calls(data.decode())
    assert calls
    for call in calls:
        arguments = json.loads(call.arguments)
        if call.name == "now":
            assert arguments == {}
        else:
            assert 0 <= arguments["a"] <= 99
            assert arguments["kind"] in ("fast", "slow")
    assert len({call.id for call in calls}) == len(calls)
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)


def test_grammar_goes_on_after_an_opening_that_was_generated() -> None:
    model = HashModel()
    form = FORMS["qwen25"]
    text = '\n{"name": "now", "arguments": {}}\n</tool_call>'
    for before in ("", "\n", '\n{"name": "n'):
        constraint = make(model, form, opened=True, many=False)
        assert constraint.feed(before.encode())
        for token in model.tokenize(text[len(before) :]):
            assert token in constraint.allowed()
            constraint.consume(token)
        assert constraint.complete
    constraint = make(model, form, opened=True)
    assert not constraint.feed(b" is a tag")
    assert constraint.feed(b'\n{"name": "'), "what did not fit was not taken"


@pytest.mark.parametrize("cut", range(0, 130, 3))
def test_a_call_that_is_cut_off_is_no_call(cut: int) -> None:
    form = FORMS["qwen25"]
    first = f'{form.begin}add_numbers{form.middle}{{"a": 1, "kind": "fast"}}'
    text = f"{first}{form.between}now{form.middle}{{}}{form.end}"
    names = [call.name for call in CallReader(form, (ADD, NOW)).calls(text[:cut])]
    assert names == ["add_numbers"] * (cut >= len(first))
    whole = CallReader(form, (ADD, NOW)).calls(text)
    assert [call.name for call in whole] == ["add_numbers", "now"]


def test_a_call_that_does_not_fit_is_an_error() -> None:
    form = FORMS["qwen25"]
    for name, arguments in (("other", "{}"), ("add_numbers", '{"a": 100, "kind": "fast"}')):
        with pytest.raises(BackendError):
            CallReader(form, (ADD,)).calls(f"{form.begin}{name}{form.middle}{arguments}{form.end}")


@pytest.mark.parametrize(
    "tool",
    [
        Tool("", "", {}),
        Tool("a b", "", {}),
        Tool("x" * 65, "", {}),
        Tool("x", "", {"type": "nonsense"}),
        Tool("x", "", {"properties": 3}),
    ],
)
def test_check_refuses_what_is_no_tool(tool: Tool) -> None:
    with pytest.raises(BadRequest):
        tools.check([tool])


def test_schemas_are_never_fetched() -> None:
    remote = {"$ref": "http://127.0.0.1:9/schema.json"}
    model = HashModel()
    words = [model.token_bytes(token) for token in range(model.vocab.size)]
    with pytest.raises(BadRequest):
        Constrainer(model, words).schema(remote)
    with pytest.raises(Exception, match=r"(?i)unresolvable|retriev"):
        tools.validator(remote).validate({})
