"""Reasoning apart from the answer, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.decoding.reasoning import ReasoningSplitter

TAGS = ("<think>", "</think>")


def split(pieces: list[str], *, thinking: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(TAGS, thinking=thinking)
    parts = [*(splitter.push(piece) for piece in pieces), splitter.flush()]
    return "".join(p.reasoning for p in parts), "".join(p.answer for p in parts)


CASES = [
    ("<think>\nhm</think>\n\nx = 1", False, "hm", "x = 1"),
    ("\n <think>hm</think>x", False, "hm", "x"),
    ("hm\n</think>\n\nx = 1", True, "hm\n", "x = 1"),
    ("hm, never closed", True, "hm, never closed", ""),
    ("<think>never closed </thin", False, "never closed </thin", ""),
    ("<think></think>x", False, "", "x"),
    ("x = '<think>no</think>'", False, "", "x = '<think>no</think>'"),
    ("<think>a <think> b</think>c</think>d", False, "a <think> b", "c</think>d"),
    ("<think>a</think>print('<think>b</think>')", False, "a", "print('<think>b</think>')"),
    ("x</think>y", False, "", "x</think>y"),
    ("<thin", False, "", "<thin"),
    ("  indented", False, "", "  indented"),
    ("<b>html</b>", False, "", "<b>html</b>"),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "thinking", "reasoning", "answer"), CASES)
def test_split_is_the_same_in_every_cut(
    text: str, thinking: bool, reasoning: str, answer: str
) -> None:
    assert split([text], thinking=thinking) == (reasoning, answer)
    assert split(list(text), thinking=thinking) == (reasoning, answer)
    for cut in range(len(text)):
        assert split([text[:cut], text[cut:]], thinking=thinking) == (reasoning, answer)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "/", "a", " ", "\n"])),
    st.booleans(),
    st.lists(st.integers(1, 5)),
)
def test_split_never_depends_on_the_cuts(
    words: list[str], thinking: bool, sizes: list[int]
) -> None:
    text, pieces, at = "".join(words), [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert split([*pieces, text[at:]], thinking=thinking) == split([text], thinking=thinking)


@given(st.text(max_size=40), st.booleans())
def test_split_loses_nothing_but_white_space_and_tags(text: str, thinking: bool) -> None:
    reasoning, answer = split([text], thinking=thinking)
    left = (reasoning + answer).replace("<think>", "").replace("</think>", "")
    assert "".join(left.split()) == "".join(
        text.replace("<think>", "").replace("</think>", "").split()
    )
