"""A reference's syntax tree, followed to the graph of what it computes.

Rule: a small interpreter of straight-line Python: assignments, calls of torch and of the module's
own helpers, branches that are decided by what is known now. Anything else is a NoTemplateError; the
file is never run. Operations of torch are a table of their own (`torch_ops`).
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lsp_server.kernels import inputs
from lsp_server.kernels.task import Parameter, Task
from lsp_server.kernels.templates import torch_ops
from lsp_server.kernels.templates.ir import BOOL, VIEWS, Node, NoTemplateError, below, elementwise
from lsp_server.kernels.templates.operands import FLOATS, Extremes
from lsp_server.kernels.templates.shaping import PROPERTIES
from lsp_server.kernels.templates.shaping import index as index_of

MAX_CALLS = 20  # of helpers inside helpers

Value = object  # a Node, a Python constant, a tuple of these, or one of the classes below


@dataclass(frozen=True, slots=True)
class Fixed:
    """A whole number or flag that is a parameter: its value is known for the task's own value."""

    name: str
    value: int | bool


@dataclass(frozen=True, slots=True)
class Name:
    """A module or a function of one, such as torch.nn.functional.silu."""

    path: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a tensor, not yet called."""

    owner: Node
    name: str


@dataclass(slots=True)
class Graph:
    """What a reference computes. `fixed` are parameters that it holds for one value of only."""

    root: Node
    labels: dict[Node, str]
    fixed: dict[str, int | bool]


def trace(task: Task) -> Graph:
    """Return the graph of the task's reference. Raises NoTemplateError."""
    tree = ast.parse(task.source)
    tracer = _Tracer(tree)
    function = tracer.functions[task.name]
    given = {parameter.name: _argument(parameter) for parameter in task.parameters}
    result = tracer.call(function, (), given)
    if not isinstance(result, Node) or result.number:
        raise NoTemplateError("it does not return one tensor")
    if result.op == "load":
        raise NoTemplateError("it returns one of its parameters")
    return Graph(result, tracer.labels, tracer.fixed)


def _argument(parameter: Parameter) -> Value:
    if parameter.kind == "tensor":
        if parameter.dtype not in (*FLOATS, "bool"):
            raise NoTemplateError(f"{parameter.name} is a tensor of {parameter.dtype}")
        dtype = "=bool" if parameter.dtype == "bool" else parameter.name
        return Node("load", shape=parameter.shape, dtype=frozenset({dtype}), name=parameter.name)
    if parameter.kind == "float":
        return Node("scalar", number=True, name=parameter.name)
    assert isinstance(parameter.value, (int, bool))
    return Fixed(parameter.name, parameter.value)


_BINARY: Mapping[type[ast.operator], tuple[str, Callable[..., object]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv),
    ast.Pow: ("pow", operator.pow),
    ast.FloorDiv: ("", operator.floordiv),
    ast.Mod: ("", operator.mod),
    ast.BitAnd: ("and", operator.and_),
    ast.BitOr: ("or", operator.or_),
    ast.MatMult: ("matmul", operator.matmul),
}
_COMPARE: Mapping[type[ast.cmpop], tuple[str, Callable[..., object]]] = {
    ast.Eq: ("eq", operator.eq),
    ast.NotEq: ("ne", operator.ne),
    ast.Lt: ("lt", operator.lt),
    ast.LtE: ("le", operator.le),
    ast.Gt: ("gt", operator.gt),
    ast.GtE: ("ge", operator.ge),
    ast.Is: ("", operator.is_),
    ast.IsNot: ("", operator.is_not),
}


