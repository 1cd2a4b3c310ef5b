"""Drafts: found as defined, and only as long as they pay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.decoding.speculation import MATCH_LENGTHS, MAX_DRAFT, DraftTuner, Source, lookup

tokens = st.lists(st.integers(0, 3), max_size=30)


def by_definition(history: list[int], current: list[int], length: int) -> list[int]:
    for size in MATCH_LENGTHS:
        if len(current) < size:
            continue
        for at in range(len(history) - size - 1, -1, -1):
            if history[at : at + size] == current[-size:]:
                return history[at + size : at + size + length]
    return []


@given(tokens, tokens, st.integers(1, MAX_DRAFT))
def test_lookup_is_the_last_longest_match(
    history: list[int], current: list[int], length: int
) -> None:
    assert lookup(history, current, length) == by_definition(history, current, length)


def test_lookup_is_not_fooled_by_bytes_across_tokens() -> None:
    # 0x01000000 then 0x00000001 hold the bytes of other tokens between them.
    assert lookup([0x01000000, 1, 7], [0x00000100, 0x0100], 1) == []


def tuned(acceptance: bool, cost_per_token: float) -> int:
    tuner = DraftTuner()
    for _ in range(100):
        for width in range(1, MAX_DRAFT + 2):
            tuner.measured(width, 1 + cost_per_token * (width - 1))
        tuner.verified(Source.PROMPT, 4, 4 if acceptance else 0)
    return tuner.length(Source.PROMPT)


def test_draft_tuner_drafts_while_it_pays() -> None:
    assert tuned(acceptance=True, cost_per_token=0.1) == MAX_DRAFT
    assert tuned(acceptance=False, cost_per_token=0.1) == 0
    assert tuned(acceptance=True, cost_per_token=1.5) == 0


def test_draft_tuner_waits_for_a_first_measurement() -> None:
    assert DraftTuner().length(Source.PROMPT) == 0


def test_draft_tuner_tells_the_sources_apart_and_tries_again() -> None:
    tuner = DraftTuner()
    for width in range(1, MAX_DRAFT + 2):
        tuner.measured(width, 1 + 0.3 * (width - 1))
    for _ in range(50):
        tuner.verified(Source.PROMPT, 4, 0)
        tuner.verified(Source.PREVIOUS, 4, 4)
    assert tuner.length(Source.PROMPT) == 0
    assert tuner.length(Source.PREVIOUS) == MAX_DRAFT
    assert any(tuner.length(Source.PROMPT) for _ in range(200)), "given up for good"
