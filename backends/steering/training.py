"""Making a steering vector from contrast pairs, and measuring what it does.

Rule: works through the `TokenModel` seam and a model's own steering; knows no runtime. The pairs
that a vector is measured with are never those it is made from, and beside its effect stands that
of random directions of the same length.

The vector is the mean difference of a layer's states, positive less negative, made as long as the
states of that layer are on average.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from backends import __version__
from backends.backend import SteeringUse
from backends.decoding.token_model import Feed, TokenModel
from backends.errors import BadRequest, Unsupported
from backends.steering.held import States, Uses
from backends.steering.measures import Measure, shift
from backends.steering.pairs import Pair
from backends.steering.vector_file import Effect, HeldOut, Made, ModelIdentity, Vector

Direction = npt.NDArray[np.float64]  # shape (hidden size,)

HELD_OUT: Final = 1 / 3  # of the pairs
RANDOM_DIRECTIONS: Final = 3
MARGIN: Final = "log-probability margin of the wanted text, nats"
COEFFICIENT: Final = 0.4
TOGETHER: Final = 16  # prompts that are generated for at the same time
PREFILL: Final = 256  # tokens of one pass


class Steering(Protocol):
    """What a model offers that vectors can be made for."""

    @property
    def model(self) -> ModelIdentity:
        """What a vector is for."""
        ...

    def hold(self, vector: Vector, version: str) -> None:
        """Take a vector for feeds that name it with this version."""
        ...

    def recorded(self, layer: int) -> AbstractContextManager[list[States]]:
        """Collect a layer's states, an array for each pass."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How a vector is made and measured."""

    name: str
    pairs: tuple[Pair, ...]
    called: str  # what the pairs are called
    layer: int | None = None  # None: two thirds up
    position: str = "last"  # the state after the last token, or the mean where texts differ
    coefficient: float = COEFFICIENT
    measure: Measure | None = None
    seed: int = 0


Progress = Callable[[str], None]


def train(model: TokenModel, plan: Plan, progress: Progress = lambda _: None) -> Vector:
    """Return a vector with its held-out figures. Raises Unsupported, BadRequest."""
    steering = steering_of(model)
    identity = steering.model
    layer = 2 * identity.layers // 3 if plan.layer is None else plan.layer
    if not 0 <= layer < identity.layers:
        raise BadRequest(f"{identity.name} has the layers 0 to {identity.layers - 1}, not {layer}.")
    trained_on, held_out = split(plan.pairs, plan.seed)
    progress(f"{len(trained_on)} pairs to learn from, {len(held_out)} held out; layer {layer} …")
    direction, length = difference(model, steering, layer, plan.position, trained_on)
    numbers = np.random.default_rng(plan.seed)
    others = [numbers.standard_normal(len(direction)) for _ in range(RANDOM_DIRECTIONS)]
    uses = []
    for number, along in enumerate([direction, *others]):
        version = f"training {number}"
        steering.hold(vector(plan, layer, along, length, identity), version)
        uses.append((SteeringUse(plan.name, plan.coefficient, version),))
    figures = _effects(model, plan, held_out, uses, progress)
    size = round(float(np.linalg.norm(direction)) / length, 4)
    made = Made(plan.called, len(trained_on), plan.position, plan.seed, size, __version__)
    return replace(vector(plan, layer, direction, length, identity), made=made, held_out=figures)


def vector(plan: Plan, layer: int, along: Direction, length: float, model: ModelIdentity) -> Vector:
    """Return the vector of that direction and length; nothing is said of how it was made."""
    values = along * (length / np.linalg.norm(along))
    made = Made(plan.called, 0)
    return Vector(plan.name, layer, values.astype("<f4").tobytes(), model, made, None)


def steering_of(model: TokenModel) -> Steering:
    """Return a model's steering. Raises Unsupported where it has none."""
    steering = getattr(model, "steering", None)
    if steering is None:
        raise Unsupported(f"Steering needs another engine than {model.description}.")
    return cast(Steering, steering)


