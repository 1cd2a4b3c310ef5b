"""The decoding loop: cached equals cold, the newest wins, and every end is told once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.backend import FinishReason, InfillRequest, Sampling
from backends.decoding.prompting import TokenPrompt
from backends.decoding.scheduler import Scheduler
from backends.decoding.token_model import Feed
from backends.errors import BackendError
from benchmarks.reference import greedy
from tests.backends.decoding.harness import Running, running
from tests.backends.decoding.hash_model import HashModel

SOURCE = "import os\n\n\ndef name(path):\n    return os.path.basename(path)\n\n\nprint(name('a'))\n"

edits = st.lists(
    st.tuples(
        st.sampled_from(["type", "type", "type", "delete", "jump", "newline", "other"]),
        st.integers(0, 200),
    ),
    max_size=25,
)


def spy_prompts(scheduler: Scheduler) -> list[TokenPrompt]:
    """Record the prompts that the scheduler builds: what a cold evaluation must be given."""
    seen: list[TokenPrompt] = []
    build = scheduler._prompter.prompt
    scheduler._prompter.prompt = lambda request: seen.append(build(request)) or seen[-1]
    return seen


@pytest.mark.parametrize("can_rewind", [True, False], ids=["attention", "recurrent"])
@given(script=edits)
@settings(deadline=None, max_examples=60)
def test_cached_generation_equals_cold_generation(
    can_rewind: bool, script: list[tuple[str, int]]
) -> None:
    """Invariant 1: whatever was typed before, the text is that of the same prompt, cold."""
    model = HashModel(sequences=4, cells=900)
    model.can_rewind = can_rewind
    with running(model) as warm:
        prompts = spy_prompts(warm.scheduler)
        text, cursor, document = SOURCE, 40, "file:///a.py"
        for kind, number in script:
            if kind == "type":
                text = text[:cursor] + "reslf("[number % 6] + text[cursor:]
                cursor += 1
            elif kind == "delete" and cursor:
                text, cursor = text[: cursor - 1] + text[cursor:], cursor - 1
            elif kind == "jump":
                cursor = number % (len(text) + 1)
            elif kind == "newline":
                text, cursor = text[:cursor] + "\n    " + text[cursor:], cursor + 5
            else:
                document = f"file:///{number % 3}.py"
            got = warm.infill(InfillRequest(text[:cursor], text[cursor:], document, max_tokens=6))
            assert got.text == greedy(HashModel(), prompts[-1], 6)
            assert got.usage.prompt_tokens == len(prompts[-1].tokens)
            assert got.usage.cached_tokens <= got.usage.prompt_tokens


def test_typing_evaluates_a_few_tokens_a_key() -> None:
    with running(HashModel()) as engine:
        document, before, after = "file:///a.py", SOURCE, "\n\nprint(1)\n"
        engine.infill(InfillRequest(before, after, document, max_tokens=4))
        for key in "return 1":
            before += key
            usage = engine.infill(InfillRequest(before, after, document, max_tokens=4)).usage
            assert usage.prompt_tokens - usage.cached_tokens <= 3


def test_the_same_place_again_evaluates_nothing() -> None:
    model = HashModel()
    with running(model) as engine:
        request = InfillRequest(SOURCE + "pri", "\n", "file:///a.py", max_tokens=4)
        first = engine.infill(request)
        evaluated = model.evaluated
        second = engine.infill(request)
        assert first.text == second.text
        assert second.usage.cached_tokens == second.usage.prompt_tokens
        assert model.evaluated == evaluated


def test_typing_what_was_suggested_evaluates_only_what_is_new_at_its_end() -> None:
    model = HashModel()
    before, after = SOURCE + "x = ", "\n"
    with running(model) as engine:
        suggested = engine.infill(InfillRequest(before, after, "file:///a.py", max_tokens=12)).text
        evaluated = model.evaluated
        typed = before + suggested[:3]
        rest = engine.infill(InfillRequest(typed, after, "file:///a.py", max_tokens=6)).text
        assert suggested[3:].startswith(rest)
        assert rest
        assert model.evaluated == evaluated


def test_sampling_again_from_what_is_known_is_sampling_afresh() -> None:
    model = HashModel()
    request = InfillRequest(
        SOURCE, "\n", "file:///a.py", max_tokens=1, sampling=Sampling(temperature=50.0, seed=1)
    )
    with running(model) as engine:
        engine.infill(request)
        texts = {
            engine.infill(replace(request, sampling=Sampling(temperature=50.0, seed=seed))).text
            for seed in range(20)
        }
        cold = set()
        for seed in range(20):
            with running(HashModel()) as fresh:
                sampling = Sampling(temperature=50.0, seed=seed)
                cold.add(fresh.infill(replace(request, sampling=sampling)).text)
    assert texts == cold
    assert len(texts) > 1


def test_documents_generate_at_once_as_they_do_alone() -> None:
    requests = [
        InfillRequest(SOURCE + f"x{i} = ", "\n", f"file:///{i}.py", max_tokens=12) for i in range(6)
    ]
    alone = []
    for request in requests:
        with running(HashModel()) as engine:
            alone.append(engine.infill(request).text)
    with running(HashModel()) as engine:
        ids = [engine.submit(request) for request in requests]
        assert [engine.wait(id).text for id in ids] == alone


def test_more_documents_than_sequences_all_get_answers() -> None:
    with running(HashModel(sequences=2, cells=400)) as engine:
        ids = [
            engine.submit(InfillRequest(SOURCE * 2, "", f"file:///{i}.py", max_tokens=5))
            for i in range(12)
        ]
        assert all(engine.wait(id).finish_reason is not None for id in ids)


class GatedModel(HashModel):
    """Waits in mid-forward, where the abort callback is polled, until told to go on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[Any]:
        def gate() -> bool:
            self.entered.set()
            while not self.go_on.wait(0.001):
                if abort():
                    return True
            return abort()

        return super().forward(feeds, gate)