@dataclass(slots=True)
class _Tracer:
    tree: ast.Module
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    names: dict[str, Value] = field(default_factory=dict)
    labels: dict[Node, str] = field(default_factory=dict)
    fixed: dict[str, int | bool] = field(default_factory=dict)
    frames: list[dict[str, Value]] = field(default_factory=list)  # the names of calls under way

    def __post_init__(self) -> None:
        for statement in self.tree.body:
            match statement:
                case ast.Import(names=names):
                    for alias in names:
                        path = alias.name if alias.asname else alias.name.partition(".")[0]
                        self.names[alias.asname or path] = Name(path)
                case ast.ImportFrom(module=str(module), names=names):
                    for alias in names:
                        self.names[alias.asname or alias.name] = Name(f"{module}.{alias.name}")
                case ast.FunctionDef(name=name):
                    self.functions[name] = statement
                case ast.Assign(targets=[ast.Name(id=name)], value=given):
                    self.names[name] = self.value(given, {})

    # --- calls and statements ---------------------------------------------------------------

    def call(
        self, function: ast.FunctionDef, args: tuple[Value, ...], kwargs: Mapping[str, Value]
    ) -> Value:
        if len(self.frames) == MAX_CALLS:
            raise NoTemplateError(f"{function.name} calls itself")
        self.frames.append(self._bind(function, args, dict(kwargs)))
        done, value = self._run(function.body, self.frames[-1])
        self.frames.pop()
        if not done:
            raise NoTemplateError(f"{function.name} may return nothing")
        return value

    def _bind(
        self, function: ast.FunctionDef, args: tuple[Value, ...], kwargs: dict[str, Value]
    ) -> dict[str, Value]:
        given = function.args
        positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
        if len(args) > len(positional) or given.vararg or given.kwarg:
            raise NoTemplateError(f"{function.name} is called in an unusual way")
        bound = dict(zip(positional, args, strict=False)) | kwargs
        defaults = inputs.defaults(function)
        for name in (*positional, *(argument.arg for argument in given.kwonlyargs)):
            if name not in bound:
                if name not in defaults:
                    raise NoTemplateError(f"{function.name} is called without {name}")
                bound[name] = self.value(defaults[name], {})
        return bound

    def _run(self, body: list[ast.stmt], local: dict[str, Value]) -> tuple[bool, Value]:
        """Follow statements; return whether they returned, and what."""
        for statement in body:
            match statement:
                case ast.Return(value=None):
                    raise NoTemplateError("it returns nothing")
                case ast.Return(value=ast.expr() as given):
                    return True, self.value(given, local)
                case ast.Assign(targets=[target], value=given):
                    self._assign(target, self.value(given, local), local)
                case ast.AnnAssign(target=target, value=ast.expr() as given):
                    self._assign(target, self.value(given, local), local)
                case ast.AugAssign(target=ast.Name(id=name) as target, op=kind, value=given):
                    before = local.get(name)
                    self._check_own(name, before, local)
                    self._assign(
                        target, self._binary(kind, before, self.value(given, local)), local
                    )
                case ast.If(test=test, body=then, orelse=other):
                    branch = then if self.truth(self.value(test, local)) else other
                    done, value = self._run(branch, local)
                    if done:
                        return True, value
                case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Assert():
                    pass
                case _:
                    kind_name = type(statement).__name__.lower()
                    raise NoTemplateError(f"no template knows the statement {kind_name!r}")
        return False, None

    def _check_own(self, name: str, value: Value, local: Mapping[str, Value]) -> None:
        """Make sure that a tensor which is changed in place is nobody else's as well.

        For numbers `+=` makes a new one. Raises NoTemplateError.
        """
        if not isinstance(value, Node) or value.number:
            return
        if value.op in VIEWS | {"load"}:
            raise NoTemplateError(f"it changes {name} in place")
        for frame in self.frames:
            for other, held in frame.items():
                if (frame is not local or other != name) and _shares(held, value):
                    raise NoTemplateError(f"it changes {name} in place, and {other} with it")

    def _assign(self, target: ast.expr, value: Value, local: dict[str, Value]) -> None:
        match target:
            case ast.Name(id=name):
                local[name] = value
                if isinstance(value, Node) and value.op not in ("load", "scalar", "const", "size"):
                    self.labels.setdefault(value, name)
            case ast.Tuple(elts=targets) if isinstance(value, tuple) and len(value) == len(targets):
                for part, inner in zip(targets, value, strict=True):
                    self._assign(part, inner, local)
            case _:
                raise NoTemplateError(f"no template knows the assignment to {ast.unparse(target)}")

    # --- expressions ------------------------------------------------------------------------

    def value(self, node: ast.expr, local: Mapping[str, Value]) -> Value:
        """Return what an expression is."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                if name in local:
                    return local[name]
                if name in self.names:
                    return self.names[name]
                return Name(name)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return tuple(self.value(part, local) for part in parts)
            case ast.Attribute(value=owner, attr=attribute):
                return self._attribute(self.value(owner, local), attribute)
            case ast.UnaryOp(op=kind, operand=operand):
                return self._unary(kind, self.value(operand, local))
            case ast.BinOp(left=left, op=operation, right=right):
                return self._binary(operation, self.value(left, local), self.value(right, local))
            case ast.Compare(left=left, ops=[comparison], comparators=[right]):
                return self._compare(comparison, self.value(left, local), self.value(right, local))
            case ast.BoolOp(op=kind_of, values=parts):
                truths = (self.truth(self.value(part, local)) for part in parts)
                return all(truths) if isinstance(kind_of, ast.And) else any(truths)
            case ast.IfExp(test=test, body=then, orelse=other):
                chosen = then if self.truth(self.value(test, local)) else other
                return self.value(chosen, local)
            case ast.Subscript(value=owner, slice=index):
                return self._subscript(self.value(owner, local), self._index(index, local))
            case ast.Call(func=called, args=args, keywords=keywords):
                return self._call(called, args, keywords, local)
        raise NoTemplateError(f"no template knows the expression {ast.unparse(node)[:60]}")

    def truth(self, value: Value) -> bool:
        """Decide a branch. Raises NoTemplateError where that takes the tensors' values."""
        value = self.known(value)
        if isinstance(value, (Node, Name, Method)):
            if isinstance(value, Node) and not value.number:
                raise NoTemplateError("it branches on what is in its tensors")
            raise NoTemplateError("it branches on what is not known before it runs")
        return bool(value)

    def known(self, value: Value) -> Value:
        """Return a value with parameters replaced by the one value that the kernel is for."""
        if isinstance(value, Fixed):
            self.fixed[value.name] = value.value
            return value.value
        if isinstance(value, tuple):
            return tuple(self.known(part) for part in value)
        return value

    def _attribute(self, owner: Value, attribute: str) -> Value:
        match owner:
            case Name(path=path):
                return (
                    math.__dict__[attribute]
                    if path == "math" and attribute in _MATH
                    else Name(f"{path}.{attribute}")
                )
            case Node() if not owner.number and attribute in PROPERTIES:
                return PROPERTIES[attribute](owner)
            case Node() if not owner.number:
                return Method(owner, attribute)
            case Extremes() if attribute == "values":
                return owner.values
        raise NoTemplateError(f"no template knows .{attribute} here")

    def _unary(self, kind: ast.unaryop, operand: Value) -> Value:
        operand = self.known(operand)
        match kind, operand:
            case ast.USub(), Node():
                return elementwise("neg", operand)
            case ast.USub(), int() | float():
                return -operand
            case ast.UAdd(), _:
                return operand
            case ast.Not(), _:
                return not self.truth(operand)
            case ast.Invert(), Node(dtype=dtype) if dtype == BOOL:
                return elementwise("not", operand)
        raise NoTemplateError("no template knows this operator")

    def _binary(self, kind: ast.operator, left: Value, right: Value) -> Value:
        left, right = self.known(left), self.known(right)
        if type(kind) not in _BINARY:
            raise NoTemplateError(f"no template knows the operator {type(kind).__name__}")
        name, plain = _BINARY[type(kind)]
        if isinstance(left, Node) or isinstance(right, Node):
            if not name:
                raise NoTemplateError(f"no template knows the operator {type(kind).__name__}")
            return torch_ops.call(name, (left, right), {})
        try:
            return plain(left, right)
        except (TypeError, ValueError, ArithmeticError) as exc:
            raise NoTemplateError("no template knows this operator here") from exc

    def _compare(self, kind: ast.cmpop, left: Value, right: Value) -> Value:
        left, right = self.known(left), self.known(right)
        if type(kind) not in _COMPARE:
            raise NoTemplateError(f"no template knows the comparison {type(kind).__name__}")
        name, plain = _COMPARE[type(kind)]
        if isinstance(kind, (ast.Is, ast.IsNot)):
            return plain(left, right)
        if isinstance(left, Node) or isinstance(right, Node):
            return torch_ops.call(name, (left, right), {})
        try:
            return plain(left, right)
        except TypeError as exc:
            raise NoTemplateError("no template knows this comparison here") from exc

    def _index(self, node: ast.expr, local: Mapping[str, Value]) -> Value:
        if isinstance(node, ast.Slice):
            ends = (
                None if end is None else self.value(end, local)
                for end in (node.lower, node.upper, node.step)
            )
            return slice(*ends)
        if isinstance(node, ast.Tuple):
            return tuple(self._index(part, local) for part in node.elts)
        return self.known(self.value(node, local))

    def _subscript(self, owner: Value, index: Value) -> Value:
        if isinstance(owner, Node):
            return index_of(owner, index)
        if isinstance(owner, Extremes) and index == 0:
            return owner.values
        if isinstance(owner, tuple) and isinstance(index, (int, slice)):
            try:
                return owner[index]
            except (IndexError, TypeError, ValueError) as exc:
                raise NoTemplateError("an index is outside") from exc
        raise NoTemplateError("no template knows this index")

    def _call(
        self,
        called: ast.expr,
        args: list[ast.expr],
        keywords: list[ast.keyword],
        local: Mapping[str, Value],
    ) -> Value:
        if any(isinstance(arg, ast.Starred) for arg in args) or any(
            keyword.arg is None for keyword in keywords
        ):
            raise NoTemplateError("it calls with a number of arguments that is not plain")
        given = tuple(self.value(arg, local) for arg in args)
        named = {str(keyword.arg): self.value(keyword.value, local) for keyword in keywords}
        if isinstance(called, ast.Name) and called.id not in local and called.id in self.functions:
            return self.call(self.functions[called.id], given, named)
        target = self.value(called, local)
        given = tuple(self.known(value) for value in given)
        named = {name: self.known(value) for name, value in named.items()}
        match target:
            case Method(owner=owner, name=name):
                return torch_ops.call(name, (owner, *given), named)
            case Name(path=path) if path.partition(".")[0] == "torch":
                return torch_ops.call(path.removeprefix("torch."), given, named)
            case Name(path="float" | "int" | "len" | "min" | "max" | "abs" as path):
                return _builtin(path, given)
            case _ if callable(target) and inspect.isbuiltin(target):
                return _math(target, given)
        raise NoTemplateError(f"no template knows {ast.unparse(called)}")


