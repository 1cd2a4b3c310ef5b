"""Makes the contract's failed assertions show their values; the same weights for every engine."""

from __future__ import annotations

import pytest

from benchmarks.same_weights import SameWeights, write

pytest.register_assert_rewrite("backends.engines.contract")


@pytest.fixture(scope="session")
def same_weights(tmp_path_factory: pytest.TempPathFactory) -> SameWeights:
    """The starter model in float32, in each engine's own format."""
    pytest.importorskip("safetensors")
    return write(tmp_path_factory.mktemp("same"))