def held_up(model: GatedModel) -> None:
    model.entered.clear()
    model.go_on.clear()


def test_cancel_aborts_the_forward_pass_and_keeps_what_was_evaluated() -> None:
    model = GatedModel()
    with running(model) as engine:
        held_up(model)
        request = InfillRequest(SOURCE, "", "file:///a.py", max_tokens=4)
        id = engine.submit(request)
        assert model.entered.wait(10)
        engine.scheduler.cancel(id)
        cancelled = engine.wait(id)  # the gate is still closed: only the abort can end this
        assert cancelled.finish_reason is FinishReason.CANCELLED
        evaluated = model.evaluated
        model.go_on.set()
        usage = engine.infill(request).usage
        assert usage.cached_tokens == cancelled.usage.prompt_tokens
        assert model.evaluated > evaluated


def test_a_newer_request_supersedes_the_one_under_way() -> None:
    model = GatedModel()
    with running(model) as engine:
        held_up(model)
        older = engine.submit(InfillRequest(SOURCE, "", "file:///a.py", max_tokens=4))
        assert model.entered.wait(10)
        newer = engine.submit(InfillRequest(SOURCE + "p", "", "file:///a.py", max_tokens=4))
        assert engine.wait(older).finish_reason is FinishReason.CANCELLED
        model.go_on.set()
        assert engine.wait(newer).finish_reason is not FinishReason.CANCELLED


def test_only_the_newest_of_many_waiting_requests_runs() -> None:
    model = GatedModel()
    with running(model) as engine:
        held_up(model)
        other = engine.submit(InfillRequest(SOURCE, "", "file:///other.py", max_tokens=2))
        assert model.entered.wait(10)
        ids = [
            engine.submit(InfillRequest(SOURCE + "p" * i, "", "file:///a.py", max_tokens=2))
            for i in range(10)
        ]
        model.go_on.set()
        engine.wait(other)
        reasons = [engine.wait(id).finish_reason for id in ids]
        assert reasons[:-1] == [FinishReason.CANCELLED] * 9
        assert reasons[-1] is not FinishReason.CANCELLED


def test_a_deadline_ends_the_request_in_mid_forward() -> None:
    model = GatedModel()
    with running(model) as engine:
        held_up(model)
        got = engine.infill(InfillRequest(SOURCE, "", "file:///a.py", deadline_ms=50))
        assert got.finish_reason is FinishReason.DEADLINE


