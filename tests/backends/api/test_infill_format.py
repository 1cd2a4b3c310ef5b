from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.api import infill_format
from backends.api.infill_format import FLAGS, LISTS, NUMBERS, TEXTS, parse
from backends.backend import Chunk, ContextChunk, FinishReason, Timings, Usage
from backends.errors import BadRequest

# What llama.vim sends (autoload/llama.vim).
LLAMA_VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "def f():\n",
    "input_suffix": "\n",
    "input_extra": [{"text": "x = 1\n", "time": 12.5, "filename": "a.py"}],
    "prompt": "    ret",
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "response_fields": ["content", "timings/prompt_n", "truncated"],
}
LLAMA_VIM_WARM_UP: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": [],
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
LAST = Chunk(
    "text",
    (1, 2, 3),
    finish_reason=FinishReason.STOP,
    usage=Usage(10, 8, 3),
    timings=Timings(prompt_ms=4, predicted_ms=6),
)


def test_parse_of_llama_vim_is_greedy_and_has_a_document() -> None:
    request = parse(LLAMA_VIM).request
    assert (request.prefix, request.suffix) == ("def f():\n    ret", "\n")
    assert request.sampling.temperature == 0
    assert request.extra == (ContextChunk("a.py", "x = 1\n"),)
    assert request.document == "slot:0"
    assert (request.prompt_ms, request.deadline_ms) == (500, 750)


def test_parse_of_a_warm_up_gives_the_prompt_its_time() -> None:
    request = parse(LLAMA_VIM_WARM_UP).request
    assert (request.max_tokens, request.prompt_ms, request.deadline_ms) == (0, None, None)


def test_parse_of_nothing_has_defaults() -> None:
    call = parse({})
    assert (call.request.prefix, call.request.max_tokens) == ("", infill_format.DEFAULT_TOKENS)
    assert (call.request.document, call.model, call.stream) == (None, None, False)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"n_predict": -1}, "max_tokens", infill_format.MAX_TOKENS),
        ({"n_predict": 10**9}, "max_tokens", infill_format.MAX_TOKENS),
        ({"n_predict": 5.0}, "max_tokens", 5),
        ({"deadline_ms": 80, "t_max_predict_ms": 1}, "deadline_ms", 80),
        ({"t_max_predict_ms": 200}, "deadline_ms", 1200),
        ({"deadline_ms": 0}, "deadline_ms", None),
        ({"document": "d", "id_slot": 1}, "document", "d"),
        ({"document": "d", "cache_prompt": False}, "document", None),
        ({"id_slot": -1}, "document", None),
        ({"stop": ["", "a"]}, "stop", ("a",)),
        ({"single_line": True}, "single_line", True),
        ({"limit_scope": True}, "limit_scope", True),
        ({"n_indent": 4}, "limit_scope", True),
        ({"n_indent": 0}, "limit_scope", False),
        ({"path": "x.py"}, "path", "x.py"),
    ],
)
def test_parse_maps(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse(body).request, field) == value


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"temperature": 99}, "temperature", 2.0),
        ({"temperature": -1}, "temperature", 0.0),
        ({"temperature": 0}, "temperature", 0.0),
        ({"top_k": -5}, "top_k", 0),
        ({"top_p": 7}, "top_p", 1.0),
        ({"top_p": 0}, "top_p", 0.0),
        ({"min_p": -1}, "min_p", 0.0),
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"seed": 2**70}, "seed", 2**32 - 1),
    ],
)
def test_parse_clamps_sampling(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse(body).request.sampling, field) == value


WRONG = [
    *((name, wrong) for name in NUMBERS for wrong in ("1", True, [], {})),
    *((name, 1.5) for name in ("n_predict", "top_k", "seed", "id_slot")),
    *((name, wrong) for name in TEXTS for wrong in (1, True, ["a"], {})),
    *((name, wrong) for name in FLAGS for wrong in (0, 1, "true", [])),
    *((name, wrong) for name in LISTS for wrong in ("a", [1], {}, [["a"]])),
    *(("input_extra", wrong) for wrong in ("a", {}, ["a"], [{}], [{"text": 1}])),
    ("input_extra", [{"text": "t", "filename": 1}]),
    ("input_extra", [{"text": ""}] * 257),
    ("stop", ["a"] * 33),
    ("stop", ["a" * 1025]),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_parse_names_the_field_of_a_wrong_type(name: str, wrong: object) -> None:
    with pytest.raises(BadRequest, match=name):
        parse({name: wrong})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
KNOWN = st.sampled_from([*NUMBERS, *TEXTS, *FLAGS, *LISTS, "input_extra", "unknown"])


@given(st.dictionaries(KNOWN, JSON, max_size=6))
def test_parse_raises_nothing_but_bad_request(body: dict[str, Any]) -> None:
    try:
        request = parse(body).request
    except BadRequest:
        return
    assert 0 <= request.max_tokens <= infill_format.MAX_TOKENS
    assert 0 <= request.sampling.temperature <= 2


def test_answer_counts_every_token_of_the_prompt() -> None:
    body: dict[str, Any] = infill_format.answer(parse({}), "m", LAST)
    assert body["content"] == "text"
    assert (body["tokens_evaluated"], body["tokens_cached"], body["tokens_predicted"]) == (10, 8, 3)
    assert body["timings"]["cache_n"] + body["timings"]["prompt_n"] == body["tokens_evaluated"]
    assert body["timings"]["prompt_per_token_ms"] == 2
    assert body["timings"]["predicted_per_second"] == 500
    assert body["usage"] == {"prompt_tokens": 10, "cached_tokens": 8, "completion_tokens": 3}
    assert "tokens" not in body


@pytest.mark.parametrize(
    ("reason", "word", "stop_type"),
    [
        (FinishReason.STOP, "", "eos"),
        (FinishReason.STOP, "\n", "word"),
        (FinishReason.LENGTH, "", "limit"),
        (FinishReason.DEADLINE, "", "limit"),
        (FinishReason.CANCELLED, "", "none"),
    ],
)
def test_answer_says_why_it_ended(reason: FinishReason, word: str, stop_type: str) -> None:
    last = Chunk("", finish_reason=reason, stopping_word=word)
    body = infill_format.answer(parse({}), "m", last)
    assert (body["stop_type"], body["stopping_word"]) == (stop_type, word)
    assert body["finish_reason"] == reason.value


def test_answer_keeps_only_the_wanted_fields_under_flat_names() -> None:
    body = infill_format.answer(parse(LLAMA_VIM), "m", LAST)
    assert body == {"content": "text", "timings/prompt_n": 2, "truncated": False}
    assert infill_format.answer(parse(LLAMA_VIM_WARM_UP), "m", LAST) == {}


def test_modulation_is_refused_and_null_is_none() -> None:
    with pytest.raises(BadRequest, match="'modulation' is for chat"):
        parse({"modulation": {"arousal": 0}})
    assert parse({"modulation": None}).request.sampling.temperature == 0
