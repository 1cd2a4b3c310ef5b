"""The same float32 weights give the same greedy text on every local engine, cold and cached.

Each engine types the last characters of 50 cuts of real code through its own scheduler, so that
the last answer comes from cells evaluated for the keys before, forks, drafts and all; and then
evaluates the same prompt from nothing. One weight misread, one position off or one cell stale
shows as other text.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest

from backends import engines
from backends.backend import InfillRequest
from backends.config import ModelSettings
from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import TokenModel
from backends.frames import Load
from benchmarks import holdout, infill
from benchmarks.reference import Trace, greedy
from benchmarks.same_weights import SameWeights
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

pytestmark = pytest.mark.engine

CUTS = 50
BEFORE, AFTER = 220, 100  # characters of a document around the cursor
KEYS = 3  # typed before the last
MAX_TOKENS = 8

Document = tuple[str, str]


@dataclass(frozen=True)
class Answers:
    """Of every cut: its prompt's tokens, how many were cached, and the two texts."""

    prompts: list[list[int]]
    reused: list[int]
    cached: list[str]
    cold: list[str]
    margins: list[float]  # how far the closest pick of each text was from going the other way


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    files = infill.read(holdout.held_out_files()[:40])
    return [(cut.prefix[-BEFORE:], cut.suffix[:AFTER]) for cut in infill.cuts(files, CUTS, seed=0)]


def answers(engine: str, weights: SameWeights, documents: list[Document]) -> Answers:
    path = str(weights.by_engine()[engine])
    settings = ModelSettings(kv_type="f32")
    model = engines.load(Load(engine=engine, path=path, name="midspan-starter", settings=settings))
    try:
        prompts, cached, reused = type_all(model, documents)
        cold, margins = [], []
        for prompt in prompts:
            trace = Trace()
            cold.append(greedy(model, prompt, MAX_TOKENS, trace=trace))
            margins.append(min(trace.margins))
    finally:
        model.close()
    return Answers([prompt.tokens for prompt in prompts], reused, cached, cold, margins)


def type_all(
    model: TokenModel, documents: list[Document]
) -> tuple[list[TokenPrompt], list[str], list[int]]:
    """Type the last characters of every document; return what its last key came to."""
    prompts, texts, reused = [], [], []
    with running(model) as engine:
        seen = spy_prompts(engine.scheduler)
        for number, (prefix, suffix) in enumerate(documents):
            for keys_left in range(KEYS, -1, -1):
                outcome = engine.infill(
                    InfillRequest(
                        prefix[: len(prefix) - keys_left],
                        suffix,
                        f"file:///{number}.py",
                        max_tokens=MAX_TOKENS,
                        prompt_ms=60_000,  # a slow engine is to see as much as a fast one
                    )
                )
            prompts.append(seen[-1])
            texts.append(outcome.text)
            reused.append(outcome.usage.cached_tokens)
    return prompts, texts, reused


@pytest.fixture(scope="module")
def expected(same_weights: SameWeights, documents: list[Document]) -> Answers:
    """llama.cpp's, in float32 throughout.

    Its fused attention sums in 16 bits, whatever its cells are: its logits are then up to 0.007
    away from those of float64 (0.00001 without it), and one text in these 50 is another.
    """
    from backends.engines import llama_cpp

    made = llama_cpp.context_params

    def unfused(*arguments: Any, **named: Any) -> Any:
        params = made(*arguments, **named)
        params.flash_attn_type = llama_cpp.llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "context_params", unfused)
        return answers("llama-cpp", same_weights, documents)


def test_llama_cpp_s_cached_text_is_its_cold_text(expected: Answers) -> None:
    assert expected.cached == expected.cold
    assert sum(expected.reused) > 0.9 * sum(map(len, expected.prompts))
    assert len(set(expected.cold)) > CUTS / 2, "the model says something"


@pytest.mark.parametrize("engine", ["transformers", "mlx"])
def test_an_engine_gives_llama_cpp_s_text(
    engine: str, expected: Answers, same_weights: SameWeights, documents: list[Document]
) -> None:
    row = engines.ENGINES[engine]
    if importlib.util.find_spec(row.runtime) is None:
        pytest.skip(f"{row.distribution} is not installed")
    given = answers(engine, same_weights, documents)
    assert given.prompts == expected.prompts
    assert given.cold == expected.cold
    assert given.cached == expected.cold
    assert given.reused == expected.reused
