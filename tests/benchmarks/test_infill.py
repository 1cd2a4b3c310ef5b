from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import holdout, infill
from benchmarks.infill import Answer, Cut, bootstrap_mean, cuts, edit_similarity, first_line, score
from benchmarks.report import wilson

FILES = [("a.py", "def f(x):\n\n    return x \n"), ("b.py", "\n\n"), ("c.py", "y = 12\n")]


def test_cuts_reach_every_place_once_and_only_those() -> None:
    found = cuts(FILES, 1000, seed=0)
    places = {(cut.path, cut.line, cut.column) for cut in found}
    assert len(places) == len(found)
    assert places == (
        {("a.py", 1, c) for c in range(1, 10)}
        | {("a.py", 3, c) for c in range(1, 13)}  # not the blank at the end
        | {("c.py", 1, c) for c in range(1, 7)}
    )


def test_cuts_remove_the_rest_of_the_line_and_nothing_else() -> None:
    texts = dict(FILES)
    for cut in cuts(FILES, 1000, seed=0):
        assert cut.truth.strip()
        assert cut.truth == cut.truth.rstrip()
        assert cut.suffix.startswith("\n")
        line = cut.prefix.rpartition("\n")[2]
        assert len(line) == cut.column - 1
        removed = texts[cut.path][len(cut.prefix) : len(texts[cut.path]) - len(cut.suffix)]
        assert removed.rstrip() == cut.truth
        assert "\n" not in removed


def test_cuts_depend_on_the_seed_alone() -> None:
    assert cuts(FILES, 5, seed=1) == cuts(FILES, 5, seed=1)
    assert cuts(FILES, 5, seed=1) != cuts(FILES, 5, seed=2)


@pytest.mark.parametrize(
    ("before", "truth", "inside"),
    [
        ("ret", "urn x", True),
        ("x_", "1", True),
        ("return ", "x", False),
        ("f", "(x)", False),
        ("", "x", False),  # the beginning of a file
        ("a\n", "x", False),
    ],
)
def test_cut_knows_whether_it_is_inside_a_word(before: str, truth: str, inside: bool) -> None:
    assert Cut("a", 1, 1, before, truth, "\n").inside_word is inside


@pytest.mark.parametrize(
    ("text", "line"), [("a b  \nc", "a b"), ("", ""), ("\nx", ""), (" x\t", " x")]
)
def test_first_line_drops_trailing_blanks(text: str, line: str) -> None:
    assert first_line(text) == line


@pytest.mark.parametrize(
    ("a", "b", "similarity"),
    [
        ("", "", 1.0),
        ("abc", "", 0.0),
        ("abc", "abc", 1.0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("flaw", "lawn", 0.5),
    ],
)
def test_edit_similarity_is_levenshteins(a: str, b: str, similarity: float) -> None:
    assert edit_similarity(a, b) == pytest.approx(similarity)


@given(st.text(max_size=12), st.text(max_size=12))
def test_edit_similarity_is_symmetric_and_a_share(a: str, b: str) -> None:
    assert edit_similarity(a, b) == edit_similarity(b, a)
    assert 0 <= edit_similarity(a, b) <= 1
    assert (edit_similarity(a, b) == 1) is (a == b)


def test_score_reports_groups_apart() -> None:
    inside, boundary = Cut("a", 1, 1, "re", "turn", "\n"), Cut("a", 1, 1, "x = ", "1", "\n")
    scores = score(
        [inside, boundary, boundary], [Answer("turn \nx", 1), Answer("1", 1), Answer("2", 1)]
    )
    assert scores["overall"]["exact_match"]["count"] == 2
    assert scores["inside_words"]["exact_match"]["percent"] == 100
    assert scores["at_word_boundaries"]["exact_match"]["percent"] == 50
    assert scores["at_word_boundaries"]["edit_similarity"]["mean"] == 0.5


def test_score_of_an_empty_group_is_no_number() -> None:
    scores = score([Cut("a", 1, 1, "x = ", "1", "\n")], [Answer("1", 1)])
    assert scores["inside_words"]["exact_match"]["percent"] is None
    assert scores["inside_words"]["edit_similarity"]["mean"] is None


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_mean_covers_the_mean_and_narrows() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(2000)]
    few, many = bootstrap_mean(values[:50]), bootstrap_mean(values)
    assert many[0] < sum(values) / len(values) < many[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_read_leaves_generated_tables_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "stdlib_root", lambda: tmp_path)
    (tmp_path / "cp1.py").write_text('"""Codec generated from CP1.TXT."""\n')
    (tmp_path / "bad.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "good.py").write_text("x = 1\n")
    assert infill.read(sorted(tmp_path.iterdir())) == [("good.py", "x = 1\n")]


@pytest.mark.engine
def test_bench_infill_reports_model_and_baseline_side_by_side(
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    done = run_midspan(
        ["bench", "infill", "--json", "--cuts", "4", "--details"], shared_midspan_env
    )
    assert done.returncode == 0, done.stderr
    report = one_object(done.stdout)
    assert report["name"] == "infill"
    assert report["machine"]["cores"] >= 1
    assert report["parameters"]["seed"] == 0
    results = report["results"]
    for who in ("model", "baseline", "baseline_part_words"):
        overall, boundaries, inside = (
            results[who][group]["exact_match"]["of"]
            for group in ("overall", "at_word_boundaries", "inside_words")
        )
        assert overall == 4 == boundaries + inside
    assert results["model"]["ms_per_completion"]["p95"] > 0
    assert results["model"]["name"] == "starter"
    assert results["model"]["prompt_tokens"]["mean"] > 0
    assert len(results["cuts"]) == 4
    assert all(
        holdout.is_held_out(Path(cut["path"]).parts[0].removesuffix(".py"))
        for cut in results["cuts"]
    )
