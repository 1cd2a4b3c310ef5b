"""What torch's operations are given, and what some return: tensors, numbers, dtypes.

Rule: only checks; what does not fit is a NoTemplateError.
"""

from __future__ import annotations

from dataclasses import dataclass

from lsp_server.kernels.templates.ir import Dtype, Node, NoTemplateError, constant

FLOATS = ("float16", "bfloat16", "float32", "float64")
INF = float("inf")
SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654


@dataclass(frozen=True, slots=True)
class Extremes:
    """What `x.max(dim)` returns; its indices are not known here."""

    values: Node


@dataclass(frozen=True, slots=True)
class DtypeOf:
    """`x.dtype`."""

    dtype: Dtype


def number(value: object) -> float:
    """Return a Python number. Raises NoTemplateError for anything else."""
    if isinstance(value, (bool, int, float)):
        return value
    raise NoTemplateError("something that is no number is used as one")


def node(value: object) -> Node:
    """Return a tensor, or a number as a node. Raises NoTemplateError."""
    return value if isinstance(value, Node) else constant(number(value))


def tensor(value: object) -> Node:
    """Return a tensor. Raises NoTemplateError."""
    if isinstance(value, Node) and not value.number:
        return value
    raise NoTemplateError("something that is no tensor is used as one")
