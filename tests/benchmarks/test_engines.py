"""`midspan bench engines`: real workers, and what is made of their samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.backend import Usage
from benchmarks import engines
from benchmarks.engines import Sample


def sample(key: int, ms: float, evaluated: int, produced: int = 0) -> Sample:
    return Sample(key, ms, 500.0, Usage(100, 100 - evaluated, produced), "x")


def test_summary_keeps_first_keys_and_later_ones_apart() -> None:
    samples = [sample(0, 90.0, 100, 8), sample(1, 3.0, 2, 64), sample(2, 5.0, 0, 64)]
    result = engines.summary(samples)
    assert result["first_token_ms"]["cold"] == {"p50": 90.0, "p95": 90.0}
    assert result["first_token_ms"]["per_key"]["p50"] == 4.0
    assert result["evaluated_tokens"]["per_key"] == {"p50": 1.0, "max": 2}
    assert result["tokens_per_second"] == 16.0


def test_documents_are_typed_within_a_line() -> None:
    places = engines.documents(5, 6, seed=1)
    assert len(places) == 5
    for place in places:
        assert len(place.typed) == 6
        assert "\n" not in place.typed
        assert len(place.prefix) <= engines.BEFORE
        assert len(place.suffix) <= engines.AFTER


@pytest.mark.engine
def test_a_real_worker_is_measured() -> None:
    pytest.importorskip("safetensors")
    said: list[str] = []
    result = engines.run(names=["llama-cpp"], places=2, keys=2, tokens=4, progress=said.append)
    row = result["results"]["llama-cpp"]
    assert row["rss_mib"]["loaded"] > 20
    assert row["load_ms"] > 0
    assert row["first_token_ms"]["cold"]["p50"] > 0
    assert row["evaluated_tokens"]["cold"]["p50"] > row["evaluated_tokens"]["per_key"]["max"]
    assert row["same_text_as_llama-cpp"]["count"] == 6
    assert any("llama-cpp" in line for line in said)


@pytest.mark.engine
def test_an_engine_that_fails_is_named_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    from benchmarks.same_weights import SameWeights

    right = SameWeights.by_engine
    wrong = {"transformers": Path("nowhere")}
    monkeypatch.setattr(SameWeights, "by_engine", lambda self: right(self) | wrong)
    names = ["transformers", "llama-cpp"]
    result = engines.run(names=names, places=1, keys=1, tokens=2)["results"]
    assert "error" in result["transformers"]
    assert result["llama-cpp"]["first_token_ms"]["cold"]["p50"] > 0
