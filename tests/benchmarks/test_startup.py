from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks.report import quantile


def test_bench_startup_measures_midspan_beside_bare_pygls(
    midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    done = run_midspan(["bench", "startup", "--runs", "1", "--json"], midspan_env)
    assert done.returncode == 0, done.stderr
    results = one_object(done.stdout)["results"]
    for server in ("midspan", "bare_pygls"):
        assert results[server]["initialize_ms"]["median"] > 1
        assert results[server]["idle_rss_mib"]["median"] > 5
    assert results["ratio_to_bare_pygls"]["initialize_ms"] == pytest.approx(
        results["midspan"]["initialize_ms"]["median"]
        / results["bare_pygls"]["initialize_ms"]["median"],
        abs=0.01,
    )


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([5.0], 0.95, 5.0),
        ([0.0, 10.0], 1, 10.0),
    ],
)
def test_quantile_interpolates(values: list[float], q: float, expected: float) -> None:
    assert quantile(values, q) == expected
