"""Torch's operations that take many elements together: reductions, norms, losses, products.

Rule: written as sums, products and extremes along dimensions; knows no loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lsp_server.kernels.templates.ir import (
    BOOL,
    Node,
    NoTemplateError,
    constant,
    elementwise,
    reduction,
)
from lsp_server.kernels.templates.operands import INF, Extremes, node, number, tensor
from lsp_server.kernels.templates.pointwise import (
    at_least,
    logsigmoid,
    maximum,
    minimum,
    times,
    typed,
)
from lsp_server.kernels.templates.shaping import cast_to, count_of, dimension, dimensions, swapped


def _keep(keepdim: object) -> bool:
    return bool(number(keepdim))


def _sum(
    input: object, dim: object = None, keepdim: object = False, *, dtype: object = None
) -> Node:
    value = tensor(input) if dtype is None else cast_to(input, dtype)
    if value.dtype == BOOL:
        raise NoTemplateError("it counts flags")
    return reduction("sum", value, dimensions(value, dim), keepdim=_keep(keepdim))


def _prod(input: object, dim: object = None, keepdim: object = False) -> Node:
    value = tensor(input)
    return reduction("prod", value, dimensions(value, dim), keepdim=_keep(keepdim))


def _mean(
    input: object, dim: object = None, keepdim: object = False, *, dtype: object = None
) -> Node:
    value = tensor(input)
    total = _sum(input, dim, keepdim, dtype=dtype)
    count = count_of(tuple(value.shape[at] for at in dimensions(value, dim)))
    return elementwise("div", total, count)


def _extreme(op: str, elements: Callable[[Node, Node], Node]) -> Callable[..., object]:
    def apply(input: object, dim: object = None, keepdim: object = False) -> object:
        value = tensor(input)
        if isinstance(dim, Node) and not dim.number:
            return elements(value, dim)
        found = reduction(op, value, dimensions(value, dim), keepdim=_keep(keepdim))
        return found if dim is None else Extremes(found)

    return apply


def _extreme_of(op: str) -> Callable[..., object]:
    def apply(input: object, dim: object = None, keepdim: object = False) -> Node:
        value = tensor(input)
        return reduction(op, value, dimensions(value, dim), keepdim=_keep(keepdim))

    return apply


def _top(value: Node, dims: tuple[int, ...]) -> Node:
    """The maximum that is subtracted before exp: NaN shows in the sum anyway."""
    shape = tuple(1 if at in dims else size for at, size in enumerate(value.shape))
    return Node("max", (value,), shape, value.dtype, dims=dims, keepdim=True, nan_safe=True)


def _softmax(
    input: object, dim: object = None, _stacklevel: object = 3, dtype: object = None
) -> Node:
    value = tensor(input) if dtype is None else cast_to(input, dtype)
    dims = (dimension(dim, len(value.shape)),)
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
    value = tensor(input) if dtype is None else cast_to(input, dtype)
    dims = (dimension(dim, len(value.shape)),)
    shifted = elementwise("sub", value, _top(value, dims))
    total = reduction("sum", elementwise("exp", shifted), dims, keepdim=True)
    return elementwise("sub", shifted, elementwise("log", total))


def _logsumexp(input: object, dim: object, keepdim: object = False) -> Node:
    value = tensor(input)
    dims = dimensions(value, dim)
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


def _centred(value: Node, dims: tuple[int, ...]) -> tuple[Node, Node]:
    """A value without its mean, and how many elements that is over."""
    count = count_of(tuple(value.shape[at] for at in dims))
    mean = elementwise("div", reduction("sum", value, dims, keepdim=True), count)
    return elementwise("sub", value, mean), count


def _variance(value: Node, dims: tuple[int, ...], correction: float, *, keepdim: bool) -> Node:
    apart, count = _centred(value, dims)
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
    if value.shape and less and not dimensions(value, dim):
        raise NoTemplateError("its variance is over no dimension")
    return _variance(value, dimensions(value, dim), less, keepdim=_keep(keepdim))


def _std(
    input: object,
    dim: object = None,
    unbiased: object = True,
    keepdim: object = False,
    *,
    correction: object = None,
) -> Node:
    return elementwise("sqrt", _var(input, dim, unbiased, keepdim, correction=correction))


def _norm(input: object, p: object = 2, dim: object = None, keepdim: object = False) -> Node:
    value = tensor(input)
    dims, keep = dimensions(value, dim), _keep(keepdim)
    if p in (2, None, "fro"):
        squares = elementwise("mul", value, value)
        return elementwise("sqrt", reduction("sum", squares, dims, keepdim=keep))
    if p == 1:
        return reduction("sum", elementwise("abs", value), dims, keepdim=keep)
    if p == INF:
        return reduction("max", elementwise("abs", value), dims, keepdim=keep)
    raise NoTemplateError("no template knows this norm")


def _linalg_norm(
    input: object, ord: object = None, dim: object = None, keepdim: object = False
) -> Node:
    """Unlike torch.norm, an order alone is that of a matrix's norm."""
    if ord in (None, "fro"):
        return _norm(input, 2, dim, keepdim)
    if not isinstance(dim, int) and len(tensor(input).shape) != 1:
        raise NoTemplateError("no template knows norms of matrices")
    return _norm(input, ord, dim, keepdim)


