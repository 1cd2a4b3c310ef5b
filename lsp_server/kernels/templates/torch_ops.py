"""What torch's operations compute, in the graph's few operations.

Rule: a table from torch's names to functions with torch's own parameters; what is not in it, or is
called in another way, is a NoTemplateError. Half precision is computed in single precision, as
torch's own kernels do. Must not know how anything is written out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lsp_server.kernels.templates.ir import (
    BOOL,
    Dtype,
    Node,
    NoTemplateError,
    Shape,
    constant,
    elementwise,
    reduction,
)

FLOATS = ("float16", "bfloat16", "float32", "float64")
INF = float("inf")
_SQRT_HALF = 0.7071067811865476
_SQRT_2_OVER_PI = 0.7978845608028654


@dataclass(frozen=True, slots=True)
class Extremes:
    """What `x.max(dim)` returns; its indices are not known here."""

    values: Node


@dataclass(frozen=True, slots=True)
class DtypeOf:
    """`x.dtype`."""

    dtype: Dtype


def call(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """Return what torch's `name` gives for these arguments. Raises NoTemplateError."""
    function = OPERATIONS.get(name)
    if function is None:
        raise NoTemplateError(f"no template knows torch's {name}")
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as exc:
        raise NoTemplateError(f"no template knows {name} with these arguments") from exc
    return function(*bound.args, **bound.kwargs)


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


# --- elementwise ---------------------------------------------------------------------------------


def _unary(op: str) -> Callable[..., object]:
    def apply(input: object) -> Node:
        return elementwise(op, node(input))

    return apply


def _binary(op: str) -> Callable[..., object]:
    def apply(input: object, other: object) -> Node:
        return elementwise(op, node(input), node(other))

    return apply


def _of(input: object, function: Callable[[Node], Node]) -> Node:
    return function(tensor(input))


def _add(input: object, other: object, *, alpha: object = 1) -> Node:
    return elementwise("add", node(input), _times(other, alpha))


def _sub(input: object, other: object, *, alpha: object = 1) -> Node:
    return elementwise("sub", node(input), _times(other, alpha))


def _times(value: object, factor: object) -> Node:
    return node(value) if factor == 1 else elementwise("mul", node(value), node(factor))


def _div(input: object, other: object, *, rounding_mode: object = None) -> Node:
    quotient = elementwise("div", node(input), node(other))
    if rounding_mode is None:
        return quotient
    if rounding_mode == "floor":
        return elementwise("floor", quotient)
    raise NoTemplateError("no template knows this rounding mode")


def _pow(input: object, exponent: object) -> Node:
    base, power = node(input), node(exponent)
    if power.op != "const" or base.op == "const":
        return elementwise("pow", base, power)
    value = power.value
    if value == 0.5:
        return elementwise("sqrt", base)
    if value == -0.5:
        return elementwise("rsqrt", base)
    if value != int(value) or not 1 <= abs(value) <= 8:
        return elementwise("pow", base, power)
    result = base
    for _ in range(int(abs(value)) - 1):
        result = elementwise("mul", result, base)
    return result if value > 0 else elementwise("div", constant(1), result)


def _where(condition: object, input: object, other: object) -> Node:
    return elementwise("where", tensor(condition), node(input), node(other))


def _masked_fill(input: object, mask: object, value: object) -> Node:
    return elementwise("where", tensor(mask), node(value), tensor(input))


def _maximum(left: Node, right: Node) -> Node:
    """NaN in either shows, as torch has it."""
    wins = elementwise("or", elementwise("gt", left, right), elementwise("ne", left, left))
    return elementwise("where", wins, left, right)


def _minimum(left: Node, right: Node) -> Node:
    wins = elementwise("or", elementwise("lt", left, right), elementwise("ne", left, left))
    return elementwise("where", wins, left, right)


def _at_least(value: Node, low: object) -> Node:
    """`clamp(min=)`; NaN stays."""
    bound = node(low)
    if not bound.number:
        return _maximum(value, bound)
    return elementwise("where", elementwise("lt", value, bound), bound, value)


def _at_most(value: Node, high: object) -> Node:
    bound = node(high)
    if not bound.number:
        return _minimum(value, bound)
    return elementwise("where", elementwise("gt", value, bound), bound, value)


