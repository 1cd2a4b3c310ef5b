from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backends.decoding.known import KnownLogits

ROW = np.arange(4, dtype=np.float32)  # 16 bytes


def row(value: float) -> np.ndarray:
    return np.full(4, value, dtype=np.float32)


def test_known_logits_are_copies_in_order_of_their_positions() -> None:
    known = KnownLogits(1000)
    view = ROW.copy()
    known.note(0, 7, view)
    known.note(0, 8, row(8))
    known.note(0, 10, row(10))
    view[:] = -1  # the next forward pass overwrites it
    first, second = known.after(0, 7)
    assert first.tolist() == ROW.tolist()
    assert second[0] == 8
    assert known.after(0, 9) == []
    assert known.after(1, 7) == []


def test_known_logits_after_tokens_that_are_gone_are_gone() -> None:
    known = KnownLogits(1000)
    for position in (5, 6, 7):
        known.note(0, position, row(position))
    known.cut(0, 6)
    assert [int(logits[0]) for logits in known.after(0, 5)] == [5, 6]
    known.cut(3, 0)  # never heard of


def held(known: KnownLogits, sequences: int = 4, positions: int = 20) -> set[tuple[int, int]]:
    """The sequences and positions whose logits are known."""
    return {(s, p) for s in range(sequences) for p in range(positions) if known.after(s, p)}


def test_long_suggestion_keeps_the_rows_that_the_next_keys_want() -> None:
    known = KnownLogits(16 * 3)
    for position in range(5, 12):
        known.note(0, position, row(position))
    assert held(known) == {(0, 5), (0, 6), (0, 7)}
    known.begin(0, 6)  # a key was typed that agrees with it
    known.note(0, 8, row(8))
    assert held(known) == {(0, 6), (0, 7), (0, 8)}, "what was typed past goes first"
    known.note(0, 9, row(9))
    assert held(known) == {(0, 6), (0, 7), (0, 8)}


def test_what_other_sequences_said_goes_before_what_this_one_says() -> None:
    known = KnownLogits(16 * 4)
    for position in (5, 6, 7):
        known.note(0, position, row(position))
    for position in (2, 3):
        known.note(1, position, row(position))
    assert held(known) == {(0, 5), (0, 6), (1, 2), (1, 3)}
    known.begin(0, 5)  # it is the other's turn again
    known.note(0, 7, row(7))
    assert held(known) == {(0, 5), (0, 6), (0, 7), (1, 2)}


def test_nothing_is_held_without_room() -> None:
    known = KnownLogits(0)
    known.note(0, 5, ROW)
    assert held(known) == set()


STEPS = st.tuples(st.sampled_from(["note", "cut", "begin"]), st.integers(0, 3), st.integers(0, 9))


@given(st.lists(STEPS, max_size=60))
def test_known_logits_stay_below_their_limit_and_are_never_wrong(
    steps: list[tuple[str, int, int]],
) -> None:
    known = KnownLogits(16 * 5)
    truth: dict[tuple[int, int], float] = {}
    for number, (step, sequence, position) in enumerate(steps):
        if step == "begin":
            known.begin(sequence, position)
        elif step == "cut":
            known.cut(sequence, position)
            truth = {k: v for k, v in truth.items() if k[0] != sequence or k[1] <= position}
        else:
            known.note(sequence, position, row(number))
            truth[sequence, position] = number
        kept = {place: known.after(*place)[0][0] for place in held(known)}
        assert kept.items() <= truth.items()
        assert len(kept) == min(5, len(truth)), "no more is dropped than there is no room for"
        if step == "note" and (sequence, position) not in kept:
            assert all(s == sequence and p < position for s, p in kept), "only what is further off"
        truth = {place: truth[place] for place in kept}
