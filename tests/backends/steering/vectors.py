"""Steering vectors for tests: random directions for a given model."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.steering.library import Library
from backends.steering.vector_file import Made, ModelIdentity, Vector

MODEL = ModelIdentity("small", "qwen2", 8, 3, "0123456789abcdef")


def vector(name: str = "v", model: ModelIdentity = MODEL, layer: int = 1, seed: int = 0) -> Vector:
    values = np.random.default_rng(seed).standard_normal(model.hidden_size).astype("<f4")
    return Vector(name, layer, values.tobytes(), model, Made("none", 0), None)


def save(model: Any, *vectors: tuple[str, int]) -> None:
    """Put vectors (name, layer) for a loaded model into the user's library."""
    for seed, (name, layer) in enumerate(vectors):
        Library().save(vector(name, model.steering.model, layer, seed), overwrite=True)