def _clamp(input: object, min: object = None, max: object = None) -> Node:
    value = tensor(input)
    if min is None and max is None:
        raise NoTemplateError("clamp has no bounds")
    value = value if min is None else _at_least(value, min)
    return value if max is None else _at_most(value, max)


def _relu(input: object, inplace: object = False) -> Node:
    return _at_least(tensor(input), 0)


def _sigmoid(value: Node) -> Node:
    return elementwise("sigmoid", value)


def _silu(input: object, inplace: object = False) -> Node:
    value = tensor(input)
    return elementwise("mul", value, _sigmoid(value))


def _gelu(input: object, approximate: object = "none") -> Node:
    value = tensor(input)
    half = elementwise("mul", constant(0.5), value)
    if approximate == "none":
        inner = elementwise("erf", elementwise("mul", value, constant(_SQRT_HALF)))
    elif approximate == "tanh":
        cube = elementwise("mul", constant(0.044715), _pow(value, 3))
        scaled = elementwise("mul", constant(_SQRT_2_OVER_PI), elementwise("add", value, cube))
        inner = elementwise("tanh", scaled)
    else:
        raise NoTemplateError("no template knows this approximation of gelu")
    return elementwise("mul", half, elementwise("add", constant(1), inner))


def _leaky_relu(input: object, negative_slope: object = 0.01, inplace: object = False) -> Node:
    value = tensor(input)
    below = elementwise("mul", value, node(negative_slope))
    return elementwise("where", elementwise("gt", value, constant(0)), value, below)


def _prelu(input: object, weight: object) -> Node:
    slope = tensor(weight)
    if slope.shape not in ((), (1,)):
        raise NoTemplateError("no template knows prelu with a slope for each channel")
    return _leaky_relu(input, slope)


def _elu(input: object, alpha: object = 1.0, inplace: object = False) -> Node:
    value = tensor(input)
    below = _times(elementwise("expm1", value), alpha)
    return elementwise("where", elementwise("gt", value, constant(0)), value, below)


def _selu(input: object, inplace: object = False) -> Node:
    return elementwise("mul", constant(1.0507009873554805), _elu(input, 1.6732632423543772))


def _softplus(input: object, beta: object = 1, threshold: object = 20) -> Node:
    value = tensor(input)
    scaled = _times(value, beta)
    soft = elementwise("log1p", elementwise("exp", scaled))
    soft = soft if beta == 1 else elementwise("div", soft, node(beta))
    return elementwise("where", elementwise("gt", scaled, node(threshold)), value, soft)


def _mish(input: object, inplace: object = False) -> Node:
    return elementwise("mul", tensor(input), elementwise("tanh", _softplus(input)))


def _hardtanh(
    input: object,
    min_val: object = -1.0,
    max_val: object = 1.0,
    inplace: object = False,
) -> Node:
    return _clamp(input, min_val, max_val)


def _hardsigmoid(input: object, inplace: object = False) -> Node:
    raised = elementwise("add", tensor(input), constant(3))
    return elementwise("div", _clamp(raised, 0, 6), constant(6))


def _hardswish(input: object, inplace: object = False) -> Node:
    return elementwise("mul", tensor(input), _hardsigmoid(input))


def _relu6(input: object, inplace: object = False) -> Node:
    return _clamp(input, 0, 6)


def _logsigmoid(input: object) -> Node:
    value = tensor(input)
    tail = elementwise("log1p", elementwise("exp", elementwise("neg", elementwise("abs", value))))
    return elementwise("sub", _at_most(value, 0), tail)


def _softsign(input: object) -> Node:
    value = tensor(input)
    return elementwise("div", value, elementwise("add", constant(1), elementwise("abs", value)))


def _tanhshrink(input: object) -> Node:
    return _of(input, lambda value: elementwise("sub", value, elementwise("tanh", value)))


def _hardshrink(input: object, lambd: object = 0.5) -> Node:
    value = tensor(input)
    near = elementwise("le", elementwise("abs", value), node(lambd))
    return elementwise("where", near, constant(0), value)


