from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks.swap import Swap, cold_summary, warm_summary


def test_warm_summary_spreads_time_and_tokens() -> None:
    found = warm_summary([Swap(2, 10, 1), Swap(4, 30, 3)])
    assert found["swaps"] == 2
    assert found["select_ms"] == {"p50": 3, "p95": 3.9, "max": 4}
    assert found["next_key_evaluated_tokens"]["max"] == 3
    assert found["next_key_ms"]["p50"] == 20


def test_cold_ratio_is_that_of_neighbours() -> None:
    # The machine was three times slower for the second pair; the ratio must not show it.
    found = cold_summary([(110, 100), (330, 300), (105, 100)])
    assert found["ratio"] == 1.1
    assert found["loads"] == 3


@pytest.mark.engine
def test_bench_swap_goes_back_to_a_loaded_model(
    midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    arguments = ["--swaps", "4", "--loads", "1", "--models", "starter", "tiny"]
    done = run_midspan(["bench", "swap", "--json", *arguments], midspan_env)
    assert done.returncode == 0, done.stderr
    results = one_object(done.stdout)["results"]
    assert results["warm"]["swaps"] == 4
    # Had a model been loaded again, or the document's cells been lost, it would be hundreds.
    assert results["warm"]["next_key_evaluated_tokens"]["max"] <= 10
    assert results["cold"]["through_manager_ms"]["p50"] > 0
    assert results["cold"]["ratio"] > 0
