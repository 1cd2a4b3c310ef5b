"""The graph's operations as each language writes them, and expressions made of them.

Rule: a table per language with each operator's binding strength, so that brackets stand only where
they are needed. An operation that a language lacks is a NoTemplateError. Knows no loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lsp_server.kernels.templates.ir import BOOL, VIEWS, Node, NoTemplateError

ATOM = 20  # binds strongest: names, calls, what is in brackets
_NEGATIVE = 12
_NOT_CHAINED = (5, 13)  # comparisons and powers: `a < b < c` means something else

Row = tuple[str, int]  # the text, with its arguments numbered; how strongly it binds


@dataclass(frozen=True, slots=True)
class Spelling:
    """A language's expressions."""

    rows: Mapping[str, Row]
    literal: Callable[[float], str]

    def expression(self, node: Node, name_of: Callable[[Node], str | None]) -> str:
        """Write a node; `name_of` gives what has a name already. Raises NoTemplateError."""
        return self._write(node, name_of)[0]

    def _write(self, node: Node, name_of: Callable[[Node], str | None]) -> tuple[str, int]:
        name = name_of(node)
        if name is not None:
            return name, ATOM
        if node.op == "const":
            text = self.literal(node.value)
            return text, _NEGATIVE if text.startswith("-") else ATOM
        if node.op in VIEWS:
            return self._write(node.args[0], name_of)
        if node.op == "cast":
            return self._cast(node, name_of)
        if node.op not in self.rows:
            raise NoTemplateError(f"there is no {node.op} for this language")
        text, strength = self.rows[node.op]
        infix = strength < ATOM
        written = []
        for at, arg in enumerate(node.args):
            inner, binds = self._write(arg, name_of)
            weak = binds < strength or (binds == strength and (at > 0 or strength in _NOT_CHAINED))
            weak = weak or (node.op == "neg" and inner.startswith("-"))
            written.append(f"({inner})" if infix and weak else inner)
        return text.format(*written), strength

    def _cast(self, node: Node, name_of: Callable[[Node], str | None]) -> tuple[str, int]:
        """A cast is of the result alone; flags become numbers."""
        (arg,) = node.args
        if arg.dtype != BOOL:
            return self._write(arg, name_of)
        chosen = Node("where", (arg, Node("const", value=1.0), Node("const", value=0.0)))
        return self._write(chosen, name_of)


_INFIX_PYTHON: dict[str, Row] = {
    "add": ("{0} + {1}", 10),
    "sub": ("{0} - {1}", 10),
    "mul": ("{0} * {1}", 11),
    "div": ("{0} / {1}", 11),
    "neg": ("-{0}", _NEGATIVE),
    "eq": ("{0} == {1}", 5),
    "ne": ("{0} != {1}", 5),
    "lt": ("{0} < {1}", 5),
    "le": ("{0} <= {1}", 5),
    "gt": ("{0} > {1}", 5),
    "ge": ("{0} >= {1}", 5),
}


def _call(text: str) -> Row:
    return text, ATOM


def _python_literal(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    return repr(value)


# Numbers that are known when the kernel is launched, in Python.
HOST = Spelling(
    _INFIX_PYTHON
    | {
        "pow": ("{0} ** {1}", 13),
        **{name: _call(f"math.{name}({{0}})") for name in ("sqrt", "exp", "log", "log2")},
    },
    _python_literal,
)

TRITON = Spelling(
    _INFIX_PYTHON
    | {
        "and": ("{0} & {1}", 8),
        "or": ("{0} | {1}", 6),
        "not": ("~{0}", _NEGATIVE),
        "where": _call("tl.where({0}, {1}, {2})"),
        **{
            name: _call(f"tl.{name}({{0}})")
            for name in (
                ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "sigmoid")
                + ("erf", "abs", "floor", "ceil")
            )
        },
        **{name: _call(f"_{name}({{0}})") for name in ("tanh", "expm1", "log1p")},
    },
    _python_literal,
)

# Helpers for what tl lacks and libdevice has only on some devices, exact for small arguments.
TRITON_HELPERS: Mapping[str, str] = {
    "expm1": '''
@triton.jit
def _expm1(x):
    """exp(x) - 1, exact for small x (Kahan)."""
    u = tl.exp(x)
    near = (u - 1.0) * x / tl.where(u == 1.0, 1.0, tl.log(u))
    far = (u < 0.5) | (u > 2.0) | (u != u)
    return tl.where(far, u - 1.0, tl.where(u == 1.0, x, near))
''',
    "log1p": '''
@triton.jit
def _log1p(x):
    """log(1 + x), exact for small x (Kahan)."""
    u = 1.0 + x
    near = tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0)
    far = (tl.abs(x) > 0.5) | (x != x)
    return tl.where(far, tl.log(u), tl.where(u == 1.0, x, near))
''',
    "tanh": '''
@triton.jit
def _tanh(x):
    """tanh from exp(-2|x|) - 1, exact for small x."""
    t = _expm1(-2.0 * tl.abs(x))
    y = -t / (2.0 + t)
    return tl.where(x < 0.0, -y, y)
''',
}
HELPERS_OF_HELPERS: Mapping[str, tuple[str, ...]] = {"tanh": ("expm1",)}

_MATH = {
    name: _call(f"math.{name}({{0}})")
    for name in (("exp", "log", "log2", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "erf"))
}
NUMBA = Spelling(
    _INFIX_PYTHON
    | _MATH
    | {
        "pow": ("{0} ** {1}", 13),
        "and": ("{0} and {1}", 3),
        "or": ("{0} or {1}", 2),
        "not": ("not {0}", 4),
        "where": _call("({1} if {0} else {2})"),
        "abs": _call("abs({0})"),
        "floor": _call("np.floor({0})"),  # math's would be an integer
        "ceil": _call("np.ceil({0})"),
        "exp2": _call("2.0 ** ({0})"),
        "rsqrt": _call("(1.0 / math.sqrt({0}))"),
        "sigmoid": _call("(1.0 / (1.0 + math.exp(-({0}))))"),
    },
    lambda value: (
        ("math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf")
        if not math.isfinite(value)
        else repr(value)
    ),
)


def c_spelling(*, double: bool) -> Spelling:
    """Return C's expressions, also CUDA's: with `f` behind names and literals, or without."""
    f = "" if double else "f"

    def literal(value: float) -> str:
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "-INFINITY"
        return f"{value!r}{f}"

    named = {"abs": "fabs"} | {
        name: name
        for name in (
            ("exp", "exp2", "log", "log2", "log1p", "expm1", "sqrt", "sin", "cos", "tanh", "erf")
            + ("floor", "ceil")
        )
    }
    return Spelling(
        _INFIX_PYTHON
        | {op: _call(f"{name}{f}({{0}})") for op, name in named.items()}
        | {
            "pow": _call(f"pow{f}({{0}}, {{1}})"),
            "and": ("{0} && {1}", 3),
            "or": ("{0} || {1}", 2),
            "not": ("!{0}", _NEGATIVE),
            "where": _call("({0} ? {1} : {2})"),
            "rsqrt": _call(f"(1.0{f} / sqrt{f}({{0}}))"),
            "sigmoid": _call(f"(1.0{f} / (1.0{f} + exp{f}(-({{0}}))))"),
        },
        literal,
    )
