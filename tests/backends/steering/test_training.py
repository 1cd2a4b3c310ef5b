"""Training on the starter model's weights: the vector moves the held-out rate, others do not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends import engines
from backends.config import ModelSettings
from backends.decoding.token_model import Feed
from backends.errors import BadRequest, Unsupported
from backends.frames import Load
from backends.steering import pairs, search, training, vector_file
from backends.steering.measures import MEASURES
from backends.steering.pairs import Pair
from backends.steering.training import Plan, split, train
from benchmarks import same_weights
from tests.backends.decoding.hash_model import HashModel

# Not importorskip: what workers have in their environment must be there before torch is imported.
if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("transformers is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = same_weights.write(tmp_path_factory.mktemp("same")).transformers
    settings = ModelSettings(dtype="float32", threads=1)
    loaded = engines.load(Load("transformers", str(folder), "s", settings))
    yield loaded
    loaded.close()


def plan(name: str, count: int = 24, **options: Any) -> Plan:
    return Plan(f"my-{name}", pairs.read(name)[:count], name, **options)


@pytest.mark.parametrize("name", ["docstrings", "type-hints"])
def test_a_trained_vector_moves_the_held_out_rate_and_random_ones_do_not(
    model: Any, name: str
) -> None:
    vector = train(model, plan(name, measure=MEASURES[name]))
    assert vector.held_out is not None
    assert vector.held_out.prompts == 8
    margin, rate = vector.held_out.effects
    assert rate.trained.change >= 0.5
    assert rate.trained.low > 0.2
    assert abs(rate.random.change) <= 0.2
    assert margin.trained.low > 1.0
    assert margin.trained.low > margin.random.high
    assert vector_file.parse(vector_file.encode(vector)) == vector
    assert vector.layer == 4
    assert all(not part._forward_hooks for part in model._module.modules())


def test_brevity_ends_held_out_functions_sooner_and_random_vectors_do_not(model: Any) -> None:
    """All that the small model can: 20 prompts, since few of its bodies end at all."""
    vector = train(model, plan("brevity", 60, measure=MEASURES["brevity"]))
    assert vector.held_out is not None
    margin, rate = vector.held_out.effects
    assert rate.trained.low > 0
    assert rate.trained.change > rate.random.high
    assert rate.random.change < 0.1
    assert margin.trained.low > margin.random.high


def test_a_search_takes_what_does_most_to_the_pairs_that_are_learnt_from(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "COEFFICIENTS", (0.01, 0.4))
    said: list[str] = []
    made = plan("docstrings", 12, layer=4, measure=MEASURES["docstrings"])
    found = search.choose(model, made, said.append)
    assert (found.layer, found.coefficient) == (4, 0.4)
    assert len(said) == 2
    with pytest.raises(BadRequest, match="measure"):
        search.choose(model, plan("docstrings", 12))


def test_a_search_looks_at_the_upper_layers() -> None:
    assert search.candidates(6) == [2, 3, 4, 5]
    assert search.candidates(24) == [8, 11, 14, 17, 20, 23]
    assert search.candidates(1) == [0]


def test_a_negative_coefficient_pushes_the_other_way(model: Any) -> None:
    vector = train(model, plan("type-hints", 9, coefficient=-0.4))
    assert vector.held_out is not None
    (margin,) = vector.held_out.effects
    assert margin.trained.high < 0


def test_a_vector_is_the_mean_difference_as_long_as_a_state(model: Any) -> None:
    made = plan("docstrings", 8, layer=1)
    learnt, _ = split(made.pairs, made.seed)

    def states(text: str) -> Any:
        with model.steering.recorded(1) as passes:
            model.forward([Feed(0, model.tokenize(text))], lambda: False)
        model.free(0)
        return np.concatenate(passes)

    both = [(states(pair.positive), states(pair.negative)) for pair in learnt]
    difference = np.mean([one[-1] - other[-1] for one, other in both], axis=0)
    length = np.mean([np.linalg.norm(own, axis=1).mean() for one in both for own in one])
    values = np.frombuffer(train(model, made).values, "<f4")
    np.testing.assert_allclose(values, difference / np.linalg.norm(difference) * length, rtol=1e-3)


def test_mean_compares_what_the_texts_differ_in(model: Any) -> None:
    own = [
        Pair(f"x = {n}\nprint(x)", f"x = {n}\nreturn x", f"x = {n}\n", "print(x)", "return x")
        for n in range(9)
    ]
    made = train(model, Plan("m", tuple(own), "own", position="mean"))
    assert made.made.position == "mean"
    assert made.held_out is not None
    assert made.held_out.effects[0].trained.change > 0


def test_training_is_the_same_each_time(model: Any) -> None:
    first, second = (train(model, plan("type-hints", 8)) for _ in range(2))
    assert first == second
    other = train(model, plan("type-hints", 8, seed=1))
    assert other.values != first.values


def test_held_out_pairs_are_never_learnt_from() -> None:
    everything = pairs.read("docstrings")
    learnt, held_out = split(everything, 3)
    assert len(learnt) == 40
    assert len(held_out) == 20
    assert not set(learnt) & set(held_out)
    assert {*learnt, *held_out} == set(everything)


def test_what_can_not_be_trained_is_refused(model: Any) -> None:
    for layer in (-1, 6):
        with pytest.raises(BadRequest, match="layers 0 to 5"):
            train(model, plan("docstrings", layer=layer))
    with pytest.raises(Unsupported, match="another engine"):
        train(HashModel(), plan("docstrings"))
    alike = [Pair(f"{n} a b", f"{n} a b", f"{n}", "a", "b") for n in range(8)]
    with pytest.raises(BadRequest, match="no difference"):
        train(model, Plan("m", tuple(alike), "own"))


def test_a_failing_model_leaves_no_sequence_behind(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise RuntimeError

    monkeypatch.setattr(training, "_log_softmax", fail)
    with pytest.raises(RuntimeError):
        train(model, plan("docstrings", 8))
    assert [model.length(sequence) for sequence in range(model.max_sequences)] == [0] * 32
