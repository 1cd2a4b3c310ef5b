"""Healing: which bytes are generated again, and which tokens agree with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.decoding.healing import MAX_DROPPED, VocabularyIndex, split
from tests.backends.decoding.hash_model import HashModel

MODEL = HashModel()


@pytest.mark.parametrize(
    ("text", "pending"),
    [
        ("    ret", b"    ret"),  # a space joins the word after it
        ("foo(", b"("),  # "(self" is one token: the bracket must be open to joining
        ("foo(se", b"(se"),
        ("x =", b" ="),  # a space may join the punctuation after it
        ("x = ", b" "),
        ("prin", b"prin"),  # a word is never cut
        ("a\n", b"\n"),
        ("a\n    ", b"    "),  # a line's indentation begins after its newline
        ("é", "é".encode()),  # a character is never cut
        ("x1", b"1"),
    ],
)
def test_split_drops_back_to_a_boundary(text: str, pending: bytes) -> None:
    kept, dropped = split(MODEL.tokenize(text), MODEL.token_bytes)
    assert dropped == pending
    assert b"".join(map(MODEL.token_bytes, kept)) + dropped == text.encode()


@given(st.text(alphabet="abé(. \n_1", max_size=40))
def test_split_loses_no_byte_and_is_bounded(text: str) -> None:
    tokens = MODEL.tokenize(text)
    kept, dropped = split(tokens, MODEL.token_bytes)
    assert b"".join(map(MODEL.token_bytes, kept)) + dropped == text.encode()
    assert tokens[: len(kept)] == kept
    assert len(tokens) - len(kept) <= MAX_DROPPED
    assert bool(tokens) == bool(dropped)


@given(st.text(alphabet="defrtunpis (\n", min_size=1, max_size=10).map(str.encode))
def test_agreeing_is_exactly_the_tokens_that_agree(pending: bytes) -> None:
    index = VocabularyIndex(MODEL.token_bytes, MODEL.vocab.size)
    by_definition = {
        token
        for token in range(MODEL.vocab.size)
        if (text := MODEL.token_bytes(token))
        and (text.startswith(pending) or pending.startswith(text))
    }
    found = index.agreeing(pending).tolist()
    assert set(found) == by_definition
    assert len(found) == len(by_definition)


def test_agreeing_handles_the_highest_byte() -> None:
    index = VocabularyIndex(MODEL.token_bytes, MODEL.vocab.size)
    assert index.agreeing(b"\xff").tolist() == [4 + 255]