def _softshrink(input: object, lambd: object = 0.5) -> Node:
    value, bound = tensor(input), node(lambd)
    below = elementwise("add", value, bound)
    middle = elementwise("mul", value, constant(0))  # keeps NaN
    below_or = elementwise(
        "where", elementwise("lt", value, elementwise("neg", bound)), below, middle
    )
    above = elementwise("gt", value, bound)
    return elementwise("where", above, elementwise("sub", value, bound), below_or)


def _sign(input: object) -> Node:
    value = tensor(input)
    below = elementwise("where", elementwise("lt", value, constant(0)), constant(-1), constant(0))
    return elementwise(
        "where", elementwise("gt", value, constant(0)), constant(1), _typed(below, value)
    )


def _typed(value: Node, like: Node) -> Node:
    return Node("cast", (value,), value.shape, like.dtype)


def _lerp(input: object, end: object, weight: object) -> Node:
    step = elementwise("mul", node(weight), elementwise("sub", tensor(end), tensor(input)))
    return elementwise("add", tensor(input), step)


def _addcmul(input: object, tensor1: object, tensor2: object, *, value: object = 1) -> Node:
    product = elementwise("mul", tensor(tensor1), tensor(tensor2))
    return elementwise("add", tensor(input), _times(product, value))


def _addcdiv(input: object, tensor1: object, tensor2: object, *, value: object = 1) -> Node:
    quotient = elementwise("div", tensor(tensor1), tensor(tensor2))
    return elementwise("add", tensor(input), _times(quotient, value))


# --- dtypes and shapes ---------------------------------------------------------------------------


def _cast(input: object, dtype: Dtype) -> Node:
    value = tensor(input)
    return value if value.dtype == dtype else Node("cast", (value,), value.shape, dtype)


def _to(input: object, dtype: object = None, *, copy: object = False) -> Node:
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
    at = _dim(dim, len(value.shape) + 1)
    return view(value, (at,))


def _squeeze(input: object, dim: object) -> Node:
    value = tensor(input)
    at = _dim(dim, len(value.shape))
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
    first, second = _dim(dim0, len(value.shape)), _dim(dim1, len(value.shape))
    order = list(range(len(value.shape)))
    order[first], order[second] = second, first
    return _permute(value, tuple(order))


def _reversed(input: object) -> Node:
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
    return sizes(value) if dim is None else sizes(value)[_dim(dim, len(value.shape))]


def _count(shape: Shape) -> Node:
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
    return _count(tensor(input).shape)


def _dim(dim: object, rank: int) -> int:
    if not isinstance(dim, int) or isinstance(dim, bool) or not -rank <= dim < rank:
        raise NoTemplateError("a dimension is not known, or is outside")
    return dim % rank


def _dims(value: Node, dim: object) -> tuple[int, ...]:
    rank = len(value.shape)
    if dim is None:
        return tuple(range(rank))
    given = dim if isinstance(dim, tuple) else (dim,)
    found = tuple(sorted({_dim(one, rank) for one in given}))
    return found or tuple(range(rank))


PROPERTIES: Mapping[str, Callable[[Node], object]] = {
    "shape": sizes,
    "dtype": lambda value: DtypeOf(value.dtype),
    "T": _reversed,
    "mT": lambda value: _transpose(value, -1, -2),
    "ndim": lambda value: len(value.shape),
}


# --- reductions ----------------------------------------------------------------------------------


def _keep(keepdim: object) -> bool:
    return bool(number(keepdim))


def _sum(
    input: object, dim: object = None, keepdim: object = False, *, dtype: object = None
) -> Node:
    value = tensor(input) if dtype is None else _to(input, dtype)
    if value.dtype == BOOL:
        raise NoTemplateError("it counts flags")
    return reduction("sum", value, _dims(value, dim), keepdim=_keep(keepdim))


def _prod(input: object, dim: object = None, keepdim: object = False) -> Node:
    value = tensor(input)
    return reduction("prod", value, _dims(value, dim), keepdim=_keep(keepdim))


def _mean(
    input: object, dim: object = None, keepdim: object = False, *, dtype: object = None
) -> Node:
    value = tensor(input)
    total = _sum(input, dim, keepdim, dtype=dtype)
    count = _count(tuple(value.shape[at] for at in _dims(value, dim)))
    return elementwise("div", total, count)


