from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baseline import NgramBaseline, tokens_of

CORPUS = ["for i in range(10):\n    print(i)\n", "for key in sorted(table):\n    print(key)\n"] * 3


def trained() -> NgramBaseline:
    baseline = NgramBaseline()
    baseline.train(CORPUS)
    return baseline


@given(st.text())
def test_tokens_of_keeps_all_of_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


@pytest.mark.parametrize(
    ("prefix", "suffix", "completion"),
    [
        ("for i in ", "", "range(10):"),  # the corpus, after a word boundary
        ("for i in ra", "", "nge(10):"),  # inside a word
        ("for key in so", "", "rted(table):"),
        ("for i", "", " in range(10):"),  # a whole word may be all there is
        ("    pri", "", "nt(key)"),  # the most recent of two
        ("value = 1\nother = value\nthird = val", "", "ue"),  # the file's words
        ("third = val", "\nvalue = 1\n", "ue = 1"),  # also those after the cursor
        ("x = sor", "", "ted(table):"),  # the corpus's words
        ("qwzx", "", ""),  # nothing known
        ("", "", ""),
        ("a b\n", "", ""),
    ],
)
def test_complete_ends_the_line(prefix: str, suffix: str, completion: str) -> None:
    assert trained().complete(prefix, suffix) == completion


def test_complete_prefers_the_file_to_the_corpus() -> None:
    file = "for i in range(width):\n    pass\n"
    assert trained().complete(file + "for i in range(", "") == "width):"
    assert trained().complete("for i in range(", file) == "width):"


def test_complete_prefers_the_longer_match() -> None:
    baseline = NgramBaseline()
    baseline.train(["a = load(x)\n", "b = save(y)\n", "c = save(y)\n", "d = save(y)\n"])
    assert baseline.complete("a = ", "") == "load(x)"
    assert baseline.complete("e = ", "") == "save(y)"


def test_complete_sees_no_further_than_its_order() -> None:
    baseline = NgramBaseline(order=3)  # two tokens of context: "=" and the blank
    baseline.train(["a = load\n", "b = save\n", "b = save\n"])
    assert baseline.complete("a = ", "") == "save"


def test_complete_does_not_match_across_files() -> None:
    baseline = NgramBaseline()
    baseline.train(["one", "two"])
    assert baseline.complete("one", "") == ""


def test_complete_is_limited_and_deterministic() -> None:
    baseline = NgramBaseline()
    baseline.train(["x " * 1000])
    assert baseline.complete("x x ", "", 7) == "x x x x"
    assert len(trained().complete("for i in ", "", 5)) == 5
    first = trained()
    assert first.complete("for i in ", "") == first.complete("for i in ", "")


def test_complete_of_an_incomplete_token_ends_even_if_nothing_matches() -> None:
    assert NgramBaseline().complete("def f", "") == ""


def test_complete_without_inside_words_takes_the_last_token_as_complete() -> None:
    baseline = NgramBaseline()
    baseline.train(CORPUS)
    assert baseline.complete("for i in ", "", inside_words=False) == "range(10):"
    assert baseline.complete("for i in ra", "", inside_words=False) == ""


def test_order_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        NgramBaseline(order=1)
