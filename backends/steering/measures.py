"""What generated code is measured by, and how sure a difference is.

Rule: pure functions of texts and numbers; must not know models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from backends.steering.vector_file import Shift

RESAMPLES: Final = 4000
CONFIDENCE: Final = 0.95
SOON: Final = 2  # lines

_DOCSTRING = re.compile(r"\s*[rR]?(\"\"\"|''')")
# A parameter's `: name` before the parenthesis that closes, or `-> name` after it.
_ANNOTATION = re.compile(r"[^():\n]*:\s*[A-Za-z_]|[^\n]*\)\s*->\s*[A-Za-z_]")


def begins_with_docstring(text: str) -> float:
    """Return 1 where a function's body, which `text` is, begins with a docstring.

    >>> begins_with_docstring('    r\\"\\"\\"Say')
    1.0
    """
    return float(bool(_DOCSTRING.match(text)))


def is_annotated(text: str) -> float:
    """Return 1 where the rest of a signature, which `text` begins with, has a type hint.

    >>> [is_annotated(rest) for rest in (": str):\\n", ") -> int:", ', b="a: b"):\\n')]
    [1.0, 1.0, 0.0]
    """
    return float(bool(_ANNOTATION.match(re.sub(r'"[^"\n]*"?', '""', text))))


def ends_soon(text: str) -> float:
    """Return 1 where a function, whose body `text` goes on with, ends within two lines.

    What was cut off before a line was over has not ended.

    >>> ends_soon("    a = 1\\n    return a\\n\\ndef g():\\n    pass")
    1.0
    """
    lines = 0
    for line in text.splitlines(keepends=True):
        if line.strip() and not line[0].isspace():
            return float(0 < lines <= SOON)
        if not line.endswith("\n"):
            return 0.0
        lines += bool(line.strip())
    return float(0 < lines <= SOON)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number for each generated text, and the tokens that it needs."""

    name: str
    score: Callable[[str], float]
    tokens: int


MEASURES: Final = {
    "docstrings": Measure("functions that begin with a docstring", begins_with_docstring, 8),
    "type-hints": Measure("signatures with a type hint", is_annotated, 12),
    "brevity": Measure("functions that end within two lines", ends_soon, 64),
}


def shift(before: Sequence[float], after: Sequence[float]) -> Shift:
    """Return how much the same prompts' numbers changed: a bootstrap over the prompts."""
    was, now = np.asarray(before), np.asarray(after)
    change = now - was
    picks = np.random.default_rng(0).integers(0, len(change), (RESAMPLES, len(change)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(change[picks].mean(axis=1), (tail, 1 - tail))
    values = (float(was.mean()), float(now.mean()), float(change.mean()), float(low), float(high))
    before_mean, after_mean, mean, lowest, highest = (round(value, 4) for value in values)
    return Shift(before_mean, after_mean, mean, lowest, highest, len(change))