def _extreme(op: str, elements: Callable[[Node, Node], Node]) -> Callable[..., object]:
    def apply(input: object, dim: object = None, keepdim: object = False) -> object:
        value = tensor(input)
        if isinstance(dim, Node) and not dim.number:
            return elements(value, dim)
        found = reduction(op, value, _dims(value, dim), keepdim=_keep(keepdim))
        return found if dim is None else Extremes(found)

    return apply


def _extreme_of(op: str) -> Callable[..., object]:
    def apply(input: object, dim: object = None, keepdim: object = False) -> Node:
        value = tensor(input)
        return reduction(op, value, _dims(value, dim), keepdim=_keep(keepdim))

    return apply


def _top(value: Node, dims: tuple[int, ...]) -> Node:
    """The maximum that is subtracted before exp: NaN shows in the sum anyway."""
    shape = tuple(1 if at in dims else size for at, size in enumerate(value.shape))
    return Node("max", (value,), shape, value.dtype, dims=dims, keepdim=True, nan_safe=True)


def _softmax(
    input: object, dim: object = None, _stacklevel: object = 3, dtype: object = None
) -> Node:
    value = tensor(input) if dtype is None else _to(input, dtype)
    dims = (_dim(dim, len(value.shape)),)
    raised = elementwise("exp", elementwise("sub", value, _top(value, dims)))
    return elementwise("div", raised, reduction("sum", raised, dims, keepdim=True))


def _softmin(input: object, dim: object = None) -> Node:
    return _softmax(elementwise("neg", tensor(input)), dim)


def _log_softmax(
    input: object,
    dim: object = None,
    _stacklevel: object = 3,
    dtype: object = None,
) -> Node:
    value = tensor(input) if dtype is None else _to(input, dtype)
    dims = (_dim(dim, len(value.shape)),)
    shifted = elementwise("sub", value, _top(value, dims))
    total = reduction("sum", elementwise("exp", shifted), dims, keepdim=True)
    return elementwise("sub", shifted, elementwise("log", total))


def _logsumexp(input: object, dim: object, keepdim: object = False) -> Node:
    value = tensor(input)
    dims = _dims(value, dim)
    top = _top(value, dims)
    infinite = elementwise("eq", elementwise("abs", top), constant(INF))
    shift = elementwise("where", infinite, constant(0), top)
    raised = elementwise("exp", elementwise("sub", value, shift))
    total = elementwise("log", reduction("sum", raised, dims, keepdim=True))
    result = elementwise("add", total, shift)
    if _keep(keepdim):
        return result
    shape = tuple(size for at, size in enumerate(value.shape) if at not in dims)
    return Node("drop", (result,), shape, result.dtype, dims=dims)


def _variance(value: Node, dims: tuple[int, ...], correction: float, *, keepdim: bool) -> Node:
    count = _count(tuple(value.shape[at] for at in dims))
    mean = elementwise("div", reduction("sum", value, dims, keepdim=True), count)
    apart = elementwise("sub", value, mean)
    total = reduction("sum", elementwise("mul", apart, apart), dims, keepdim=keepdim)
    if correction:
        count = elementwise("sub", count, constant(correction))
    return elementwise("div", total, count)


def _var(
    input: object,
    dim: object = None,
    unbiased: object = True,
    keepdim: object = False,
    *,
    correction: object = None,
) -> Node:
    value = tensor(input)
    less = float(bool(number(unbiased))) if correction is None else number(correction)
    if value.shape and less and not _dims(value, dim):
        raise NoTemplateError("its variance is over no dimension")
    return _variance(value, _dims(value, dim), less, keepdim=_keep(keepdim))


def _std(*args: object, **kwargs: object) -> Node:
    return elementwise("sqrt", tensor(call("var", args, kwargs)))


def _norm(input: object, p: object = 2, dim: object = None, keepdim: object = False) -> Node:
    value = tensor(input)
    dims, keep = _dims(value, dim), _keep(keepdim)
    if p in (2, None, "fro"):
        squares = elementwise("mul", value, value)
        return elementwise("sqrt", reduction("sum", squares, dims, keepdim=keep))
    if p == 1:
        return reduction("sum", elementwise("abs", value), dims, keepdim=keep)
    if p == INF:
        return reduction("max", elementwise("abs", value), dims, keepdim=keep)
    raise NoTemplateError("no template knows this norm")


