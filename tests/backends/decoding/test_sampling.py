"""Sampling against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from backends.backend import Sampling
from backends.decoding.sampling import pick

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], dtype=np.float32))


def frequencies(sampling: Sampling, allowed: list[int] | None = None) -> list[float]:
    rng = np.random.default_rng(0)
    ids = None if allowed is None else np.array(allowed, dtype=np.int32)
    picks = [pick(LOGITS, sampling, rng, ids) for _ in range(4000)]
    return [picks.count(token) / len(picks) for token in range(len(LOGITS))]


def test_pick_greedy_takes_the_most_likely() -> None:
    assert frequencies(Sampling(temperature=0.0)) == [1, 0, 0, 0, 0]


def test_pick_at_temperature_one_follows_the_probabilities() -> None:
    shares = frequencies(Sampling(temperature=1.0, top_k=0, top_p=1.0))
    assert shares == pytest.approx([0.5, 0.25, 0.15, 0.07, 0.03], abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=1.0, top_k=2, top_p=1.0), {0, 1}),
        (Sampling(temperature=1.0, top_k=0, top_p=0.6), {0, 1}),  # the one that crosses is kept
        (Sampling(temperature=1.0, top_k=0, top_p=0.0), {0}),  # never none
        (Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.2), {0, 1, 2}),
        (Sampling(temperature=5.0, top_k=1, top_p=1.0), {0}),
    ],
)
def test_pick_cuts_the_tail(sampling: Sampling, possible: set[int]) -> None:
    shares = frequencies(sampling)
    assert {token for token, share in enumerate(shares) if share > 0} == possible


def test_pick_among_allowed_never_leaves_them() -> None:
    assert frequencies(Sampling(), [2, 4]) == [0, 0, 1, 0, 0]
    shares = frequencies(Sampling(temperature=1.0, top_k=0, top_p=1.0), [2, 4])
    assert shares == pytest.approx([0, 0, 0.15 / 0.18, 0, 0.03 / 0.18], abs=0.03)


def test_pick_is_repeatable_with_a_seed() -> None:
    sampling = Sampling(temperature=1.0)
    runs = [[pick(LOGITS, sampling, np.random.default_rng(7)) for _ in range(1)] for _ in range(2)]
    assert runs[0] == runs[1]
