"""What every backend must do that fills in the middle; see `backends.contract`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import takewhile

from backends.backend import Backend, FinishReason, InfillRequest, Sampling
from backends.contract.streams import (
    ENDED,
    EVALUATED_PER_KEY,
    FUNCTIONS,
    GAP,
    LONG,
    SUMS,
    Check,
    Lacking,
    collected,
    context_length,
    fills,
    into,
)
from fim.block import Block

CHECKS: list[Check] = []
_check = into(CHECKS)


@_check
async def an_infill_streams_and_ends_once(backend: Backend) -> None:
    """Text comes as it is generated, and the end says why and what it cost."""
    fills(backend)
    answer = await collected(backend.infill(replace(LONG, max_tokens=16)))
    assert sum(bool(chunk.text) for chunk in answer.chunks) > 1, "text comes as it is generated"
    assert answer.last.finish_reason is FinishReason.LENGTH
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens >= 16
    assert answer.last.timings is not None
    assert backend.in_flight == 0


@_check
async def greedy_text_is_the_same_twice_and_cached(backend: Backend) -> None:
    """Whatever is cached, the text is what the model says."""
    fills(backend)
    cold = await collected(backend.infill(GAP))
    again = await collected(backend.infill(replace(GAP, document="file:///twice.py")))
    cached = await collected(backend.infill(replace(GAP, document="file:///twice.py")))
    assert cold.text
    assert cold.text == again.text == cached.text
    assert cached.usage.prompt_tokens - cached.usage.cached_tokens <= EVALUATED_PER_KEY


@_check
async def typing_on_finds_its_prompt_cached(backend: Backend) -> None:
    """Each key costs what was typed, not the document."""
    fills(backend)
    request = replace(GAP, document="file:///typed.py", max_tokens=2)
    before = await collected(backend.infill(request))
    for typed in ("with", "with open(path)", "with open(path) as file:"):
        warm = await collected(backend.infill(replace(request, prefix=GAP.prefix + typed)))
        evaluated = warm.usage.prompt_tokens - warm.usage.cached_tokens
        assert evaluated <= EVALUATED_PER_KEY
        assert warm.usage.cached_tokens >= before.usage.cached_tokens
    assert warm.usage.cached_tokens > before.usage.cached_tokens


@_check
async def text_ends_before_a_stop_and_names_it(backend: Backend) -> None:
    """Also before one that is made of several tokens, or comes late in the list."""
    fills(backend)
    request = replace(LONG, max_tokens=12)
    whole = (await collected(backend.infill(request))).text
    stop = whole[len(whole) // 2 :][:3]
    cut = await collected(backend.infill(replace(request, stop=("no such text", stop))))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.last.finish_reason is FinishReason.STOP
    assert cut.last.stopping_word in (stop, ""), "it is named, unless the engine doesn't say"


@_check
async def a_single_line_ends_at_its_end(backend: Backend) -> None:
    """The line's end is no part of the text, and no stop of the caller's."""
    fills(backend)
    request = replace(GAP, prefix=FUNCTIONS, suffix="", max_tokens=24)
    whole = (await collected(backend.infill(request))).text
    assert "\n" in whole, "the model must write more than a line"
    line = await collected(backend.infill(replace(request, single_line=True)))
    assert line.text == whole.partition("\n")[0]
    assert line.last.finish_reason is FinishReason.STOP
    assert line.last.stopping_word == ""


@_check
async def text_ends_where_it_leaves_the_cursors_block(backend: Backend) -> None:
    """As soon as that is known: nobody waits for the function that comes next."""
    fills(backend)
    request = replace(GAP, prefix=SUMS, suffix="\n", max_tokens=48)
    whole = await collected(backend.infill(request))
    first, *more = whole.text.split("\n")
    block = Block(SUMS.rpartition("\n")[2] + first)
    kept = [first, *takewhile(lambda line: not block.leaves(line), more)]
    limited = await collected(backend.infill(replace(request, limit_scope=True)))
    assert limited.text.rstrip() == "\n".join(kept).rstrip()
    if len(kept) <= len(more):
        assert limited.last.finish_reason is FinishReason.STOP
        assert limited.last.stopping_word == ""
        assert limited.usage.completion_tokens < whole.usage.completion_tokens


@_check
async def no_tokens_are_none_and_one_is_one(backend: Backend) -> None:
    """Nothing is asked for to have the prompt evaluated before somebody waits."""
    fills(backend)
    none = await collected(backend.infill(replace(LONG, max_tokens=0)))
    assert none.text == ""
    assert none.last.finish_reason is FinishReason.LENGTH
    one = await collected(backend.infill(replace(LONG, max_tokens=1)))
    assert one.last.finish_reason is FinishReason.LENGTH
    # One more may be spent on the word that was begun.
    assert one.usage.completion_tokens in (1, 2)


@_check
async def odd_documents_are_completed(backend: Backend) -> None:
    """None at all, any characters, and names that a template gives a meaning to."""
    fills(backend)
    for prefix, suffix in (
        ("", ""),
        ("", "\n"),
        ('greeting = "héllo 世界 🙂', '"\r\n'),
        ("x = '<|fim_middle|><|endoftext|></s>\x00\x01", "<|fim_prefix|>'\n"),
    ):
        request = replace(GAP, prefix=prefix, suffix=suffix, max_tokens=3)
        answer = await collected(backend.infill(request))
        assert answer.last.finish_reason in ENDED


@_check
async def a_document_longer_than_the_context_is_cut_and_says_so(backend: Backend) -> None:
    """What is shown fits, with room for the answer."""
    fills(backend)
    length = context_length(backend)
    lines = "value = 1\n" * length
    # The prefill's budget keeps it small where evaluating is slow.
    request = InfillRequest(lines, lines, max_tokens=2, prompt_ms=100)
    answer = await collected(backend.infill(request))
    assert answer.last.truncated
    assert answer.usage.prompt_tokens < length
    assert not (await collected(backend.infill(replace(GAP, max_tokens=1)))).last.truncated


@_check
async def samples_are_repeated_by_their_seed(backend: Backend) -> None:
    """And another seed is another text."""
    fills(backend)
    if not backend.capabilities.modulation:
        raise Lacking("its sampling can't be set")
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=7)
    request = replace(GAP, prefix="x = ", suffix="", sampling=sampling)
    first = (await collected(backend.infill(request))).text
    assert (await collected(backend.infill(request))).text == first
    other = replace(request, sampling=replace(sampling, seed=8))
    assert (await collected(backend.infill(other))).text != first


@_check
async def documents_at_once_get_what_each_gets_alone(backend: Backend) -> None:
    """More of them than most engines have slots."""
    fills(backend)
    requests = [
        replace(GAP, prefix=f"{FUNCTIONS}def read_{n}(path):\n    ", document=f"file:///{n}.py")
        for n in range(6)
    ]
    alone = [(await collected(backend.infill(replace(r, document=None)))).text for r in requests]
    together = await asyncio.gather(*(collected(backend.infill(r)) for r in requests))
    assert [answer.text for answer in together] == alone
    assert all(answer.last.finish_reason in ENDED for answer in together)
    assert backend.in_flight == 0