def _vector_norm(
    input: object, ord: object = 2, dim: object = None, keepdim: object = False
) -> Node:
    return _norm(input, ord, dim, keepdim)


def _normalize(input: object, p: object = 2.0, dim: object = 1, eps: object = 1e-12) -> Node:
    length = _norm(input, p, dim, keepdim=True)
    return elementwise("div", tensor(input), _at_least(length, eps))


def _cosine_similarity(x1: object, x2: object, dim: object = 1, eps: object = 1e-8) -> Node:
    left, right = tensor(x1), tensor(x2)
    lengths = [_at_least(_norm(one, 2, dim), eps) for one in (left, right)]
    dot = _sum(elementwise("mul", left, right), dim)
    return elementwise("div", dot, elementwise("mul", *lengths))


def _layer_norm(
    input: object,
    normalized_shape: object,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
) -> Node:
    value = tensor(input)
    dims = _trailing(value, normalized_shape)
    count = _count(tuple(value.shape[at] for at in dims))
    mean = elementwise("div", reduction("sum", value, dims, keepdim=True), count)
    apart = elementwise("sub", value, mean)
    squares = reduction("sum", elementwise("mul", apart, apart), dims, keepdim=True)
    variance = elementwise("div", squares, count)
    scale = elementwise("rsqrt", elementwise("add", variance, node(eps)))
    return _affine(elementwise("mul", apart, scale), weight, bias, value)


def _rms_norm(
    input: object, normalized_shape: object, weight: object = None, eps: object = None
) -> Node:
    value = tensor(input)
    if eps is None:
        raise NoTemplateError("its eps depends on the dtype: pass one")
    dims = _trailing(value, normalized_shape)
    count = _count(tuple(value.shape[at] for at in dims))
    squares = reduction("sum", elementwise("mul", value, value), dims, keepdim=True)
    mean = elementwise("div", squares, count)
    scale = elementwise("rsqrt", elementwise("add", mean, node(eps)))
    return _affine(elementwise("mul", value, scale), weight, None, value)


def _trailing(value: Node, shape: object) -> tuple[int, ...]:
    count = len(shape) if isinstance(shape, tuple) else 1
    if not 1 <= count <= len(value.shape):
        raise NoTemplateError("its normalized_shape does not fit")
    return tuple(range(len(value.shape) - count, len(value.shape)))


def _affine(value: Node, weight: object, bias: object, like: Node) -> Node:
    """Scale and shift; the result has the input's dtype."""
    if weight is not None:
        value = elementwise("mul", value, tensor(weight))
    if bias is not None:
        value = elementwise("add", value, tensor(bias))
    return value if value.dtype == like.dtype else _typed(value, like)


# --- losses --------------------------------------------------------------------------------------


def _reduced(value: Node, how: object) -> Node:
    match how:
        case "none":
            return value
        case "sum":
            return _sum(value)
        case "mean":
            return _mean(value)
    raise NoTemplateError("no template knows this reduction of a loss")


def _mse_loss(input: object, target: object, *, reduction: object = "mean") -> Node:
    apart = elementwise("sub", tensor(input), tensor(target))
    return _reduced(elementwise("mul", apart, apart), reduction)


def _l1_loss(input: object, target: object, *, reduction: object = "mean") -> Node:
    apart = elementwise("sub", tensor(input), tensor(target))
    return _reduced(elementwise("abs", apart), reduction)


def _huber(apart: Node, beta: object, *, smooth: bool) -> Node:
    size = elementwise("abs", apart)
    square = elementwise("mul", constant(0.5), elementwise("mul", apart, apart))
    line = elementwise("sub", size, _times(0.5, beta))
    if smooth:
        square = square if beta == 1 else elementwise("div", square, node(beta))
    else:
        line = _times(line, beta)
    return elementwise("where", elementwise("lt", size, node(beta)), square, line)


def _smooth_l1_loss(
    input: object,
    target: object,
    *,
    reduction: object = "mean",
    beta: object = 1.0,
) -> Node:
    if beta == 0:
        return _l1_loss(input, target, reduction=reduction)
    apart = elementwise("sub", tensor(input), tensor(target))
    return _reduced(_huber(apart, beta, smooth=True), reduction)


