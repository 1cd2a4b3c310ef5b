"""Where a text can be cut so that no token crosses the cut, whatever follows.

Rule: pure, on bytes, for every vocabulary, and light: also used where no model runs. Healing local
models and prompts for engines elsewhere go by the same cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# A word and the punctuation around it never need more; what lies further left is settled.
MAX_DROPPED = 8


def split(
    tokens: Sequence[int], token_bytes: Callable[[int], bytes], most: int = MAX_DROPPED
) -> tuple[list[int], bytes]:
    """Split the tokens before the cursor into (tokens to keep, bytes to generate again).

    Drops at least one token (there is one), at most `most`, back to a boundary that no
    longer token could have crossed.
    """
    dropped = b""
    keep = len(tokens)
    while keep > 0 and len(tokens) - keep < most:
        keep -= 1
        dropped = token_bytes(tokens[keep]) + dropped
        left = token_bytes(tokens[keep - 1])[-1:] if keep else b""
        if not left or _is_boundary(left[0], dropped[0] if dropped else 0):
            break
    return list(tokens[:keep]), dropped


def _is_boundary(left: int, right: int) -> bool:
    """Tell whether pre-tokenizers split between these two bytes whatever follows.

    They all end a word where its letters end, a line at its newline, and begin a new piece at a
    space. Punctuation may join what follows it ("(self"), and so may a space (" self").
    """
    if _is_newline(left):
        return not _is_newline(right)
    if _is_space(right):
        return not _is_space(left)
    if _is_digit(left) or _is_digit(right):
        return _is_letter(left) or _is_letter(right)
    return _is_letter(left) and not _is_letter(right)


def _is_newline(byte: int) -> bool:
    return byte in b"\r\n"


def _is_space(byte: int) -> bool:
    return byte in b" \t\r\n\f\v"


def _is_digit(byte: int) -> bool:
    return 0x30 <= byte <= 0x39


def _is_letter(byte: int) -> bool:
    """Tell letters; bytes of multi-byte characters count, so that none is ever split."""
    return 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A or byte >= 0x80
