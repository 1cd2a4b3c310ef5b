from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.backend import Sampling
from backends.errors import BadRequest
from backends.sampling_profile import modulate

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_modulate_always_gives_what_engines_take(arousal: float, valence: float) -> None:
    got = modulate(arousal, valence)
    assert 0 <= got.temperature <= 2
    assert 0 < got.top_p <= 1


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1))
def test_modulate_is_calmer_with_arousal_and_wider_with_valence(
    arousal: float, valence: float, more: float
) -> None:
    got = modulate(arousal, valence)
    assert modulate(arousal + more, valence).temperature <= got.temperature
    assert modulate(arousal, valence + more).top_p >= got.top_p


@pytest.mark.parametrize(
    ("arousal", "valence", "temperature", "top_p"),
    [
        (0, 0, 0.7, 0.9),
        (0, 1, 0.7, 1.0),
        (1, 0, 0.5, 0.9),
        (-1, -1, 0.9, 0.8),
        (3.5, 0, 0.0, 0.9),  # 0 is greedy, and stays 0
        (99, 99, 0.0, 1.0),
        (-99, -99, 2.0, 0.01),
    ],
)
def test_modulate_table(arousal: float, valence: float, temperature: float, top_p: float) -> None:
    got = modulate(arousal, valence)
    assert got.temperature == pytest.approx(temperature)
    assert got.top_p == pytest.approx(top_p)


def test_modulate_keeps_the_rest_of_its_base() -> None:
    got = modulate(0, 0, Sampling(top_k=7, min_p=0.1, seed=3))
    assert (got.top_k, got.min_p, got.seed) == (7, 0.1, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_modulate_refuses_what_is_no_number(value: float) -> None:
    with pytest.raises(BadRequest):
        modulate(value, 0)
    with pytest.raises(BadRequest):
        modulate(0, value)
