from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks.cancel import Sample, document, summary


def sample(to_idle: float, before: int, evaluated: int, cached: int) -> Sample:
    return Sample(
        asked_for_ms=50.0,
        to_idle_ms=to_idle,
        poll_ms=1.0,
        evaluated_before=before,
        evaluated=evaluated,
        prompt_tokens=2000,
        cached_tokens=cached,
    )


def test_summary_judges_prefill_by_what_was_seen_at_the_cancellation() -> None:
    # The second ran on to the end of its prompt before it stopped: it must count.
    samples = [sample(5, 512, 640, 640), sample(900, 512, 2010, 1999), sample(2, 2003, 2010, 1999)]
    found = summary(samples)
    assert found["requests_in_mid_prefill"] == 2
    assert found["cancel_to_idle_ms"]["max"] == 900
    assert found["requests_after_prefill"] == {
        "count": 1,
        "cancel_to_idle_ms": {"p50": 2, "p95": 2, "max": 2},
    }


def test_summary_counts_what_was_kept_only_where_there_was_something() -> None:
    found = summary([sample(5, 0, 0, 0), sample(5, 256, 384, 384), sample(5, 256, 384, 0)])
    assert found["next_request"]["after_some_tokens"] == 2
    assert found["next_request"]["found_some_cached"] == 1


def test_documents_differ_in_every_line_and_not_in_length() -> None:
    source = "import os\n\n\ndef f():\n    pass\n"
    one, two = (document(source, len(source), number).text for number in (1, 2))
    assert len(one) == len(two)
    pairs = list(zip(one.splitlines(), two.splitlines(), strict=True))
    assert len(pairs) == 6
    assert all(left != right for left, right in pairs)


@pytest.mark.engine
def test_bench_cancel_stops_a_prefill_and_finds_its_tokens_again(
    midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    done = run_midspan(["bench", "cancel", "--json", "--runs", "3", "--model", "tiny"], midspan_env)
    assert done.returncode == 0, done.stderr
    report = one_object(done.stdout)
    assert report["name"] == "cancel"
    found = report["results"]["tiny"]
    assert found["requests_in_mid_prefill"] == 3
    assert found["prompt_tokens"] > 1000
    assert 0 < found["cancel_to_idle_ms"]["p50"] <= found["cancel_to_idle_ms"]["p95"]
    assert found["next_request"]["found_some_cached"] == found["next_request"]["after_some_tokens"]