def test_zero_tokens_warm_the_cache_and_say_nothing() -> None:
    with running(HashModel()) as engine:
        warm = engine.infill(InfillRequest(SOURCE, "", "file:///a.py", max_tokens=0))
        assert (warm.text, warm.usage.completion_tokens) == ("", 0)
        usage = engine.infill(InfillRequest(SOURCE, "", "file:///a.py", max_tokens=2)).usage
        assert usage.cached_tokens == usage.prompt_tokens


def test_without_a_document_nothing_is_kept() -> None:
    model = HashModel()
    with running(model) as engine:
        request = InfillRequest(SOURCE, "", None, max_tokens=2)
        engine.infill(request)
        assert engine.infill(request).usage.cached_tokens == 0
        assert not any(model.cached.values())


@given(st.text(max_size=80), st.text(max_size=40))
@settings(deadline=None, max_examples=40)
def test_document_text_never_becomes_a_control_token(before: str, after: str) -> None:
    """Invariant 4, also for texts that spell one out."""
    injected = "<|fim_middle|>" + before + "<|endoftext|>"
    with running(HashModel()) as engine:
        prompts = spy_prompts(engine.scheduler)
        engine.infill(InfillRequest(injected, after + "<|fim_suffix|>", None, max_tokens=1))
        control = [token for token in prompts[0].tokens if token < 4]
        assert sorted(control) == [1, 2, 3], "one of each, all from the template"


def test_single_line_ends_at_the_line_end() -> None:
    with running(HashModel()) as engine:
        for i in range(20):
            request = InfillRequest(
                f"{SOURCE}{i}", "", "file:///a.py", max_tokens=40, single_line=True
            )
            assert "\n" not in engine.infill(request).text


def test_a_failing_model_ends_the_request_and_the_next_one_works() -> None:
    class FailsOnce(HashModel):
        fail = False

        def forward(self, feeds: Sequence[Feed], abort: Callable[[], bool]) -> list[Any]:
            if self.fail:
                self.fail = False
                raise BackendError("out of order")
            return super().forward(feeds, abort)

    model = FailsOnce()
    with running(model) as engine:
        model.fail = True
        request = InfillRequest(SOURCE, "", "file:///a.py", max_tokens=3)
        assert isinstance(engine.infill(request).error, BackendError)
        assert engine.infill(request).error is None


@pytest.mark.parametrize("context_length", [64, 128, 300])
def test_prompt_and_completion_stay_within_the_context(context_length: int) -> None:
    model = HashModel(context_length=context_length)
    with running(model) as engine:
        got = engine.infill(InfillRequest(SOURCE * 30, SOURCE * 30, "file:///a.py", max_tokens=500))
        assert got.error is None
        assert got.usage.prompt_tokens + got.usage.completion_tokens <= context_length + 1


def test_speculation_saves_steps_and_changes_no_text() -> None:
    """A model that repeats itself: prompt lookup must find it out, with the same text."""
    request = InfillRequest(SOURCE, "", "file:///a.py", max_tokens=120)
    steps, texts = {}, {}
    for speculate in (False, True):
        model = HashModel(memory=1)
        model.vocab = replace(model.vocab, end_tokens=frozenset())
        with running(model, speculate=speculate) as engine:
            prompts = spy_prompts(engine.scheduler)
            before = model.steps
            texts[speculate] = engine.infill(request).text
            steps[speculate] = model.steps - before
            assert texts[speculate] == greedy(HashModel(memory=1), prompts[0], 120)
    assert len(texts[True]) > 40, "the model ended too early to show anything"
    assert steps[True] < steps[False] / 1.5


def test_a_repeated_request_drafts_from_the_previous_suggestion() -> None:
    model = HashModel()
    with running(model) as engine:
        request = InfillRequest(SOURCE + "x = ", "", "file:///a.py", max_tokens=40)
        first = engine.infill(request)
        before = model.steps
        second = engine.infill(request)
        assert second.text == first.text
        assert second.usage.completion_tokens > 8
        assert model.steps - before < second.usage.completion_tokens


def test_typing_on_and_on_in_a_small_context_always_finds_room() -> None:
    with running(HashModel(context_length=256)) as engine:
        before = SOURCE * 4
        for n in range(150):
            before += "abc "[n % 4] * 3
            got = engine.infill(InfillRequest(before, SOURCE * 4, "file:///a.py", max_tokens=8))
            assert got.error is None
            assert got.usage.prompt_tokens >= 128, "and keeps showing the document"