def _vector_norm(
    input: object, ord: object = 2, dim: object = None, keepdim: object = False
) -> Node:
    return _norm(input, ord, dim, keepdim)


def _normalize(input: object, p: object = 2.0, dim: object = 1, eps: object = 1e-12) -> Node:
    length = _norm(input, p, dim, keepdim=True)
    return elementwise("div", tensor(input), at_least(length, eps))


def _cosine_similarity(x1: object, x2: object, dim: object = 1, eps: object = 1e-8) -> Node:
    left, right = tensor(x1), tensor(x2)
    lengths = [at_least(_norm(one, 2, dim), eps) for one in (left, right)]
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
    apart, count = _centred(value, dims)
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
    count = count_of(tuple(value.shape[at] for at in dims))
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
    return value if value.dtype == like.dtype else typed(value, like)


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
    line = elementwise("sub", size, times(0.5, beta))
    if smooth:
        square = square if beta == 1 else elementwise("div", square, node(beta))
    else:
        line = times(line, beta)
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
    return _reduced(elementwise("sub", rest, logsigmoid(value)), reduction)


def _matmul(input: object, other: object) -> Node:
    left, right = tensor(input), tensor(other)
    if len(left.shape) < 2 or len(right.shape) != 2:
        raise NoTemplateError("its matrix product is not of matrices")
    if left.shape[-1] != right.shape[0]:
        raise NoTemplateError(f"{left.shape} and {right.shape} cannot be multiplied")
    shape = (*left.shape[:-1], right.shape[1])
    return Node("matmul", (left, right), shape, left.dtype | right.dtype)


def _linear(input: object, weight: object, bias: object = None) -> Node:
    product = _matmul(input, swapped(weight))
    return product if bias is None else elementwise("add", product, tensor(bias))


def _addmm(
    input: object, mat1: object, mat2: object, *, beta: object = 1, alpha: object = 1
) -> Node:
    product = times(_matmul(mat1, mat2), alpha)
    return elementwise("add", product, times(tensor(input), beta))


REDUCING: Mapping[str, Callable[..., Any]] = {
    "sum": _sum,
    "prod": _prod,
    "mean": _mean,
    "max": _extreme("max", maximum),
    "min": _extreme("min", minimum),
    "amax": _extreme_of("max"),
    "amin": _extreme_of("min"),
    "softmax": _softmax,
    "softmin": _softmin,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "var": _var,
    "std": _std,
    "norm": _norm,
    "linalg.norm": _linalg_norm,
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