def _shares(held: Value, value: Node) -> bool:
    """Whether a name's value is the tensor `value`, a view of it, or has it inside."""
    if isinstance(held, tuple):
        return any(_shares(part, value) for part in held)
    return isinstance(held, Node) and below(held, VIEWS) is value


_MATH = frozenset({"pi", "e", "inf", "nan", "tau", "sqrt", "log", "exp", "log2", "pow"})


def _math(function: Callable[..., object], given: tuple[Value, ...]) -> Value:
    """A function of math: on what is known now, or on a number of the call."""
    name = getattr(function, "__name__", "")
    if any(isinstance(value, Node) for value in given):
        nodes = tuple(value for value in given if isinstance(value, Node) and value.number)
        if len(given) == 1 == len(nodes) and name in ("sqrt", "log", "exp", "log2"):
            return elementwise(name, nodes[0])
        raise NoTemplateError(f"no template knows math.{name} here")
    try:
        return function(*given)
    except (TypeError, ValueError, OverflowError) as exc:
        raise NoTemplateError(f"math.{name} fails") from exc


def _builtin(name: str, given: tuple[Value, ...]) -> Value:
    if name == "float" and len(given) == 1:
        (value,) = given
        if isinstance(value, Node) and value.number:
            return value
        if isinstance(value, (int, float, str)):
            return float(value)
    if name == "len" and len(given) == 1 and isinstance(given[0], tuple):
        return len(given[0])
    raise NoTemplateError(f"no template knows {name} here")
