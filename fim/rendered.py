"""A gap that a client wrote down as a family's prompt, found again in the text.

Some clients of completion APIs know a model's format themselves and send its control tokens as
text. Rule: pure. Text is taken apart only where it is such a prompt and nothing else, from its
first token to its last, with no token twice; what is between is text and stays text. Whatever model
serves then gets its own format, its control tokens from the template alone.
"""

from __future__ import annotations

from fim.catalogue import FAMILIES, Template


def gap(prompt: str) -> tuple[str, str] | None:
    """Return prefix and suffix of a prompt of any family; None where it is none.

    >>> gap("<|fim_prefix|>a = <|fim_suffix|>b<|fim_middle|>")
    ('a = ', 'b')
    """
    found = (_of(row, prompt) for row in FAMILIES)
    return next((parts for parts in found if parts is not None), None)


def _of(row: Template, prompt: str) -> tuple[str, str] | None:
    if any(prompt.count(token) != 1 for token in row.fim_tokens):
        return None
    if not prompt.endswith(row.middle):
        return None
    inner = prompt.removesuffix(row.middle)
    if inner.startswith(row.prefix):
        prefix, _, suffix = inner.removeprefix(row.prefix).partition(row.suffix)
        return (prefix, suffix) if row.middle else None  # without an end, anything could follow
    if inner.startswith(row.suffix):
        suffix, _, prefix = inner.removeprefix(row.suffix).partition(row.prefix)
        return prefix, suffix
    return None
