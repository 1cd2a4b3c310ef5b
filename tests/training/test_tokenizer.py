"""Round trips, control ids, and the pieces healing takes back."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from training.tokenizer import CONTROL_TOKENS, split_last_piece, token_bytes

TEXTS = [
    "def f(x):\n    return x\n",
    "\ttabs\r\nand carriage returns\r\n",
    "«é» 🎉 \u200b漢字 e\u0301",
    "<|fim_prefix|>a<|endoftext|>",
    "  \n\n   ",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trips_without_control_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(token >= len(CONTROL_TOKENS) for token in ids)
    tokens = token_bytes(tokenizer)
    assert b"".join(tokens[i] for i in ids) == text.encode()


def test_control_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id_to_token(i) for i in range(7)] == list(CONTROL_TOKENS)


def test_every_byte_is_a_token(tokenizer: Tokenizer) -> None:
    assert {bytes([b]) for b in range(256)} <= set(token_bytes(tokenizer))


PIECES = [
    ("x = retu", ("x =", " retu")),  # the word with its blank
    ("self.na", ("self", ".na")),
    ("f(", ("f", "(")),
    ("    ", ("", "    ")),
    ("", ("", "")),
]


@pytest.mark.parametrize(("text", "parts"), PIECES)
def test_split_last_piece_goes_back_to_a_sure_boundary(
    tokenizer: Tokenizer, text: str, parts: tuple[str, str]
) -> None:
    assert split_last_piece(text, tokenizer) == parts
