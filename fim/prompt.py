"""A prompt as pieces: control tokens from the template, text from the user.

Rule: the two never mix. A `Control` is looked up among the model's control tokens, a `Text` is
tokenised with specials off, so no document can inject a control token.
"""

from __future__ import annotations

from dataclasses import dataclass


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
