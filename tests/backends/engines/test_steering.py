"""Steering in each engine that can: who is steered, by how much, and what is left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import engines
from backends.backend import FinishReason, InfillRequest, SteeringUse
from backends.config import ModelSettings
from backends.decoding.token_model import Aborted, Feed, Logits, Steerable
from backends.engines import contract
from backends.errors import BackendError, BadRequest, Unsupported
from backends.frames import Load
from backends.steering import held
from backends.steering.library import Library
from benchmarks.same_weights import SameWeights
from tests.backends.decoding.harness import running
from tests.backends.steering import vectors

TEXT = contract.SOURCE
HEARD_AT = {"transformers": 40, "mlx": 4}  # polls: behind the steered layer, in the first pass


def load(engine: str, folder: Path, **settings: Any) -> Any:
    chosen = ModelSettings(**{"dtype": "float32", **settings})
    return engines.load(Load(engine=engine, path=str(folder), name="s", settings=chosen))


@pytest.fixture(scope="module", params=held.ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(engines.ENGINES[name].runtime)
    return name


@pytest.fixture(scope="module")
def loaded(engine: str, same_weights: SameWeights) -> Iterator[Any]:
    model = load(engine, same_weights.by_engine()[engine])
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


def layers(model: Any) -> Any:
    return model.steering._modules


def hooks(model: Any) -> int:
    """Return how many layers put out something else than they compute."""
    return sum(
        bool(getattr(layer, "_forward_hooks", ())) or type(layer).__call__.__name__ == "call"
        for layer in layers(model)
    )


def by_hand(model: Any, added: dict[int, Any]) -> Logits:
    """Return what follows TEXT, with `added` to what layers put out."""
    tokens = model.tokenize(TEXT)
    if hasattr(model, "_module"):
        import torch

        tensors = {layer: torch.from_numpy(values) for layer, values in added.items()}
        handles = [
            layers(model)[layer].register_forward_hook(lambda _m, _i, out, more=more: out + more)
            for layer, more in tensors.items()
        ]
        row: Logits = model.forward([Feed(31, tokens)], contract.never)[0][-1].copy()
        for handle in handles:
            handle.remove()
        model.free(31)
        return row
    import mlx.core as mx
    from mlx_lm.models.base import create_attention_mask

    with mx.stream(model._stream):
        inner = model._model.model
        states = inner.embed_tokens(mx.array([tokens]))
        mask = create_attention_mask(states, None)
        for number, layer in enumerate(inner.layers):
            states = layer(states, mask, None)
            if number in added:
                states = states + mx.array(added[number])
        return np.array(inner.embed_tokens.as_linear(inner.norm(states))[0, -1])


def test_a_model_that_can_steer_says_so(model: Any) -> None:
    assert model.can_steer
    assert isinstance(model, Steerable)


def test_a_compiled_model_refuses(same_weights: SameWeights) -> None:
    pytest.importorskip("transformers")
    compiled = load("transformers", same_weights.transformers, compile=True)
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
        return polls > HEARD_AT[type(model).__module__.rpartition(".")[2]]

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
    last = layers(model)[-1]

    def fail(*_: Any, **__: Any) -> None:
        assert hooks(model) == 2
        raise error

    with monkeypatch.context() as broken:
        if isinstance(last, dict):  # as MLX's modules are
            broken.setitem(last, "mlp", fail)
        else:
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
    """Against a plain computation of the model's own, with the layers called by hand."""
    a, b, c = (np.frombuffer(Library().load(name)[0].values, "<f4") for name in "abc")
    expected = by_hand(model, {2: 30.0 * a - 12.5 * b, 4: 7.0 * c})
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


def test_the_weights_are_what_a_vector_is_for_wherever_they_lie(
    model: Any, engine: str, same_weights: SameWeights, tmp_path: Path
) -> None:
    path = same_weights.by_engine()[engine]
    moved = load(engine, Path(shutil.copytree(path, tmp_path / "elsewhere" / path.name)))
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
