"""What generated code is measured by."""

from __future__ import annotations

import doctest

import pytest

from backends.steering import measures, pairs
from backends.steering.measures import begins_with_docstring, ends_soon, is_annotated, shift


@pytest.mark.parametrize("module", [measures, pairs])
def test_examples_hold(module: object) -> None:
    tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried.attempted
    assert not tried.failed


@pytest.mark.parametrize(
    ("text", "score"),
    [('    """Say', 1), ("\n    '''x", 1), ("    return '''x'''", 0), ("", 0), ('    "one"', 0)],
)
def test_begins_with_docstring(text: str, score: float) -> None:
    assert begins_with_docstring(text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (": list[str], n: int):", 1),
        (", n: int = 3) -> str:\n", 1),
        (") -> None:\n    pass", 1),
        (", limit=None):\n    x: int = 3", 0),
        ("):\n    return {a: b}", 0),
        (', sep=": x", end="a -> b"):\n', 0),
        (": ):\n", 0),
        ("", 0),
    ],
)
def test_is_annotated(text: str, score: float) -> None:
    assert is_annotated(text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("    return 1\n", 1),
        ("    a\n\n    return b\nc = 1\n    d", 1),
        ("    a\n    b\n    return c\nd", 0),
        ("    return 1", 0),  # cut off, who knows where it ends
        ("    a\n    return re.sub(r'[s*s*s*s*", 0),
        ("", 0),
        ("def f():", 0),
    ],
)
def test_ends_soon(text: str, score: float) -> None:
    assert ends_soon(text) == score


def test_shift_is_paired_and_its_interval_tells_an_effect_from_noise() -> None:
    moved = shift([0.0] * 20, [1.0] * 18 + [0.0] * 2)
    assert (moved.before, moved.after, moved.change, moved.count) == (0.0, 0.9, 0.9, 20)
    assert 0.5 < moved.low < 0.9 < moved.high <= 1.0
    noise = shift([0.0, 1.0] * 10, [1.0, 0.0] * 10)
    assert noise.low < 0 < noise.high