def idle(engine: Running) -> None:
    """Wait until the scheduler has done what it does while nobody asks for anything."""
    deadline = time.monotonic() + 30
    while engine.scheduler._has_work():
        assert time.monotonic() < deadline, "the scheduler never rests"
        time.sleep(0.001)


def test_a_small_window_is_enlarged_while_idle() -> None:
    model = HashModel(context_length=2048)
    with running(model) as engine:
        engine.scheduler._prefill_rate = 300.0  # tokens per second: 256 can be waited for
        request = InfillRequest(SOURCE * 40, "", "file:///a.py", max_tokens=2)
        cold = engine.infill(request).usage
        idle(engine)
        warm = engine.infill(replace(request, prefix=request.prefix + "p")).usage
        assert cold.prompt_tokens < 700
        assert warm.prompt_tokens > 2 * cold.prompt_tokens
        assert warm.prompt_tokens - warm.cached_tokens <= 3, "enlarged, and already evaluated"


def test_the_anchor_moves_up_while_idle_not_at_a_key() -> None:
    with running(HashModel(context_length=2048)) as engine:
        before, after = SOURCE, "\n\nprint(1)\n"
        document = "file:///a.py"
        engine.infill(InfillRequest(before, after, document, max_tokens=2))
        worst = 0
        for i in range(120):
            before += f"x{i} = {i}\n"
            usage = engine.infill(InfillRequest(before, after, document, max_tokens=2)).usage
            worst = max(worst, usage.prompt_tokens - usage.cached_tokens)
            idle(engine)
        assert worst <= 12, "a line's tokens, never the suffix"


def test_work_in_advance_yields_to_a_request() -> None:
    model = GatedModel(context_length=2048)
    with running(model) as engine:
        engine.scheduler._prefill_rate = 300.0
        request = InfillRequest(SOURCE * 40, "", "file:///a.py", max_tokens=2)
        engine.infill(request)
        idle(engine)
        held_up(model)
        warm = engine.submit(replace(request, document="file:///b.py", max_tokens=0))
        assert model.entered.wait(10)
        urgent = engine.submit(replace(request, document="file:///c.py"))
        time.sleep(0.05)
        model.go_on.set()
        engine.wait(urgent)
        assert engine.wait(warm).finish_reason is FinishReason.LENGTH
        assert engine.ended.index(urgent) < engine.ended.index(warm)


def test_a_model_that_cannot_be_trimmed_returns_to_its_anchor() -> None:
    """Recurrent layers: a key costs the line's tokens, never the document's, and stays exact."""
    model = HashModel()
    model.can_rewind = False
    with running(model) as engine:
        prompts = spy_prompts(engine.scheduler)
        before, after = SOURCE, "\n\nprint(1)\n"
        engine.infill(InfillRequest(before, after, "file:///a.py", max_tokens=4))
        for key in "return name":
            before += key
            got = engine.infill(InfillRequest(before, after, "file:///a.py", max_tokens=4))
            head = len(prompts[-1].anchored.tokens)
            assert got.usage.cached_tokens >= head - 1
            assert got.text == greedy(HashModel(), prompts[-1], 4)


def test_a_suggestion_ahead_of_its_time_yields_to_a_key() -> None:
    model = GatedModel()
    with running(model) as engine:
        held_up(model)
        request = InfillRequest(SOURCE, "", "file:///a.py", max_tokens=20, ahead=True)
        ahead = engine.submit(request)
        assert model.entered.wait(10)
        key = engine.submit(InfillRequest(SOURCE, "", "file:///b.py", max_tokens=20))
        time.sleep(0.05)
        model.go_on.set()
        engine.wait(key)
        assert engine.wait(ahead).text, "it goes on afterwards"
        assert engine.ended == [key, ahead]


def test_tokens_without_bytes_count_as_generated() -> None:
    """Unused entries of a vocabulary stand for nothing; a model may still pick them."""

    class Wordless(HashModel):
        def token_bytes(self, token: int) -> bytes:
            return b"" if token > 4 + 32 else super().token_bytes(token)

    with running(Wordless()) as engine:
        request = InfillRequest(SOURCE + "\n", "", "file:///a.py", max_tokens=8)
        assert engine.infill(request).usage.completion_tokens <= 9
