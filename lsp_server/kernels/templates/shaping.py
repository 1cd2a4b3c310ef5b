"""Torch's operations on dtypes and shapes: casts, views, sizes.

Rule: only what leaves every element in place is known; the rest is a NoTemplateError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lsp_server.kernels.templates.ir import (
    Dtype,
    Node,
    NoTemplateError,
    Shape,
    constant,
    elementwise,
)
from lsp_server.kernels.templates.operands import FLOATS, DtypeOf, tensor


def _cast(input: object, dtype: Dtype) -> Node:
    value = tensor(input)
    return value if value.dtype == dtype else Node("cast", (value,), value.shape, dtype)


def cast_to(input: object, dtype: object = None, *, copy: object = False) -> Node:
    """Return `x.to(dtype)`. Raises NoTemplateError for a device."""
    return _cast(input, _dtype(dtype))


def _dtype(value: object) -> Dtype:
    path = getattr(value, "path", "")
    match value:
        case Node() if not value.number:
            return value.dtype
        case DtypeOf(dtype=dtype):
            return dtype
        case _ if path.startswith("torch."):
            name = _DTYPE_NAMES.get(path.removeprefix("torch."), path.removeprefix("torch."))
            if name in FLOATS:
                return frozenset({f"={name}"})
    raise NoTemplateError("no template knows this dtype or device")


_DTYPE_NAMES = {"float": "float32", "double": "float64", "half": "float16"}


def _casting(dtype: str) -> Callable[..., object]:
    def apply(input: object) -> Node:
        return _cast(input, frozenset({f"={dtype}"}))

    return apply


def _type_as(input: object, other: object) -> Node:
    return _cast(input, tensor(other).dtype)


def _same(input: object) -> Node:
    return tensor(input)


def _unsqueeze(input: object, dim: object) -> Node:
    value = tensor(input)
    at = dimension(dim, len(value.shape) + 1)
    return view(value, (at,))


def _squeeze(input: object, dim: object) -> Node:
    value = tensor(input)
    at = dimension(dim, len(value.shape))
    if value.shape[at] != 1:
        raise NoTemplateError("it squeezes a dimension that may be longer than 1")
    return Node("drop", (value,), value.shape[:at] + value.shape[at + 1 :], value.dtype, dims=(at,))


def view(value: Node, inserted: tuple[int, ...]) -> Node:
    """Return `value` with dimensions of size 1 at these places of the result."""
    shape: list[int | str] = list(value.shape)
    for at in inserted:
        shape.insert(at, 1)
    return Node("view", (value,), tuple(shape), value.dtype, dims=inserted)


def index(value: Node, at: object) -> Node:
    """Return `value[at]` where it only inserts dimensions. Raises NoTemplateError."""
    if value.number:
        raise NoTemplateError("no template knows this index")
    parts = list(at) if isinstance(at, tuple) else [at]
    if Ellipsis in parts:
        given = sum(part is not None and part is not Ellipsis for part in parts)
        where = parts.index(Ellipsis)
        parts[where : where + 1] = [slice(None)] * (len(value.shape) - given)
    if any(part is not None and part != slice(None) for part in parts):
        raise NoTemplateError("it takes a part of a tensor")
    return view(value, tuple(place for place, part in enumerate(parts) if part is None))


def _permute(value: Node, order: tuple[int, ...]) -> Node:
    shape = tuple(value.shape[at] for at in order)
    return Node("permute", (value,), shape, value.dtype, dims=order)


def _transpose(input: object, dim0: object, dim1: object) -> Node:
    value = tensor(input)
    first, second = dimension(dim0, len(value.shape)), dimension(dim1, len(value.shape))
    order = list(range(len(value.shape)))
    order[first], order[second] = second, first
    return _permute(value, tuple(order))


def swapped(input: object) -> Node:
    """Return a matrix transposed."""
    value = tensor(input)
    if len(value.shape) != 2:
        raise NoTemplateError("it transposes a tensor that is no matrix")
    return _permute(value, (1, 0))


def sizes(value: Node) -> tuple[object, ...]:
    """Return `x.shape`: numbers where they are fixed, nodes where they are names."""
    return tuple(_size(size) for size in value.shape)


def _size(size: int | str) -> object:
    return size if isinstance(size, int) else Node("size", number=True, name=size)


def _size_of(input: object, dim: object = None) -> object:
    value = tensor(input)
    return sizes(value) if dim is None else sizes(value)[dimension(dim, len(value.shape))]


def count_of(shape: Shape) -> Node:
    """The number of elements, as a number."""
    fixed, result = 1, None
    for size in shape:
        if isinstance(size, int):
            fixed *= size
        else:
            named = Node("size", number=True, name=size)
            result = named if result is None else elementwise("mul", result, named)
    if result is None:
        return constant(fixed)
    return result if fixed == 1 else elementwise("mul", result, constant(fixed))


def _numel(input: object) -> Node:
    return count_of(tensor(input).shape)


def dimension(dim: object, rank: int) -> int:
    """Return a dimension from 0. Raises NoTemplateError."""
    if not isinstance(dim, int) or isinstance(dim, bool) or not -rank <= dim < rank:
        raise NoTemplateError("a dimension is not known, or is outside")
    return dim % rank


def dimensions(value: Node, dim: object) -> tuple[int, ...]:
    """Return dimensions from 0, sorted; all of them for None."""
    rank = len(value.shape)
    if dim is None:
        return tuple(range(rank))
    given = dim if isinstance(dim, tuple) else (dim,)
    found = tuple(sorted({dimension(one, rank) for one in given}))
    return found or tuple(range(rank))


PROPERTIES: Mapping[str, Callable[[Node], object]] = {
    "shape": sizes,
    "dtype": lambda value: DtypeOf(value.dtype),
    "T": swapped,
    "mT": lambda value: _transpose(value, -1, -2),
    "ndim": lambda value: len(value.shape),
}


SHAPING: Mapping[str, Callable[..., Any]] = {
    "to": cast_to,
    "type": cast_to,
    "float": _casting("float32"),
    "double": _casting("float64"),
    "half": _casting("float16"),
    "bfloat16": _casting("bfloat16"),
    "type_as": _type_as,
    "contiguous": _same,
    "detach": _same,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "t": swapped,
    "size": _size_of,
    "numel": _numel,
    "dim": lambda input: len(tensor(input).shape),
}
