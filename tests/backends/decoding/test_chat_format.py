"""Conversations as pieces: right for each family, and no text makes a control token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.backend import ChatRequest, Message, Role, Tool, ToolCall
from backends.decoding.chat_format import CallStyle, ChatFormat
from backends.decoding.chat_template import ChatTemplate
from backends.errors import BadRequest, Unsupported
from fim.prompt import Control, Piece, Text
from tests.backends.decoding.chat_families import FAMILIES

FORMS = {name: family.form for name, family in FAMILIES.items()}
TOOL = Tool("get_weather", "Tell the weather.", {"type": "object", "properties": {}})


def said(*texts: str, roles: tuple[Role, ...] = (Role.USER, Role.ASSISTANT)) -> ChatRequest:
    return ChatRequest(tuple(Message(roles[n % 2], text) for n, text in enumerate(texts)))


def flat(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.token if isinstance(piece, Control) else piece.text for piece in pieces)


def controls(pieces: tuple[Piece, ...]) -> list[str]:
    return [piece.token for piece in pieces if isinstance(piece, Control)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "chatml",
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen25",
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB"
            "<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge "
            "Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "deepseek_r1",
            "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜>B<｜end▁of▁sentence｜>"
            "<｜User｜>C<｜Assistant｜><think>\n",
        ),
        ("mistral", "<s>[INST] A[/INST] B</s>[INST] C[/INST]"),
        (
            "gemma",
            "<bos><start_of_turn>user\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
            "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n",
        ),
    ],
)
def test_render_is_the_families_own_form(name: str, text: str) -> None:
    rendered = FORMS[name].render(said("A", "B", "C"))
    assert flat(rendered.pieces) == text
    assert rendered.thinking == (name == "deepseek_r1")


@pytest.mark.parametrize(
    ("name", "system", "tools"),
    [
        ("chatml", True, False),
        ("qwen25", True, True),
        ("llama3", True, True),
        ("deepseek_r1", True, False),
        ("mistral", True, True),
        ("gemma", False, False),
    ],
)
def test_what_a_template_can_do_is_found_out(name: str, system: bool, tools: bool) -> None:
    form = FORMS[name]
    assert (form.has_system, form.has_tools) == (system, tools)
    assert (form.call_style is not None) == tools
    assert form.stop == "", "a control token ends the answer"


# Spellings of control tokens, whole, in parts, and with what templates look for between.
fragments = st.sampled_from(
    [
        *(
            "<",
            "|",
            "im_",
            "end",
            "|>",
            ">",
            "<|",
            "｜",
            "<｜",
            "User",
            "｜>",
            "[",
            "INST",
            "]",
            "/",
        ),
        *("<think>", "</think>", "<tool_response>", "</tool_response>", " ", "\n", "x", '"', "\\"),
        *(text for family in FAMILIES.values() for text in family.controls),
    ]
)
texts = st.lists(fragments, max_size=8).map("".join) | st.text(max_size=12)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_no_content_makes_a_control_token(name: str, data: st.DataObject) -> None:
    """Invariant 4: the control tokens are those of the same conversation with harmless words."""
    form = FORMS[name]

    def conversation(text: Any) -> ChatRequest:
        tool = Tool("f", text("about"), {"type": "object", "properties": {text("key"): {}}})
        call = ToolCall("abcdefghi", "f", json.dumps({text("argument"): text("value")}))
        return ChatRequest(
            (
                Message(Role.SYSTEM, text("system")),
                Message(Role.USER, text("question")),
                Message(Role.ASSISTANT, "", (call,)),
                Message(Role.TOOL, text("result"), tool_call_id="abcdefghi"),
                Message(Role.ASSISTANT, text("answer")),
                Message(Role.USER, text("next")),
            ),
            tools=(tool,),
        )

    harmless = form.render(conversation(lambda word: word))
    hostile = form.render(conversation(lambda word: word + data.draw(texts)))
    assert controls(hostile.pieces) == controls(harmless.pieces)


@pytest.mark.parametrize("name", ["chatml", "qwen25", "llama3", "mistral", "gemma"])
@given(text=texts)
def test_content_is_shown_as_it_is(name: str, text: str) -> None:
    rendered = FORMS[name].render(said(f"({text})"))
    assert any(f"({text})" in p.text for p in rendered.pieces if isinstance(p, Text))


def test_templates_that_look_into_contents_see_them() -> None:
    r1 = FORMS["deepseek_r1"].render(said("q", "<think>no</think>yes", "next"))
    assert "<｜Assistant｜>yes<｜end▁of▁sentence｜>" in flat(r1.pieces)
    llama = FORMS["llama3"].render(said("  <|eot_id|>  "))
    assert Text("\n\n<|eot_id|>") in llama.pieces, "trimmed, and still text"


def test_a_system_message_goes_to_the_first_question_where_the_template_has_none() -> None:
    request = ChatRequest((Message(Role.SYSTEM, "be kind"), Message(Role.USER, "hi")))
    assert "user\nbe kind\n\nhi<end_of_turn>" in flat(FORMS["gemma"].render(request).pieces)


@pytest.mark.parametrize("name", FORMS)
def test_tools_calls_and_results_are_shown_by_every_family(name: str) -> None:
    call = ToolCall("abcdefghi", "get_weather", '{"city": "Ulm"}')
    request = ChatRequest(
        (
            Message(Role.USER, "weather?"),
            Message(Role.ASSISTANT, "", (call,)),
            Message(Role.TOOL, "sunny", tool_call_id="abcdefghi"),
        ),
        tools=(TOOL,),
    )
    text = flat(FORMS[name].render(request).pieces)
    assert "Tell the weather." in text
    assert '"city": "Ulm"' in text
    assert text.index("Ulm") < text.index("sunny")
    assert "None" not in text


def test_tool_choice_none_shows_no_tools() -> None:
    request = ChatRequest((Message(Role.USER, "hi"),), tools=(TOOL,), tool_choice="none")
    assert "weather" not in flat(FORMS["qwen25"].render(request).pieces)


def test_call_style_follows_the_template() -> None:
    assert FORMS["qwen25"].call_style == CallStyle(parsed=True, no_content=True)
    strings = (
        "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
        "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{{ m.content + '' }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    form = ChatFormat(ChatTemplate(strings, {}), ())
    assert form.call_style == CallStyle(parsed=False, no_content=False)


def test_the_end_of_a_turn_that_is_plain_text_is_a_stop() -> None:
    alpaca = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}### assistant:\n"
    )
    assert ChatFormat(ChatTemplate(alpaca, {}), ("<eos>",)).stop == "### user:"
    assert ChatFormat(FAMILIES["chatml"].template, ()).stop == "<|im_end|>"


@pytest.mark.parametrize("source", ["nothing of it", "{{ raise_exception('never') }}"])
def test_a_template_that_shows_no_question_is_unsupported(source: str) -> None:
    with pytest.raises(Unsupported, match="chat template"):
        ChatFormat(ChatTemplate(source, {}), ())


def test_a_conversation_of_nothing_is_refused() -> None:
    with pytest.raises(BadRequest):
        FORMS["chatml"].render(ChatRequest(()))


def test_the_templates_own_refusal_is_told() -> None:
    with pytest.raises(BadRequest, match="alternate"):
        FORMS["mistral"].render(said("A", "B", roles=(Role.USER, Role.USER)))
