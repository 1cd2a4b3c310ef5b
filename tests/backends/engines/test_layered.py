"""Models with recurrent or sliding-window layers through llama.cpp: cached equals cold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends import engines
from backends.backend import InfillRequest
from backends.decoding.token_model import Feed, TokenModel
from backends.frames import Load
from benchmarks.reference import Trace, greedy
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts
from tests.backends.engines import layered_gguf

pytestmark = pytest.mark.engine

SOURCE = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n\n\n" * 8
TOLERANCE = 0.02  # logits: the weights are float32, the KV cells 16 bits


def load(path: Path) -> TokenModel:
    return engines.load(Load("llama-cpp", str(path), "random"))


@pytest.fixture(scope="module", params=["hybrid", "sliding"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TokenModel, TokenModel]]:
    """A model for the scheduler, and the same to evaluate cold."""
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    getattr(layered_gguf, f"write_{request.param}")(path)
    warm, cold = load(path), load(path)
    assert warm.can_rewind == (request.param == "sliding")
    # The catalogue knows no fill-in-the-middle of these families; their tokens are Qwen's here.
    warm.vocab = replace(warm.vocab, architecture="qwen2")
    yield warm, cold
    warm.close()
    cold.close()


def test_every_token_before_matters(models: tuple[TokenModel, TokenModel]) -> None:
    # Else a wrong reuse would not be seen here.
    _, cold = models
    tokens = cold.tokenize(SOURCE)[:80]
    seen = []
    for changed in (None, 0, 40, 78):
        ids = [*tokens]
        if changed is not None:
            ids[changed] = (ids[changed] + 1) % 256
        cold.free(0)
        seen.append(cold.forward([Feed(0, ids)], lambda: False)[0][-1].copy())
    cold.free(0)
    assert all(np.abs(other - seen[0]).max() > 5 * TOLERANCE for other in seen[1:])


def test_layered_cached_generation_equals_cold_generation(
    models: tuple[TokenModel, TokenModel],
) -> None:
    warm, cold = models
    before, after = SOURCE, "\n\nprint(size('a'))\n" + SOURCE
    keys = [*"    value = si", "\b", "\b", *"x(p", "\n", *"    re"]
    evaluated = []
    with running(warm) as engine:
        prompts = spy_prompts(engine.scheduler)
        for key in keys:
            before = before[:-1] if key == "\b" else before + key
            got = engine.infill(InfillRequest(before, after, "file:///a.py", max_tokens=6))
            trace = Trace()
            expected = greedy(cold, prompts[-1], 6, trace=trace)
            assert got.text == expected or min(trace.margins) < TOLERANCE
            evaluated.append(got.usage.prompt_tokens - got.usage.cached_tokens)
    for sequence in range(warm.max_sequences):
        warm.free(sequence)
    # A model that can't be trimmed goes back to the anchor: what was typed since is evaluated.
    assert evaluated[0] > 100
    assert max(evaluated[1:]) < 30
