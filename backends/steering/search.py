"""Which layer and coefficient suit a vector best: tried on the pairs that it is made from.

Rule: what is held out is never looked at. Half of the pairs judge the vector that is made of the
other half, and the other way round, beside a random direction of the same length. Works through
the `TokenModel` seam, as `training` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from backends.backend import SteeringUse
from backends.decoding.token_model import TokenModel
from backends.errors import BadRequest
from backends.steering.held import Uses
from backends.steering.measures import Measure
from backends.steering.pairs import Pair
from backends.steering.training import (
    Plan,
    Progress,
    difference,
    generate,
    split,
    steering_of,
    tokens_of,
    vector,
)

COEFFICIENTS: Final = (0.2, 0.3, 0.4, 0.5)
MAX_LAYERS: Final = 6
LOWEST: Final = 1 / 3  # of the way up; below, states are about words and not about style


@dataclass(frozen=True, slots=True)
class Try:
    """What a layer and a coefficient did to the measure of the training prompts."""

    layer: int
    coefficient: float
    trained: float  # the measure's mean
    random: float

    @property
    def gain(self) -> float:
        """What the direction does beyond any other of its length."""
        return self.trained - self.random


def choose(model: TokenModel, plan: Plan, progress: Progress = lambda _: None) -> Plan:
    """Return the plan with the best layer, one of its own unless it has one, and coefficient.

    Raises Unsupported, BadRequest. Takes as many generations as there are layers and coefficients.
    """
    measure = plan.measure
    if measure is None:
        raise BadRequest("A search needs something to count in generated text: give a measure.")
    learnt, _ = split(plan.pairs, plan.seed)
    count = steering_of(model).model.layers
    chosen = candidates(count) if plan.layer is None else [plan.layer]
    tries = []
    for layer in chosen:
        for one in _tries(model, plan, measure, layer, (learnt[::2], learnt[1::2])):
            progress(
                f"layer {one.layer}, coefficient {one.coefficient:g}: {one.trained:.2f}, "
                f"random directions {one.random:.2f}"
            )
            tries.append(one)
    # Of equals the gentlest.
    best = max(tries, key=lambda one: (round(one.gain, 6), -one.coefficient))
    return replace(plan, layer=best.layer, coefficient=best.coefficient)


def candidates(layers: int) -> list[int]:
    """Return the layers to try, of a model that has so many.

    >>> candidates(6), candidates(24)
    ([2, 3, 4, 5], [8, 11, 14, 17, 20, 23])
    """
    lowest = round(layers * LOWEST)
    count = min(MAX_LAYERS, layers - lowest)
    return [int(layer) for layer in np.linspace(lowest, layers - 1, count).round()]


def _tries(
    model: TokenModel,
    plan: Plan,
    measure: Measure,
    layer: int,
    halves: tuple[Sequence[Pair], Sequence[Pair]],
) -> list[Try]:
    steering = steering_of(model)
    numbers = np.random.default_rng(plan.seed)
    # For each half that judges: what the other says, and anything.
    held: list[tuple[Sequence[Pair], str, str]] = []
    for number, (learn, judge) in enumerate((halves, halves[::-1])):
        direction, length = difference(model, steering, layer, plan.position, learn)
        versions = f"search {layer} {number}", f"search {layer} {number} at random"
        for version, along in zip(
            versions, (direction, numbers.standard_normal(len(direction))), strict=True
        ):
            steering.hold(vector(plan, layer, along, length, steering.model), version)
        held.append((judge, *versions))

    def mean(coefficient: float, which: int) -> float:
        scores: list[float] = []
        for judge, *versions in held:
            use: Uses = (SteeringUse(plan.name, coefficient, versions[which]),)
            prompts = [tokens_of(model, pair.prompt) for pair in judge]
            scores += map(measure.score, generate(model, prompts, measure.tokens, use))
        return float(np.mean(scores))

    return [Try(layer, c, mean(c, 0), mean(c, 1)) for c in COEFFICIENTS]
