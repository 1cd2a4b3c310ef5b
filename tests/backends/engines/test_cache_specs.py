"""What a model caches is the same from its file, from its folder and from the model that runs."""

from __future__ import annotations

from typing import Any

import pytest

from backends import cache_spec, catalogue, engines, memory
from backends.config import ModelSettings
from backends.decoding.token_model import TokenModel
from backends.frames import Load
from benchmarks.same_weights import SameWeights

pytestmark = pytest.mark.engine


def load(engine: str, weights: SameWeights, **settings: Any) -> TokenModel:
    path = str(weights.by_engine()[engine])
    return engines.load(Load(engine, path, "starter", ModelSettings(**settings)))


@pytest.mark.parametrize("engine", ["llama-cpp", "transformers", "mlx"])
def test_header_and_live_model_agree_with_what_is_allocated(
    engine: str, same_weights: SameWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not catalogue.is_installed(engines.ENGINES[engine]):
        pytest.skip(f"{engine} is not installed")
    monkeypatch.setattr(memory, "MAX_CELLS", 2048)
    model = load(engine, same_weights, kv_type="f32")
    try:
        live = cache_spec.from_live(model)
        header = catalogue.read_header(same_weights.by_engine()[engine])
        assert live.layers == cache_spec.from_header(header).layers
        assert live.token_bytes("f32") == 6 * 2 * (64 + 64) * 4
        assert model.cache_bytes == model.cache_cells * live.token_bytes("f32")
    finally:
        model.close()
