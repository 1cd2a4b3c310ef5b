"""Steering in the transformers adapter: who is steered, by how much, and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends import engines
from backends.backend import FinishReason, InfillRequest, SteeringUse
from backends.config import ModelSettings
from backends.decoding.token_model import Aborted, Feed, Logits, Steerable
from backends.engines import contract
from backends.errors import BackendError, BadRequest, Unsupported
from backends.frames import Load
from backends.steering.library import Library
from benchmarks import same_weights
from tests.backends.decoding.harness import running
from tests.backends.steering import vectors

TEXT = contract.SOURCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return same_weights.write(tmp_path_factory.mktemp("same")).transformers


def load(folder: Path, **settings: Any) -> Any:
    chosen = ModelSettings(**{"dtype": "float32", **settings})
    return engines.load(Load(engine="transformers", path=str(folder), name="s", settings=chosen))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[Any]:
    model = load(folder)
    yield model
    model.close()


@pytest.fixture
def model(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model with empty sequences and the vectors `a` and `b` (layer 2) and `c` (layer 4)."""
    monkeypatch.setenv("MIDSPAN_VECTORS_DIR", str(tmp_path / "vectors"))
    for sequence in range(loaded.max_sequences):
        loaded.free(sequence)
    vectors.save(loaded, ("a", 2), ("b", 2), ("c", 4))
    return loaded


def uses(model: Any, **coefficients: float) -> tuple[SteeringUse, ...]:
    named = [SteeringUse(name, coefficient) for name, coefficient in coefficients.items()]
    resolved: tuple[SteeringUse, ...] = model.resolve_steering(named)
    return resolved


def logits(model: Any, steering: tuple[SteeringUse, ...] = (), text: str = TEXT) -> Logits:
    """Return what follows `text`, cold."""
    tokens = model.tokenize(text)
    rows = model.forward([Feed(31, tokens, steering=steering)], contract.never)
    model.free(31)
    row: Logits = rows[0][-1].copy()
    return row


def hooks(model: Any) -> int:
    return sum(len(part._forward_hooks) for part in model._module.modules())


def test_a_model_that_can_steer_says_so(model: Any, folder: Path) -> None:
    assert model.can_steer
    assert isinstance(model, Steerable)
    compiled = load(folder, compile=True)
    assert not compiled.can_steer
    with pytest.raises(Unsupported):
        compiled.resolve_steering([SteeringUse("a", 1.0)])
    compiled.close()


def test_nothing_is_left_of_a_steered_pass(model: Any) -> None:
    before = logits(model)
    steered = logits(model, uses(model, a=50.0, c=-20.0))
    assert not np.array_equal(steered, before)
    assert np.array_equal(logits(model), before)
    assert hooks(model) == 0


def test_nothing_is_left_after_an_abort(model: Any) -> None:
    before = logits(model)
    polls = 0

    def abort() -> bool:
        nonlocal polls
        polls += 1
        return polls > 40  # behind the hooked layer, in the first pass

    with pytest.raises(Aborted):
        model.forward([Feed(3, model.tokenize(TEXT), steering=uses(model, a=50.0))], abort)
    assert hooks(model) == 0
    model.free(3)
    assert np.array_equal(logits(model), before)


