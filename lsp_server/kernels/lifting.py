"""`nn.Module.forward` as a function: the parameters that the module holds become the function's.

Rule: only what is plain to see: `nn.Parameter`s and numbers that `__init__` sets, `nn.Linear`, and
modules without parameters such as `nn.SiLU()`. Anything else is refused by its name. Pure: a
syntax tree in, a syntax tree out.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lsp_server.kernels import inputs
from lsp_server.kernels.standalone import UnsuitedError

# Modules of torch.nn that are a function of their input alone.
_FUNCTIONS: Mapping[str, str] = {
    "ReLU": "relu",
    "SiLU": "silu",
    "GELU": "gelu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "ReLU6": "relu6",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
}
_FILLED = frozenset({"ones", "zeros", "empty", "randn", "rand", "full", "Tensor", "FloatTensor"})


@dataclass(slots=True)
class _Held:
    """What a module holds, as its `__init__` says."""

    tensors: dict[str, tuple[ast.expr, ...]] = field(default_factory=dict)  # name → its sizes
    numbers: dict[str, ast.expr] = field(default_factory=dict)  # name → its default
    linears: dict[str, tuple[ast.expr, ast.expr, bool]] = field(default_factory=dict)
    functions: dict[str, tuple[str, list[ast.keyword]]] = field(default_factory=dict)


def lift(module: ast.ClassDef, forward: ast.FunctionDef) -> ast.FunctionDef:
    """Return `forward` as a function called after the class. Raises UnsuitedError."""
    if not forward.args.args or forward.args.posonlyargs:
        raise UnsuitedError("its forward has no self")
    owner = forward.args.args[0].arg
    held = _held(module)
    lifted = copy.deepcopy(forward)
    rewriting = _Rewriting(owner, held)
    lifted.body = [rewriting.visit(statement) for statement in lifted.body]
    lifted.name = snake(module.name)
    lifted.decorator_list = []
    given = lifted.args
    given.args.pop(0)
    taken = {argument.arg for argument in (*given.args, *given.kwonlyargs)}
    if clash := taken & rewriting.arguments.keys():
        raise UnsuitedError(f"self.{min(clash)} and a parameter of forward have the same name")
    first_default = len(given.args) - len(given.defaults)
    for name, (annotation, default) in rewriting.arguments.items():
        argument = ast.arg(name, ast.Constant(annotation) if "[" in annotation else None)
        if "[" not in annotation:
            argument.annotation = ast.Name(annotation, ast.Load())
        if default is None:
            given.args.insert(first_default, argument)
            first_default += 1
        else:
            given.kwonlyargs.append(argument)
            given.kw_defaults.append(default)
    return ast.fix_missing_locations(lifted)


def snake(name: str) -> str:
    """Return `LayerNorm2d` as `layer_norm2d`, `RMSNorm` as `rms_norm`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return name.lower().strip("_")


def _held(module: ast.ClassDef) -> _Held:
    init = next(
        (
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        ),
        None,
    )
    held = _Held()
    if init is None:
        return held
    defaults = inputs.defaults(init)
    for node in ast.walk(init):
        match node:
            case ast.Assign(
                targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value
            ):
                _note(held, name, value, defaults)
            case ast.AnnAssign(
                target=ast.Attribute(value=ast.Name(id="self"), attr=name),
                value=ast.expr() as value,
            ):
                _note(held, name, value, defaults)
    return held


def _note(held: _Held, name: str, value: ast.expr, defaults: Mapping[str, ast.expr]) -> None:
    match value:
        case ast.Call(func=ast.Attribute(attr="Parameter") | ast.Name(id="Parameter")):
            if value.args and (sizes := _sizes(value.args[0])) is not None:
                held.tensors[name] = sizes
        case ast.Call(func=ast.Attribute(attr="Linear") | ast.Name(id="Linear"), args=[i, o, *_]):
            options = {keyword.arg: keyword.value for keyword in value.keywords}
            bias = value.args[2] if len(value.args) > 2 else options.get("bias")
            if bias is None or isinstance(bias, ast.Constant):
                with_bias = bias is None or bool(bias.value)
                held.linears[name] = (i, o, with_bias)
        case ast.Call(func=ast.Attribute(attr=kind) | ast.Name(id=kind)) if kind in _FUNCTIONS:
            if not value.args:
                held.functions[name] = (_FUNCTIONS[kind], value.keywords)
        case ast.Name(id=source) if source in defaults:
            if inputs.constant(defaults[source]) is not None:
                held.numbers[name] = defaults[source]
        case _ if inputs.constant(value) is not None:
            held.numbers[name] = value


def _sizes(node: ast.expr) -> tuple[ast.expr, ...] | None:
    """The sizes in `torch.ones(dim)`; None where they are not plain."""
    match node:
        case ast.BinOp(left=left, right=right):
            return _sizes(left) or _sizes(right)
        case ast.Call(func=ast.Attribute(attr=kind), args=[first, *rest]) if kind in _FILLED:
            sizes = first.elts if isinstance(first, (ast.Tuple, ast.List)) else [first, *rest]
            sizes = sizes[:1] if kind == "full" and not isinstance(first, ast.Tuple) else sizes
            if all(isinstance(size, (ast.Name, ast.Constant)) for size in sizes):
                return tuple(sizes)
    return None


class _Rewriting(ast.NodeTransformer):
    """Replaces what `forward` takes from self by parameters, and collects these."""

    def __init__(self, owner: str, held: _Held) -> None:
        self._owner = owner
        self._held = held
        self.arguments: dict[str, tuple[str, ast.expr | None]] = {}  # annotation, default

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Attribute(value=ast.Name(id=self._owner), attr=name):
                arguments = [self.visit(argument) for argument in node.args]
                if name in self._held.linears and len(arguments) == 1:
                    return self._linear(name, arguments[0])
                if name in self._held.functions and len(arguments) == 1:
                    function, keywords = self._held.functions[name]
                    return ast.Call(_functional(function), arguments, copy.deepcopy(keywords))
                raise UnsuitedError(f"it calls self.{name}, which is more than a function")
        return self.generic_visit(node)

    def _linear(self, name: str, operand: ast.expr) -> ast.AST:
        inputs, outputs, bias = self._held.linears[name]
        self._add_tensor(f"{name}_weight", (outputs, inputs))
        operands = [operand, _name(f"{name}_weight")]
        if bias:
            self._add_tensor(f"{name}_bias", (outputs,))
            operands.append(_name(f"{name}_bias"))
        return ast.Call(_functional("linear"), operands, [])

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if not (isinstance(node.value, ast.Name) and node.value.id == self._owner):
            return self.generic_visit(node)
        if node.attr in self._held.tensors:
            self._add_tensor(node.attr, self._held.tensors[node.attr])
        elif node.attr in self._held.numbers:
            default = self._held.numbers[node.attr]
            kind = type(ast.literal_eval(default)).__name__
            self.arguments[node.attr] = (kind, copy.deepcopy(default))
        else:
            raise UnsuitedError(
                f"it needs self.{node.attr}, of which the class does not say enough"
            )
        return ast.copy_location(_name(node.attr), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == self._owner:
            raise UnsuitedError("it uses self as a whole")
        return node

    def _add_tensor(self, name: str, sizes: tuple[ast.expr, ...]) -> None:
        dims = " ".join(ast.unparse(size) for size in sizes)
        self.arguments[name] = (f"Float[Tensor, {dims!r}]", None)


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _functional(name: str) -> ast.expr:
    """`torch.nn.functional.NAME`, under the name that the taken module gives torch."""
    return ast.parse(f"torch.nn.functional.{name}", mode="eval").body