def _huber_loss(
    input: object,
    target: object,
    *,
    reduction: object = "mean",
    delta: object = 1.0,
) -> Node:
    apart = elementwise("sub", tensor(input), tensor(target))
    return _reduced(_huber(apart, delta, smooth=False), reduction)


def _bce_with_logits(input: object, target: object, *, reduction: object = "mean") -> Node:
    value, wanted = tensor(input), tensor(target)
    rest = elementwise("mul", elementwise("sub", constant(1), wanted), value)
    return _reduced(elementwise("sub", rest, _logsigmoid(value)), reduction)


# --- products ------------------------------------------------------------------------------------


def _matmul(input: object, other: object) -> Node:
    left, right = tensor(input), tensor(other)
    if len(left.shape) < 2 or len(right.shape) != 2:
        raise NoTemplateError("its matrix product is not of matrices")
    if left.shape[-1] != right.shape[0]:
        raise NoTemplateError(f"{left.shape} and {right.shape} cannot be multiplied")
    shape = (*left.shape[:-1], right.shape[1])
    return Node("matmul", (left, right), shape, left.dtype | right.dtype)


def _linear(input: object, weight: object, bias: object = None) -> Node:
    product = _matmul(input, _reversed(weight))
    return product if bias is None else elementwise("add", product, tensor(bias))


def _addmm(
    input: object, mat1: object, mat2: object, *, beta: object = 1, alpha: object = 1
) -> Node:
    product = _times(_matmul(mat1, mat2), alpha)
    return elementwise("add", product, _times(tensor(input), beta))


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{
        name: _unary(name)
        for name in (
            ("exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "sin", "cos")
            + ("tanh", "sigmoid", "erf", "abs", "neg", "floor", "ceil")
        )
    },
    "negative": _unary("neg"),
    "absolute": _unary("abs"),
    "expit": _unary("sigmoid"),
    "logical_not": _unary("not"),
    "square": lambda input: _pow(tensor(input), 2),
    "reciprocal": lambda input: elementwise("div", constant(1), tensor(input)),
    "isnan": lambda input: elementwise("ne", tensor(input), tensor(input)),
    "sign": _sign,
    **{
        name: _binary(op)
        for op, *names in (
            ("mul", "mul", "multiply"),
            ("eq", "eq"),
            ("ne", "ne", "not_equal"),
            ("lt", "lt", "less"),
            ("le", "le", "less_equal"),
            ("gt", "gt", "greater"),
            ("ge", "ge", "greater_equal"),
            ("and", "and", "logical_and"),
            ("or", "or", "logical_or"),
        )
        for name in names
    },
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "div": _div,
    "divide": _div,
    "true_divide": _div,
    "pow": _pow,
    "where": _where,
    "masked_fill": _masked_fill,
    "maximum": lambda input, other: _maximum(tensor(input), tensor(other)),
    "minimum": lambda input, other: _minimum(tensor(input), tensor(other)),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda input, min: _clamp(input, min),
    "clamp_max": lambda input, max: _clamp(input, None, max),
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "relu": _relu,
    "relu6": _relu6,
    "silu": _silu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "elu": _elu,
    "selu": _selu,
    "softplus": _softplus,
    "mish": _mish,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "logsigmoid": _logsigmoid,
    "softsign": _softsign,
    "tanhshrink": _tanhshrink,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "to": _to,
    "type": _to,
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
    "t": _reversed,
    "size": _size_of,
    "numel": _numel,
    "dim": lambda input: len(tensor(input).shape),
    "sum": _sum,
    "prod": _prod,
    "mean": _mean,
    "max": _extreme("max", _maximum),
    "min": _extreme("min", _minimum),
    "amax": _extreme_of("max"),
    "amin": _extreme_of("min"),
    "softmax": _softmax,
    "softmin": _softmin,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "var": _var,
    "std": _std,
    "norm": _norm,
    "vector_norm": _vector_norm,
    "normalize": _normalize,
    "cosine_similarity": _cosine_similarity,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "mse_loss": _mse_loss,
    "l1_loss": _l1_loss,
    "smooth_l1_loss": _smooth_l1_loss,
    "huber_loss": _huber_loss,
    "binary_cross_entropy_with_logits": _bce_with_logits,
    "matmul": _matmul,
    "mm": _matmul,
    "linear": _linear,
    "addmm": _addmm,
}