@pytest.mark.parametrize("error", [RuntimeError("kernel"), ValueError("defect"), KeyboardInterrupt])
def test_nothing_is_left_after_an_error(
    model: Any, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    before = logits(model)
    last = model._module.model.layers[-1]

    def fail(*_: Any, **__: Any) -> None:
        assert hooks(model) == 2
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(last, "forward", fail)
        with pytest.raises((BackendError, ValueError, KeyboardInterrupt)):
            logits(model, uses(model, a=50.0, c=1.0))
    assert hooks(model) == 0
    model.free(31)
    assert np.array_equal(logits(model), before)


def test_only_the_rows_that_carry_steering_are_changed(model: Any) -> None:
    """The same batch with and without: who is not steered gets the same bits."""
    parts = [model.tokenize(TEXT)[i : i + 20 + i] for i in range(4)]

    def together(*steered: int) -> list[Logits]:
        feeds = [
            Feed(i, part, steering=uses(model, a=50.0, c=50.0) if i in steered else ())
            for i, part in enumerate(parts)
        ]
        rows = [own[-1].copy() for own in model.forward(feeds, contract.never)]
        for i in range(4):
            model.free(i)
        return rows

    plain, mixed = together(), together(1, 3)
    assert [np.array_equal(*pair) for pair in zip(plain, mixed, strict=True)] == [
        True,
        False,
        True,
        False,
    ]


def test_what_is_added_is_the_sum_of_coefficient_times_vector(model: Any) -> None:
    """Against a plain computation of the model's own, hooked by hand."""
    values = {
        name: torch.frombuffer(bytearray(Library().load(name)[0].values), dtype=torch.float32)
        for name in "abc"
    }
    added = {2: 30.0 * values["a"] - 12.5 * values["b"], 4: 7.0 * values["c"]}
    tokens = model.tokenize(TEXT)
    layers = model._module.model.layers
    handles = [
        layers[layer].register_forward_hook(lambda _m, _i, output, more=more: output + more)
        for layer, more in added.items()
    ]
    rows = model.forward([Feed(31, tokens)], contract.never)
    expected = rows[0][-1].copy()
    for handle in handles:
        handle.remove()
    model.free(31)
    got = logits(model, uses(model, a=30.0, b=-12.5, c=7.0))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not np.allclose(got, logits(model, uses(model, a=30.0, b=12.5, c=7.0)), atol=1e-2)
    assert not np.allclose(got, logits(model), atol=1e-2)


def test_a_steered_text_in_parts_is_the_steered_text(model: Any) -> None:
    steering = uses(model, a=-40.0)
    tokens = model.tokenize(TEXT)
    whole = logits(model, steering)
    model.forward([Feed(0, tokens[:30], steering=steering)], contract.never)
    model.forward([Feed(0, tokens[30:-1], steering=steering)], contract.never)
    parts = model.forward([Feed(0, tokens[-1:], steering=steering)], contract.never)[0][-1]
    assert contract.agree(parts, whole)
    assert not contract.agree(logits(model), whole)


def test_vectors_are_looked_for_before_anything_is_evaluated(model: Any) -> None:
    with pytest.raises(BadRequest, match=r"'nobody'.*a, b, c"):
        uses(model, nobody=1.0)
    for name in ("../a", "", "a/b", "a.b", "é"):
        with pytest.raises(BadRequest, match="cannot name"):
            model.resolve_steering([SteeringUse(name, 1.0)])


def test_a_vector_of_another_model_is_refused_naming_both(model: Any) -> None:
    mine = model.steering.model
    other = replace(mine, name="CoderX", hidden_size=64)
    Library().save(vectors.vector("wide", other))
    with pytest.raises(Unsupported, match=rf"(?s)'wide'.*CoderX.*64.*{mine.name}.*256"):
        uses(model, wide=1.0)
    Library().save(vectors.vector("tuned", replace(mine, fingerprint="0" * 32)))
    with pytest.raises(Unsupported, match="tuned"):
        uses(model, tuned=1.0)


def test_the_weights_are_what_a_vector_is_for_wherever_they_lie(model: Any, tmp_path: Path) -> None:
    moved = load(same_weights.write(tmp_path / "elsewhere").transformers)
    assert moved.steering.model == model.steering.model
    moved.close()


def test_requests_are_the_same_before_and_after_a_steered_one_and_its_cancel(model: Any) -> None:
    """Through the scheduler, with all its caches."""
    plain = InfillRequest(TEXT + "def size(", "\n", "file:///a.py", max_tokens=12)
    strong = (SteeringUse("a", 60.0), SteeringUse("c", -30.0))
    steered = replace(plain, steering=strong)
    with running(model) as engine:
        before = engine.infill(plain).text
        shifted = engine.infill(steered)
        assert shifted.text != before
        assert engine.infill(plain).text == before
        assert engine.infill(steered).text == shifted.text, "its own cells, again"
        long = engine.submit(replace(steered, document="file:///b.py", max_tokens=400))
        engine.scheduler.cancel(long)
        assert engine.wait(long).finish_reason in (FinishReason.CANCELLED, FinishReason.STOP)
        assert engine.infill(plain).text == before
        bad = replace(steered, steering=(SteeringUse("gone", 1.0),), document="file:///c.py")
        assert isinstance(engine.infill(bad).error, BadRequest)
        assert engine.infill(plain).text == before
        # Another vector of the same name: cells under the old one are of no use.
        vectors.save(model, ("c", 2), ("a", 3))
        assert engine.infill(steered).text != shifted.text
    assert hooks(model) == 0
