"""Chats on the scheduler: turns share cells, inline goes first, every end is told once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from backends import memory
from backends.backend import (
    ChatRequest,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Sampling,
    SteeringUse,
    Tool,
)
from backends.decoding.chat import Chats
from backends.decoding.chat_template import ChatTemplate
from backends.decoding.token_model import Feed
from backends.errors import BadRequest, Unsupported
from tests.backends.decoding.chat_families import FAMILIES
from tests.backends.decoding.harness import Running, running
from tests.backends.decoding.hash_model import HashModel
from tests.backends.decoding.test_scheduler import SOURCE, GatedModel, held_up

CHATML = FAMILIES["chatml"].source
TOOL = Tool(
    "add",
    "Add.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    },
)


@contextmanager
def chatting(model: HashModel, source: str = CHATML, **options: Any) -> Iterator[Running]:
    chats = Chats(model, ChatTemplate(source, {}))
    try:
        with running(model, chats=chats, **options) as engine:
            yield engine
    finally:
        chats.close()


def ask(*texts: str, **options: Any) -> ChatRequest:
    roles = (Role.USER, Role.ASSISTANT)
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(texts))
    return ChatRequest(messages, **{"max_tokens": 12, **options})


class Scripted(HashModel):
    """Says `script`, then ends; to whatever was asked after the last prompt's end."""

    def __init__(self, script: str | bytes, **options: Any) -> None:
        super().__init__(context_length=4096, **options)
        data = script.encode() if isinstance(script, str) else script
        self._script = [*(4 + byte for byte in data), 0]
        self._marker = self.tokenize("assistant\n")

    def _logits(self, held: list[int]) -> Any:
        logits = super()._logits(held)
        size = len(self._marker)
        starts = [n for n in range(len(held)) if held[n - size : n] == self._marker]
        said = held[starts[-1] :] if starts else []
        if held[-size:] == self._marker:
            said = []
        if len(said) < len(self._script):
            logits[self._script[len(said)]] = 100.0
        return logits


def test_an_answer_is_the_same_cold_cached_and_beside_others() -> None:
    request = ask("what is a monad?", session="s")
    with chatting(HashModel()) as engine:
        cold = engine.chat(request)
        again = engine.chat(request)
        ids = [engine.submit(ask(f"question {n}", session=f"s{n}")) for n in range(5)]
        beside = engine.chat(replace(request, session="other"))
        assert [engine.wait(id).error for id in ids] == [None] * 5
    assert cold.text == again.text == beside.text
    assert cold.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= again.usage.prompt_tokens - 1


def test_the_second_turn_is_cached_up_to_what_is_new() -> None:
    with chatting(HashModel()) as engine:
        first = engine.chat(ask("def return print", session="s"))
        turn = ask("def return print", first.text, "and now?", session="s")
        second = engine.chat(turn).usage
        used = first.usage.prompt_tokens + first.usage.completion_tokens
        assert second.cached_tokens >= used - 1, "all but the last token, which was not evaluated"
        assert second.cached_tokens < second.prompt_tokens


def test_usage_adds_up_and_the_answer_stays_in_the_context() -> None:
    model = HashModel(context_length=96)
    model.vocab = replace(model.vocab, end_tokens=frozenset({0}))
    with chatting(model) as engine:
        got = engine.chat(ask("a" * 20, max_tokens=500))
        assert got.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert got.usage.prompt_tokens + got.usage.completion_tokens <= 97
        asked = sum(len(chunk.token_ids) for chunk in got.chunks)
        assert asked <= got.usage.completion_tokens


def test_a_conversation_longer_than_the_context_is_refused() -> None:
    with chatting(HashModel(context_length=96)) as engine:
        for size in (200, 1_000_000):
            error = engine.chat(ask("a" * size)).error
            assert isinstance(error, BadRequest)
            assert "context" in str(error)
        assert engine.chat(ask("a")).error is None


