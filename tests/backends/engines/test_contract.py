"""The contract suite over the engines there are, and what the decoding layer makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends import engines, starter
from backends.backend import InfillRequest
from backends.decoding.token_model import TokenModel
from backends.engines.contract import CHECKS, SOURCE, Check
from backends.errors import LoadFailed
from backends.frames import Load
from benchmarks.reference import greedy
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", params=["llama-cpp"])
def model(request: pytest.FixtureRequest) -> Iterator[TokenModel]:
    loaded = engines.load(Load(engine=request.param, path=str(starter.path()), name="starter"))
    yield loaded
    loaded.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(model: TokenModel, check: Check) -> None:
    check(model)


def test_typing_gives_the_cold_text(model: TokenModel) -> None:
    """Invariant 1 on real weights: near ties may fall either way, as the tolerance says."""
    after = "\n\n\ndef other():\n    pass\n"
    typed = "\n\ndef remove(path):\n    return os.remove(path)"
    same = 0
    with running(model) as engine:
        prompts = spy_prompts(engine.scheduler)
        texts = [
            engine.infill(
                InfillRequest(SOURCE + typed[:n], after, "file:///a.py", max_tokens=8)
            ).text
            for n in range(len(typed))
        ]
    for text, prompt in zip(texts, prompts, strict=True):
        same += text == greedy(model, prompt, 8)
    assert same >= 0.9 * len(texts)


def test_a_missing_or_wrong_file_is_a_load_failure(tmp_path: object) -> None:
    with pytest.raises(LoadFailed):
        engines.load(Load(engine="llama-cpp", path=f"{tmp_path}/none.gguf", name="none"))
