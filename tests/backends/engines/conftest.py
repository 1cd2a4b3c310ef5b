"""What the tests of engines need before their modules are imported, and the same weights."""

from __future__ import annotations

import importlib.util
import os

import pytest

from benchmarks.same_weights import SameWeights, write

# The contract's failed assertions show their values.
pytest.register_assert_rewrite("backends.engines.contract")
# As workers have it: threads that wait sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

collect_ignore_glob = (
    []
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    else ["test_transformers*.py", "test_hf_*.py"]
)


@pytest.fixture(scope="session")
def same_weights(tmp_path_factory: pytest.TempPathFactory) -> SameWeights:
    """The starter model in float32, in each engine's own format."""
    pytest.importorskip("safetensors")
    return write(tmp_path_factory.mktemp("same"))