def test_inline_completion_goes_first_and_the_chat_goes_on_without_loss() -> None:
    request = ask("tell me more", session="s", max_tokens=40)
    with chatting(HashModel()) as engine:
        alone = engine.chat(request).text
    model = GatedModel()
    with chatting(model) as engine:
        held_up(model)
        chat = engine.submit(request)
        assert model.entered.wait(10)
        inline = engine.submit(InfillRequest(SOURCE, "", "file:///a.py", max_tokens=20))
        time.sleep(0.05)
        model.go_on.set()
        engine.wait(inline)
        assert engine.wait(chat).text == alone
        assert engine.ended == [inline, chat]


def test_cancel_ends_a_chat_in_mid_forward() -> None:
    model = GatedModel()
    with chatting(model) as engine:
        held_up(model)
        id = engine.submit(ask("why?", session="s"))
        assert model.entered.wait(10)
        engine.scheduler.cancel(id)
        assert engine.wait(id).finish_reason is FinishReason.CANCELLED
        model.go_on.set()
        assert engine.chat(ask("why?", session="s")).error is None


def test_cancel_ends_a_chat_that_is_still_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    render = ChatTemplate.render

    def slow(self: ChatTemplate, *args: Any, **options: Any) -> str:
        assert gate.wait(30)
        return render(self, *args, **options)

    with chatting(HashModel()) as engine:
        monkeypatch.setattr(ChatTemplate, "render", slow)
        id = engine.submit(ask("why?"))
        inline = engine.infill(InfillRequest(SOURCE, "", "file:///a.py", max_tokens=4))
        assert inline.error is None, "nobody waits for the preparation of a chat"
        engine.scheduler.cancel(id)
        assert engine.wait(id).finish_reason is FinishReason.CANCELLED
        gate.set()


def test_a_newer_request_of_the_session_supersedes_the_older() -> None:
    model = GatedModel()
    with chatting(model) as engine:
        held_up(model)
        older = engine.submit(ask("one", session="s"))
        assert model.entered.wait(10)
        newer = engine.submit(ask("two", session="s"))
        other = engine.submit(InfillRequest(SOURCE, "", "s", max_tokens=4))
        assert engine.wait(older).finish_reason is FinishReason.CANCELLED
        model.go_on.set()
        assert engine.wait(newer).finish_reason is not FinishReason.CANCELLED
        assert engine.wait(other).finish_reason is not FinishReason.CANCELLED, "a document's name"


def test_a_deadline_ends_a_chat() -> None:
    model = GatedModel()
    with chatting(model) as engine:
        held_up(model)
        got = engine.chat(ask("why?", deadline_ms=50))
        assert got.finish_reason is FinishReason.DEADLINE


def test_a_prediction_saves_steps_and_changes_no_text() -> None:
    # Nothing in it repeats: only the prediction can be drafted from.
    script = "".join(chr(33 + (n * 37) % 90) for n in range(60))
    steps = {}
    for prediction in ("", script):
        model = Scripted(script)
        with chatting(model) as engine:
            before = model.steps
            got = engine.chat(ask("go", prediction=prediction, max_tokens=80))
            assert got.text == script
            steps[prediction] = model.steps - before
    assert steps[script] < steps[""] / 1.5


def test_stops_end_the_text_and_are_named() -> None:
    with chatting(Scripted("one two three")) as engine:
        got = engine.chat(ask("go", stop=("two",), max_tokens=40))
        assert (got.text, got.finish_reason) == ("one ", FinishReason.STOP)
        assert got.chunks[-1].stopping_word == "two"


@pytest.mark.parametrize("opened", [False, True], ids=["by the model", "by the template"])
def test_reasoning_is_told_apart_byte_by_byte(opened: bool) -> None:
    thought = "hm ✓ so</think>\n\n"
    script = ("" if opened else "<think>\n") + thought + "x = '</think> ✓'"
    source = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'") if opened else CHATML
    model = Scripted(script)
    if opened:
        model._marker = model.tokenize("assistant\n<think>\n")
    with chatting(model, source) as engine:
        got = engine.chat(ask("go", max_tokens=100))
    assert got.reasoning == "hm ✓ so"
    assert got.text == "x = '</think> ✓'"
    assert all(not (chunk.text and chunk.reasoning) or chunk.finish_reason for chunk in got.chunks)


