"""A prompt as pieces: control tokens from the template, text from the user.

Rule: the two never mix. A `Control` is looked up among the model's control tokens, a `Text` is
tokenised with specials off, so no document can inject a control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, by its text in the vocabulary."""

    token: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, tokenised by itself."""

    text: str


Piece = Control | Text


@dataclass(frozen=True, slots=True)
class Prompt:
    """`head`, then `tail` (the text that ends at the cursor), then `close`.

    While one types, `head` is stable and cached, and only `tail` grows. `close` is what the
    template puts after the text before the cursor (the middle token of suffix-first models); it is
    empty for anchored prefix-suffix-middle. Token healing works on the end of `tail`.
    """

    head: tuple[Piece, ...]
    tail: str
    close: tuple[Piece, ...] = ()


def apart(text: str, spellings: Iterable[str]) -> list[str]:
    """Split `text` so that no part holds one of `spellings`; the parts joined are `text`.

    For tokenizers that turn the spelling of some control tokens into the token even with specials
    off (llama.cpp does with entries marked "user defined"): tokenise the parts one by one.
    """
    found = sorted({spelling for spelling in spellings if len(spelling) > 1 and spelling in text})
    if not found:
        return [text]
    pattern = re.compile("|".join(f"(?={re.escape(spelling)})" for spelling in found))
    cuts = [match.start() + 1 for match in pattern.finditer(text)]
    return [text[begin:end] for begin, end in pairwise([0, *cuts, len(text)]) if begin < end]