def split(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to learn from and those held out."""
    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    count = max(1, round(len(shuffled) * HELD_OUT))
    return shuffled[count:], shuffled[:count]


# -- the direction ----------------------------------------------------------------------------


def difference(
    model: TokenModel, steering: Steering, layer: int, position: str, pairs: Sequence[Pair]
) -> tuple[Direction, float]:
    """Return the mean difference of states, and how long a state is on average."""
    differences: list[States] = []
    lengths: list[float] = []
    for pair in pairs:
        texts = [tokens_of(model, pair.positive), tokens_of(model, pair.negative)]
        alike = _alike(*texts) if position == "mean" else 0
        states = [_states(model, steering, layer, tokens) for tokens in texts]
        positive, negative = (
            own[-1] if position == "last" else own[min(alike, len(own) - 1) :].mean(axis=0)
            for own in states
        )
        differences.append(positive - negative)
        lengths.extend(float(np.linalg.norm(own, axis=1).mean()) for own in states)
    direction: Direction = np.asarray(differences, np.float64).mean(axis=0)
    if not np.linalg.norm(direction) > 0:
        raise BadRequest("The pairs make no difference in this layer: both texts end alike there.")
    return direction, float(np.mean(lengths))


def tokens_of(model: TokenModel, text: str) -> list[int]:
    """Return a text as a prompt: what is too long loses its beginning."""
    tokens = model.tokenize(text)[-(model.context_length // 2) :]
    return tokens if model.vocab.bos is None else [model.vocab.bos, *tokens]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    unlike = (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(unlike, min(len(one), len(other)))


def _states(model: TokenModel, steering: Steering, layer: int, tokens: list[int]) -> States:
    try:
        with steering.recorded(layer) as passes:
            _append(model, 0, tokens, ())
    finally:
        model.free(0)
    return np.concatenate(passes)


# -- its effect -------------------------------------------------------------------------------


def _effects(
    model: TokenModel,
    plan: Plan,
    held_out: Sequence[Pair],
    uses: Sequence[Uses],
    progress: Progress,
) -> HeldOut:
    """Return what the first of `uses`, and the others, random ones, change for held-out prompts."""
    progress("how likely the wanted text is, without and with the vector …")
    margins = [[_margin(model, pair, use) for pair in held_out] for use in ((), *uses)]
    effects = [_beside_random(MARGIN, margins)]
    if plan.measure is not None:
        measure = plan.measure
        progress(f"generating for {len(held_out)} prompts, without and with the vector …")
        prompts = [tokens_of(model, pair.prompt) for pair in held_out]
        scores = [
            [measure.score(text) for text in generate(model, prompts, measure.tokens, use)]
            for use in ((), *uses)
        ]
        effects.append(_beside_random(measure.name, scores))
    return HeldOut(plan.coefficient, len(held_out), tuple(effects))


def _beside_random(measure: str, numbers: Sequence[Sequence[float]]) -> Effect:
    """Return the shift by the vector and that by the mean of random ones, of one list each."""
    before, trained, *others = numbers
    at_random = [float(number) for number in np.mean(others, axis=0)]
    return Effect(measure, shift(before, trained), shift(before, at_random))


def _margin(model: TokenModel, pair: Pair, use: Uses) -> float:
    """Return by how many nats the wanted text is likelier than the unwanted one."""
    prompt = tokens_of(model, pair.prompt)
    wanted, unwanted = (
        _log_probability(model, prompt, model.tokenize(text), use)
        for text in (pair.wanted, pair.unwanted)
    )
    return wanted - unwanted


def _log_probability(model: TokenModel, prompt: list[int], rest: list[int], use: Uses) -> float:
    rest = rest[: PREFILL // 2]
    try:
        _append(model, 0, prompt[:-1], use)
        feed = Feed(0, [prompt[-1], *rest[:-1]], outputs=len(rest), steering=use)
        rows = [row.astype(np.float64) for row in model.forward([feed], _never)[0]]
    finally:
        model.free(0)
    return sum(_log_softmax(row, token) for row, token in zip(rows, rest, strict=True))


def _log_softmax(row: npt.NDArray[np.float64], token: int) -> float:
    top = row.max()
    return float(row[token] - top - np.log(np.exp(row - top).sum()))


def generate(
    model: TokenModel, prompts: Sequence[list[int]], most: int, use: Uses
) -> Iterator[str]:
    """Yield what greedily follows each prompt, `most` tokens at most."""
    together = min(TOGETHER, model.max_sequences)
    for begin in range(0, len(prompts), together):
        yield from _generate_together(model, prompts[begin : begin + together], most, use)


def _generate_together(
    model: TokenModel, prompts: Sequence[list[int]], most: int, use: Uses
) -> Iterator[str]:
    ends = model.vocab.end_tokens | set(model.vocab.control_tokens.values())
    texts: list[list[int]] = [[] for _ in prompts]
    try:
        following = {
            number: int(_append(model, number, prompt, use).argmax())
            for number, prompt in enumerate(prompts)
        }
        for _ in range(most):
            following = {n: token for n, token in following.items() if token not in ends}
            for number, token in following.items():
                texts[number].append(token)
            if not following:
                break
            feeds = [Feed(number, [token], steering=use) for number, token in following.items()]
            rows = model.forward(feeds, _never)
            following = {n: int(own[-1].argmax()) for n, own in zip(following, rows, strict=True)}
    finally:
        for number in range(len(prompts)):
            model.free(number)
    for tokens in texts:
        yield b"".join(map(model.token_bytes, tokens)).decode(errors="replace")


def _append(model: TokenModel, sequence: int, tokens: list[int], use: Uses) -> Any:
    """Append tokens to a sequence; return the logits after the last, None for no tokens."""
    row = None
    step = min(PREFILL, model.max_batch)
    for begin in range(0, len(tokens), step):
        part = tokens[begin : begin + step]
        row = model.forward([Feed(sequence, part, steering=use)], _never)[0][-1]
    return row


def _never() -> bool:
    return False