def test_reasoning_that_is_never_closed_is_no_text() -> None:
    with chatting(Scripted("<think> on and on and on")) as engine:
        got = engine.chat(ask("go", max_tokens=100))
    assert (got.text, got.reasoning) == ("", "on and on and on")


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>'


@pytest.mark.parametrize("before", ["", "I will add.\n"])
def test_auto_calls_when_the_model_opens_a_call(before: str) -> None:
    with chatting(Scripted(before + CALL)) as engine:
        got = engine.chat(ask("go", tools=(TOOL,), max_tokens=200))
    assert got.finish_reason is FinishReason.TOOL_CALLS
    (call,) = got.chunks[-1].tool_calls
    assert (call.name, call.arguments) == ("add", '{"a": 7}')
    assert got.text == before


def test_auto_holds_a_call_to_the_schema_once_it_is_opened() -> None:
    with chatting(Scripted('<tool_call>\n{"name": "add", "arguments": {"b": "no"}}')) as engine:
        got = engine.chat(ask("go", tools=(TOOL,), max_tokens=200))
    assert got.chunks[-1].tool_calls[0].name == "add"
    assert got.chunks[-1].tool_calls[0].arguments.startswith('{"a": ')


def test_auto_is_plain_text_where_the_model_calls_nothing() -> None:
    with chatting(Scripted("no <tool_ca and </tool_call>")) as engine:
        got = engine.chat(ask("go", tools=(TOOL,), max_tokens=200))
    assert (got.text, got.finish_reason) == ("no <tool_ca and </tool_call>", FinishReason.STOP)


# The last one is inside what closes the call: it is whole, and what comes next is not known.
@pytest.mark.parametrize("max_tokens", [3, 20, len(CALL) - 3])
@pytest.mark.parametrize("choice", ["auto", "required", "add"])
def test_a_call_cut_off_is_told_as_length_and_not_by_half(max_tokens: int, choice: str) -> None:
    with chatting(Scripted(CALL)) as engine:
        got = engine.chat(ask("go", tools=(TOOL,), tool_choice=choice, max_tokens=max_tokens))
    assert got.finish_reason is FinishReason.LENGTH
    assert len(got.chunks[-1].tool_calls) == (max_tokens > 45)
    assert "tool_call" not in got.text


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_a_schema_holds_from_the_first_token_whatever_the_model_says(temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
        "required": ["x", "y"],
        "additionalProperties": False,
    }
    sampling = Sampling(temperature, top_k=0, top_p=1.0, seed=1)
    with chatting(HashModel()) as engine:
        for n in range(5):
            got = engine.chat(ask(f"go {n}", schema=schema, sampling=sampling, max_tokens=60))
            answer = json.loads(got.text)
            assert answer["x"] in (1, 2)
            assert isinstance(answer["y"], bool)
            assert got.finish_reason is FinishReason.STOP


def test_a_grammar_waits_for_the_end_of_the_reasoning() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    source = CHATML.replace("assistant\\n'", "assistant\\n<think>'")
    model = Scripted("hm</think>\n\n{ }")
    model._marker = model.tokenize("assistant\n<think>")
    with chatting(model, source) as engine:
        got = engine.chat(ask("go", schema=schema, max_tokens=60))
    assert (got.reasoning, got.text) == ("hm", "{}")


