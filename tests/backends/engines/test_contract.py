"""The contract suite over the engines there are, and what the decoding layer makes of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import engines, starter
from backends.backend import FinishReason, InfillRequest
from backends.config import ModelSettings
from backends.decoding.token_model import TokenModel
from backends.engines.contract import CHECKS, SOURCE, Check
from backends.errors import LoadFailed, ModelFileError
from backends.frames import Load
from benchmarks.reference import greedy
from benchmarks.same_weights import SameWeights
from tests.backends.decoding.harness import running
from tests.backends.decoding.test_scheduler import spy_prompts

pytestmark = pytest.mark.engine

SHIPPED = "llama-cpp, as shipped"  # quantised, on 16-bit cells; the others are in float32
LOCAL = (SHIPPED, "llama-cpp", "transformers", "mlx")
AFTER = "\n\n\ndef other():\n    pass\n"


def infill(prefix: str, **fields: Any) -> InfillRequest:
    """Return a request whose prompt does not depend on how fast this machine is just now."""
    return InfillRequest(prefix, AFTER, prompt_ms=60_000, **fields)


def installed(engine: str) -> str:
    """Return the name of an engine that can be loaded here; skip the test otherwise."""
    row = engines.ENGINES[engine]
    if importlib.util.find_spec(row.runtime) is None:
        pytest.skip(f"{row.distribution} is not installed")
    return engine


@pytest.fixture(scope="module", params=LOCAL)
def model(request: pytest.FixtureRequest) -> Iterator[TokenModel]:
    engine = installed(request.param.partition(",")[0])
    path, settings = starter.path(), ModelSettings()
    if request.param != SHIPPED:
        same: SameWeights = request.getfixturevalue("same_weights")
        path, settings = same.by_engine()[engine], ModelSettings(kv_type="f32")
    loaded = engines.load(Load(engine=engine, path=str(path), name="starter", settings=settings))
    yield loaded
    loaded.close()


@pytest.fixture
def empty(model: TokenModel) -> TokenModel:
    """The model, as a scheduler expects to find it."""
    for sequence in range(model.max_sequences):
        model.free(sequence)
    return model


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(model: TokenModel, check: Check) -> None:
    check(model)


@pytest.mark.parametrize("model", [SHIPPED], indirect=True)
def test_typing_gives_the_cold_text(empty: TokenModel) -> None:
    """Invariant 1 on real weights: near ties may fall either way, as the tolerance says.

    `test_same_text` has it for float32, where none does.
    """
    typed = "\n\ndef remove(path):\n    return os.remove(path)"
    same = 0
    with running(empty) as engine:
        prompts = spy_prompts(engine.scheduler)
        texts = [
            engine.infill(
                InfillRequest(SOURCE + typed[:n], AFTER, "file:///a.py", max_tokens=8)
            ).text
            for n in range(len(typed))
        ]
    for text, prompt in zip(texts, prompts, strict=True):
        same += text == greedy(empty, prompt, 8)
    assert same >= 0.9 * len(texts)


def test_an_infill_streams_and_counts_its_tokens(empty: TokenModel) -> None:
    prefix = "import os\n\n\ndef size(path):\n    return os.st"
    with running(empty) as engine:
        before = engine.scheduler.evaluated_tokens
        cold = engine.infill(infill(prefix, document="file:///a.py", max_tokens=3))
        evaluated = engine.scheduler.evaluated_tokens - before
        warm = engine.infill(infill(prefix + "at", document="file:///a.py", max_tokens=3))
    assert len(cold.chunks) > 1, "text comes as it is generated"
    assert cold.usage.cached_tokens == 0
    assert cold.usage.completion_tokens - 3 in (0, 1), "one may only complete the word typed"
    assert evaluated >= cold.usage.prompt_tokens
    assert warm.usage.cached_tokens >= warm.usage.prompt_tokens - 3
    assert cold.finish_reason == FinishReason.LENGTH


def test_text_ends_before_a_stop_string(empty: TokenModel) -> None:
    prefix = "import os\n\n\ndef size(path):\n    return os.st"
    with running(empty) as engine:
        whole = engine.infill(infill(prefix, max_tokens=12)).text
        stop = whole[len(whole) // 2 :][:2]
        cut = engine.infill(infill(prefix, max_tokens=12, stop=(stop,)))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == FinishReason.STOP


def test_a_cancelled_request_ends_and_the_next_is_whole(empty: TokenModel) -> None:
    request = infill(SOURCE, document="file:///a.py", max_tokens=200)
    short = infill("def add(a, b):\n    return ", max_tokens=4)
    with running(empty) as engine:
        expected = engine.infill(short).text
        ended = engine.submit(request)
        engine.scheduler.cancel(ended)
        assert engine.wait(ended).finish_reason == FinishReason.CANCELLED
        assert engine.infill(short).text == expected


@pytest.mark.parametrize("model", LOCAL[1:], indirect=True)
def test_documents_at_once_get_what_each_gets_alone(empty: TokenModel) -> None:
    requests = [
        infill(f"def f{n}(x):\n    return x + {n}\n\n\nprint(f{n}(", max_tokens=6) for n in range(5)
    ]
    with running(empty) as engine:
        alone = [engine.infill(request).text for request in requests]
        together = [engine.wait(id).text for id in [engine.submit(r) for r in requests]]
    assert together == alone


@pytest.mark.parametrize("engine", ["llama-cpp", "transformers", "mlx"])
def test_a_missing_model_is_named(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    with pytest.raises((LoadFailed, ModelFileError), match=r"none\.gguf"):
        engines.load(Load(engine=installed(engine), path=str(path), name="none"))


@pytest.mark.parametrize("engine", ["transformers", "mlx"])
def test_a_truncated_model_is_refused(
    engine: str, tmp_path: Path, same_weights: SameWeights
) -> None:
    folder = tmp_path / "torn"
    folder.mkdir()
    for file in same_weights.by_engine()[installed(engine)].iterdir():
        data = file.read_bytes()
        weights = file.suffix == ".safetensors"
        (folder / file.name).write_bytes(data[: len(data) // 2] if weights else data)
    with pytest.raises(ModelFileError, match="truncated"):
        engines.load(Load(engine=engine, path=str(folder), name="torn"))
