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


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=60))
def test_known_logits_stay_below_their_limit_and_are_never_wrong(
    steps: list[tuple[int, int, bool]],
) -> None:
    known = KnownLogits(16 * 5)
    truth: dict[tuple[int, int], float] = {}
    for number, (sequence, position, cut) in enumerate(steps):
        if cut:
            known.cut(sequence, position)
            truth = {k: v for k, v in truth.items() if k[0] != sequence or k[1] <= position}
        else:
            known.note(sequence, position, row(number))
            truth[sequence, position] = number
        held = {
            (s, p): rows[0][0] for s in range(4) for p in range(10) if (rows := known.after(s, p))
        }
        assert len(held) <= 5
        assert held.items() <= truth.items()
        if not cut:
            assert held[sequence, position] == number