@pytest.mark.parametrize(
    "request_",
    [
        ask("go", tool_choice="required"),
        ask("go", tools=(TOOL,), tool_choice="other"),
        ask("go", tools=(TOOL,), schema={"type": "object"}),
        ask("go", tools=(replace(TOOL, name="a b"),)),
        ask("go", schema={"type": "nonsense"}),
        ask("go", schema={"$ref": "http://127.0.0.1:9/x"}),
        ask(),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_next_works(request_: ChatRequest) -> None:
    with chatting(HashModel()) as engine:
        assert isinstance(engine.chat(request_).error, BadRequest)
        assert engine.chat(ask("go")).error is None


def test_a_model_without_a_chat_template_refuses() -> None:
    with running(HashModel()) as engine, pytest.raises(Unsupported):
        engine.submit(ask("go"))


class Steerable(HashModel):
    """Its logits depend on the steering of each token it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.can_steer = True
        self.seen: list[tuple[SteeringUse, ...]] = []
        self.file = "1"  # where vectors are kept

    def resolve_steering(self, uses: Sequence[SteeringUse]) -> tuple[SteeringUse, ...]:
        if any(use.name == "nobody's" for use in uses):
            raise BadRequest("no such vector")
        return tuple(replace(use, version=self.file) for use in uses)

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[Any]:
        self.seen += [feed.steering for feed in feeds]
        shift = [
            sum(int(use.coefficient * 1000) * int(use.version) for use in feed.steering)
            for feed in feeds
        ]
        steered = [
            replace(feed, tokens=[token + (n << 12) for token in feed.tokens])
            for feed, n in zip(feeds, shift, strict=True)
        ]
        return super().forward(steered, abort)


def test_chats_take_no_room_from_what_the_keys_will_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer, and the suggestion that was there before it is typed on for nothing."""
    model = HashModel()
    row_bytes = model.vocab.size * 4
    monkeypatch.setattr(memory, "KNOWN_BYTES", 8 * row_bytes)
    with chatting(model) as engine:
        infill = InfillRequest(SOURCE + "x = ", "\n", "file:///a.py", max_tokens=6)
        suggested = engine.infill(infill).text
        assert engine.chat(ask("go on", session="s", max_tokens=40)).usage.completion_tokens == 40
        evaluated = model.evaluated
        rest = engine.infill(replace(infill, prefix=infill.prefix + suggested[:3], max_tokens=3))
        assert rest.text == suggested[3:]
        assert model.evaluated == evaluated


def test_cells_are_never_shared_between_different_steering() -> None:
    calm, bold = (SteeringUse("bold", 0.5),), (SteeringUse("bold", 2.0),)

    def texts(engine: Running, uses: Sequence[tuple[SteeringUse, ...]]) -> list[str]:
        found = []
        for use in uses:
            found.append(engine.chat(ask("go on", session="s", steering=use)).text)
            infill = InfillRequest(SOURCE, "", "file:///a.py", max_tokens=6, steering=use)
            found.append(engine.infill(infill).text)
        return found

    cold = []
    for use in ((), calm, bold):
        with chatting(Steerable()) as engine:
            cold += texts(engine, [use])
    model = Steerable()
    with chatting(model) as engine:
        assert texts(engine, [(), calm, bold]) == cold
        assert texts(engine, [(), calm, bold]) == cold, "and again, from the cache"
        resolved = {model.resolve_steering(use) for use in ((), calm, bold)}
        assert resolved <= set(model.seen)
        model.file = "3"  # another vector of the same name
        assert not set(texts(engine, [calm, bold])) & set(cold)
    assert len(set(cold)) == 6


def test_a_vector_that_is_unknown_fails_its_own_request_alone() -> None:
    with chatting(Steerable()) as engine:
        good = engine.submit(ask("go on", session="s", max_tokens=40))
        bad = engine.chat(ask("go", steering=(SteeringUse("nobody's", 1.0),)))
        assert isinstance(bad.error, BadRequest)
        assert engine.wait(good).error is None


def test_steering_is_refused_where_the_engine_has_none() -> None:
    use = (SteeringUse("bold", 1.0),)
    with chatting(HashModel()) as engine:
        assert isinstance(engine.chat(ask("go", steering=use)).error, Unsupported)
        infill = InfillRequest(SOURCE, "", "file:///a.py", steering=use)
        assert isinstance(engine.infill(infill).error, Unsupported)
