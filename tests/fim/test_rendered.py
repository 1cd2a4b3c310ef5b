"""Prompts that clients wrote with a model's control tokens as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim.catalogue import FAMILIES, Template
from fim.rendered import gap

TEXT = st.text(alphabet="ab <|>[]\n_fim", max_size=30)


@given(row=st.sampled_from(FAMILIES), prefix=TEXT, suffix=TEXT)
def test_gap_is_found_in_each_familys_prompt(row: Template, prefix: str, suffix: str) -> None:
    assert gap(f"{row.suffix}{suffix}{row.prefix}{prefix}{row.middle}") == (prefix, suffix)
    if row.middle:
        assert gap(f"{row.prefix}{prefix}{row.suffix}{suffix}{row.middle}") == (prefix, suffix)


@given(prompt=TEXT)
def test_text_is_no_prompt(prompt: str) -> None:
    assert gap(prompt) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "x<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>x",
        "<|fim_prefix|>a<|fim_suffix|>b",
        "<|fim_prefix|>a<|fim_middle|>",
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_suffix|>c<|fim_middle|>",
        "<|fim_prefix|>a<|fim_prefix|>b<|fim_suffix|>c<|fim_middle|>",
        "<|fim_prefix|>a<fim_suffix>b<|fim_middle|>",
        "[PREFIX]a[SUFFIX]b",
    ],
)
def test_what_is_not_a_prompt_from_end_to_end_is_text(prompt: str) -> None:
    assert gap(prompt) is None
