"""Torch's operations on each element by itself, in the graph's few operations.

Rule: NaN and infinities come out as torch has them. Half precision is computed in single
precision, as torch's own kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lsp_server.kernels.templates.ir import Node, NoTemplateError, constant, elementwise
from lsp_server.kernels.templates.operands import SQRT_2_OVER_PI, SQRT_HALF, node, tensor


def _unary(op: str) -> Callable[..., object]:
    def apply(input: object) -> Node:
        return elementwise(op, node(input))

    return apply


def _binary(op: str) -> Callable[..., object]:
    def apply(input: object, other: object) -> Node:
        return elementwise(op, node(input), node(other))

    return apply


def _add(input: object, other: object, *, alpha: object = 1) -> Node:
    return elementwise("add", node(input), times(other, alpha))


def _sub(input: object, other: object, *, alpha: object = 1) -> Node:
    return elementwise("sub", node(input), times(other, alpha))


def times(value: object, factor: object) -> Node:
    """Return `value * factor`, and `value` itself for a factor of 1."""
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


def maximum(left: Node, right: Node) -> Node:
    """Return the greater of two; NaN in either shows, as torch has it."""
    wins = elementwise("or", elementwise("gt", left, right), elementwise("ne", left, left))
    return elementwise("where", wins, left, right)


def minimum(left: Node, right: Node) -> Node:
    """Return the smaller of two; NaN in either shows."""
    wins = elementwise("or", elementwise("lt", left, right), elementwise("ne", left, left))
    return elementwise("where", wins, left, right)


def at_least(value: Node, low: object) -> Node:
    """`clamp(min=)`; NaN stays."""
    bound = node(low)
    if not bound.number:
        return maximum(value, bound)
    return elementwise("where", elementwise("lt", value, bound), bound, value)


def _at_most(value: Node, high: object) -> Node:
    bound = node(high)
    if not bound.number:
        return minimum(value, bound)
    return elementwise("where", elementwise("gt", value, bound), bound, value)


def _clamp(input: object, min: object = None, max: object = None) -> Node:
    value = tensor(input)
    if min is None and max is None:
        raise NoTemplateError("clamp has no bounds")
    value = value if min is None else at_least(value, min)
    return value if max is None else _at_most(value, max)


def _relu(input: object, inplace: object = False) -> Node:
    return at_least(tensor(input), 0)


def _sigmoid(value: Node) -> Node:
    return elementwise("sigmoid", value)


def _silu(input: object, inplace: object = False) -> Node:
    value = tensor(input)
    return elementwise("mul", value, _sigmoid(value))


def _gelu(input: object, approximate: object = "none") -> Node:
    value = tensor(input)
    half = elementwise("mul", constant(0.5), value)
    if approximate == "none":
        inner = elementwise("erf", elementwise("mul", value, constant(SQRT_HALF)))
    elif approximate == "tanh":
        cube = elementwise("mul", constant(0.044715), _pow(value, 3))
        scaled = elementwise("mul", constant(SQRT_2_OVER_PI), elementwise("add", value, cube))
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
    below = times(elementwise("expm1", value), alpha)
    return elementwise("where", elementwise("gt", value, constant(0)), value, below)


def _selu(input: object, inplace: object = False) -> Node:
    return elementwise("mul", constant(1.0507009873554805), _elu(input, 1.6732632423543772))


def _softplus(input: object, beta: object = 1, threshold: object = 20) -> Node:
    value = tensor(input)
    scaled = times(value, beta)
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


def logsigmoid(input: object) -> Node:
    """Return log(sigmoid(x)), without overflow."""
    value = tensor(input)
    tail = elementwise("log1p", elementwise("exp", elementwise("neg", elementwise("abs", value))))
    return elementwise("sub", _at_most(value, 0), tail)


def _softsign(input: object) -> Node:
    value = tensor(input)
    return elementwise("div", value, elementwise("add", constant(1), elementwise("abs", value)))


def _tanhshrink(input: object) -> Node:
    value = tensor(input)
    return elementwise("sub", value, elementwise("tanh", value))


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
        "where", elementwise("gt", value, constant(0)), constant(1), typed(below, value)
    )


def typed(value: Node, like: Node) -> Node:
    """Return a value cast to the dtype of another."""
    return Node("cast", (value,), value.shape, like.dtype)


def _lerp(input: object, end: object, weight: object) -> Node:
    step = elementwise("mul", node(weight), elementwise("sub", tensor(end), tensor(input)))
    return elementwise("add", tensor(input), step)


def _addcmul(input: object, tensor1: object, tensor2: object, *, value: object = 1) -> Node:
    product = elementwise("mul", tensor(tensor1), tensor(tensor2))
    return elementwise("add", tensor(input), times(product, value))


def _addcdiv(input: object, tensor1: object, tensor2: object, *, value: object = 1) -> Node:
    quotient = elementwise("div", tensor(tensor1), tensor(tensor2))
    return elementwise("add", tensor(input), times(quotient, value))


POINTWISE: Mapping[str, Callable[..., Any]] = {
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
    "maximum": lambda input, other: maximum(tensor(input), tensor(other)),
    "minimum": lambda input, other: minimum(tensor(input), tensor(other)),
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
    "logsigmoid": logsigmoid,
    "softsign": _softsign,
    "tanhshrink": _tanhshrink,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
}
