"""What host code may do: allocate, look at shapes, make views, launch.

Rule: pure. Each expression has a kind (a tensor, a plain value, or unknown); nothing but views may
be made of what is known to be a tensor. What is not in the tables is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import ClassVar

from lsp_server.kernels import allowlist_words as words
from lsp_server.kernels.allowlist_names import Names, Refused
from lsp_server.kernels.task import Language

TENSOR, PLAIN, UNKNOWN, CALLABLE = "tensor", "plain", "unknown", "callable"
Kinds = dict[str, str]

_ANNOTATION = (
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp),
    *(ast.BitOr, ast.expr_context),
)


class HostCode:
    """Reads host functions. `launches` counts what they launch."""

    def __init__(self, names: Names, source: str) -> None:
        self._names = names
        self._source = source
        self.launches = 0

    # Functions and statements

    def constant(self, node: ast.Assign | ast.AnnAssign) -> None:
        """`NAME = value` at the top of the module, or a library function's argument types."""
        if isinstance(node, ast.AnnAssign):
            self._annotation(node.annotation)
        if node.value is None:
            return
        kind = self.expression(node.value, {})
        if kind == TENSOR:
            raise Refused(node, "a tensor may not be kept between calls")
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if not isinstance(target, ast.Name):
                self._assign(target, kind, {})

    def signature(self, node: ast.FunctionDef | ast.Lambda) -> None:
        """Parameters: plain defaults, and annotations that only name types."""
        arguments = node.args
        for default in (*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)):
            self.expression(default, {})
        for one in _parameters(arguments):
            if one.annotation is not None:
                self._annotation(one.annotation)
            if self._names.taken(one.arg):
                raise Refused(one, f"{one.arg} is bound twice")
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            self._annotation(node.returns)

    def function(self, node: ast.FunctionDef) -> None:
        """Read a host function; Refused at the first thing that is not allowed."""
        self.signature(node)
        given = {p.name: p.kind for p in self._names.task.parameters}
        kinds: Kinds = {}
        for one in _parameters(node.args):
            annotated = ast.unparse(one.annotation) if one.annotation is not None else ""
            if node.name == self._names.task.name and one.arg in given:
                kinds[one.arg] = TENSOR if given[one.arg] == "tensor" else PLAIN
            else:
                kinds[one.arg] = TENSOR if "Tensor" in annotated else UNKNOWN
        self._body(node.body, kinds)

    def _body(self, body: list[ast.stmt], kinds: Kinds) -> None:
        for statement in body:
            name = type(statement).__name__
            reader = self._statements.get(name)
            if reader is None:
                raise Refused(statement, f"{words.NODES.get(name, name)} is not allowed")
            reader(self, statement, kinds)

    def _return(self, node: ast.Return, kinds: Kinds) -> None:
        if node.value is not None:
            self.expression(node.value, kinds)

    def _expr(self, node: ast.Expr, kinds: Kinds) -> None:
        self.expression(node.value, kinds)

    def _pass(self, node: ast.stmt, kinds: Kinds) -> None:
        pass

    def _assignment(self, node: ast.Assign, kinds: Kinds) -> None:
        kind = self.expression(node.value, kinds)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                self._pairwise(target, node.value, kinds)
            else:
                self._assign(target, kind, kinds)

    def _pairwise(self, target: ast.Tuple, value: ast.Tuple, kinds: Kinds) -> None:
        if len(target.elts) != len(value.elts):
            self._assign(target, UNKNOWN, kinds)
            return
        found = [self.expression(one, kinds) for one in value.elts]
        for one, kind in zip(target.elts, found, strict=True):
            self._assign(one, kind, kinds)

    def _annotated(self, node: ast.AnnAssign, kinds: Kinds) -> None:
        self._annotation(node.annotation)
        if node.value is not None:
            self._assign(node.target, self.expression(node.value, kinds), kinds)

    def _augmented(self, node: ast.AugAssign, kinds: Kinds) -> None:
        self._plain(node.value, kinds)
        if not isinstance(node.target, ast.Name):
            raise Refused(node, "only names may be counted up")
        if kinds.get(node.target.id) == TENSOR:
            raise Refused(node, "arithmetic on a tensor belongs in the kernel")
        self._assign(node.target, PLAIN, kinds)

    def _if(self, node: ast.If | ast.While, kinds: Kinds) -> None:
        self._plain(node.test, kinds)
        self._body(node.body, kinds)
        self._body(node.orelse, kinds)

    def _for(self, node: ast.For, kinds: Kinds) -> None:
        if self.expression(node.iter, kinds) == TENSOR:
            raise Refused(node.iter, "a loop over a tensor belongs in the kernel")
        self._assign(node.target, UNKNOWN, kinds)
        self._body(node.body, kinds)
        self._body(node.orelse, kinds)

    def _with(self, node: ast.With, kinds: Kinds) -> None:
        for item in node.items:
            call = item.context_expr
            name = self._names.dotted(call.func) if isinstance(call, ast.Call) else None
            if name not in words.CONTEXTS or item.optional_vars is not None:
                raise Refused(node, "this context is not allowed")
            assert isinstance(call, ast.Call)
            for argument in call.args:
                self.expression(argument, kinds)
        self._body(node.body, kinds)

    def _assert(self, node: ast.Assert, kinds: Kinds) -> None:
        self._plain(node.test, kinds)
        if node.msg is not None:
            self.expression(node.msg, kinds)

    def _raise(self, node: ast.Raise, kinds: Kinds) -> None:
        if node.exc is not None:
            self.expression(node.exc, kinds)

    def _nested(self, node: ast.FunctionDef, kinds: Kinds) -> None:
        if node.decorator_list:
            raise Refused(node, "a function here may have no decorator")
        self.signature(node)
        inner = {**kinds, **{one.arg: UNKNOWN for one in _parameters(node.args)}}
        self._body(node.body, inner)
        self._assign(ast.Name(node.name, lineno=node.lineno, col_offset=0), CALLABLE, kinds)

    _statements: ClassVar[dict[str, Callable[..., None]]] = {
        "Return": _return,
        "Expr": _expr,
        "Pass": _pass,
        "Break": _pass,
        "Continue": _pass,
        "Assign": _assignment,
        "AnnAssign": _annotated,
        "AugAssign": _augmented,
        "If": _if,
        "While": _if,
        "For": _for,
        "With": _with,
        "Assert": _assert,
        "Raise": _raise,
        "FunctionDef": _nested,
    }

    def _assign(self, target: ast.expr, kind: str, kinds: Kinds) -> None:
        if isinstance(target, ast.Name):
            if self._names.taken(target.id) or target.id in words.BUILTINS:
                raise Refused(target, f"{target.id} is bound twice")
            # What is a tensor on one way through stays one.
            kinds[target.id] = TENSOR if kinds.get(target.id) == TENSOR and kind != PLAIN else kind
        elif isinstance(target, ast.Tuple | ast.List):
            inner = PLAIN if kind == PLAIN else UNKNOWN
            for one in target.elts:
                self._assign(one.value if isinstance(one, ast.Starred) else one, inner, kinds)
        elif isinstance(target, ast.Subscript):
            if self.expression(target.value, kinds) == TENSOR:
                raise Refused(target, "writing to a tensor belongs in the kernel")
            self.expression(target.slice, kinds)
        elif isinstance(target, ast.Attribute) and target.attr in ("argtypes", "restype"):
            self._library_function(target.value)
        else:
            raise Refused(target, "nothing may be patched")

    def _annotation(self, node: ast.expr) -> None:
        for one in ast.walk(node):
            if not isinstance(one, _ANNOTATION):
                raise Refused(node, "an annotation may only name types")

    # Expressions

    def expression(self, node: ast.expr, kinds: Kinds) -> str:
        """Read an expression and say what kind it is; Refused when it is not allowed."""
        name = type(node).__name__
        reader = self._expressions.get(name)
        if reader is None:
            raise Refused(node, f"{words.NODES.get(name, name)} is not allowed")
        return str(reader(self, node, kinds))

    def _plain(self, node: ast.expr, kinds: Kinds) -> str:
        kind = self.expression(node, kinds)
        if kind == TENSOR:
            raise Refused(node, "arithmetic on a tensor belongs in the kernel")
        return kind

    def _constant(self, node: ast.Constant, kinds: Kinds) -> str:
        return PLAIN

    def _name(self, node: ast.Name, kinds: Kinds) -> str:
        if node.id in kinds:
            return kinds[node.id]
        names = self._names
        if node.id in names.constants:
            return PLAIN
        if node.id in names.imports and names.imports[node.id] in words.VALUES:
            return PLAIN
        if node.id in words.BUILTINS and not names.taken(node.id):
            return PLAIN
        raise Refused(node, f"{node.id} is not allowed here")

    def _attribute(self, node: ast.Attribute, kinds: Kinds) -> str:
        dotted = self._names.dotted(node)
        if dotted is not None:
            if dotted in words.VALUES or dotted.startswith("math."):
                return PLAIN
            raise Refused(node, f"{dotted} is not allowed here")
        kind = self.expression(node.value, kinds)
        if node.attr in words.METHODS_TENSOR:
            return TENSOR if kind == TENSOR and node.attr != "data_ptr" else UNKNOWN
        if node.attr in words.METHODS_PLAIN and not (
            kind == TENSOR
            and node.attr in ("max", "min", "prod", "count", "index", "type", "value")
        ):
            return PLAIN
        if kind == TENSOR:
            raise Refused(node, f".{node.attr} of a tensor is not allowed: the kernel computes")
        raise Refused(node, f".{node.attr} is not allowed")

    def _operation(self, node: ast.BinOp, kinds: Kinds) -> str:
        self._plain(node.left, kinds)
        self._plain(node.right, kinds)
        return PLAIN

    def _unary(self, node: ast.UnaryOp, kinds: Kinds) -> str:
        self._plain(node.operand, kinds)
        return PLAIN

    def _boolean(self, node: ast.BoolOp, kinds: Kinds) -> str:
        for value in node.values:
            self._plain(value, kinds)
        return PLAIN

    def _compare(self, node: ast.Compare, kinds: Kinds) -> str:
        same = all(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops)
        for value in (node.left, *node.comparators):
            if same:
                self.expression(value, kinds)
            else:
                self._plain(value, kinds)
        return PLAIN

    def _either(self, node: ast.IfExp, kinds: Kinds) -> str:
        self._plain(node.test, kinds)
        both = {self.expression(node.body, kinds), self.expression(node.orelse, kinds)}
        return TENSOR if TENSOR in both else both.pop() if len(both) == 1 else UNKNOWN

    def _subscript(self, node: ast.Subscript, kinds: Kinds) -> str:
        kind = self.expression(node.value, kinds)
        if self.expression(node.slice, kinds) == TENSOR:
            raise Refused(node, "indexing with a tensor belongs in the kernel")
        return kind

    def _slice(self, node: ast.Slice, kinds: Kinds) -> str:
        for part in (node.lower, node.upper, node.step):
            if part is not None:
                self._plain(part, kinds)
        return PLAIN

    def _sequence(self, node: ast.Tuple | ast.List, kinds: Kinds) -> str:
        found = {self.expression(one, kinds) for one in node.elts}
        return PLAIN if found <= {PLAIN} else UNKNOWN

    def _starred(self, node: ast.Starred, kinds: Kinds) -> str:
        return self._plain(node.value, kinds)

    def _dictionary(self, node: ast.Dict, kinds: Kinds) -> str:
        for one in (*node.keys, *node.values):
            if one is not None:
                self.expression(one, kinds)
        return UNKNOWN

    def _text(self, node: ast.JoinedStr, kinds: Kinds) -> str:
        for one in node.values:
            if isinstance(one, ast.FormattedValue):
                self._plain(one.value, kinds)
        return PLAIN

    def _lambda(self, node: ast.Lambda, kinds: Kinds) -> str:
        self.signature(node)
        inner = {**kinds, **{one.arg: UNKNOWN for one in _parameters(node.args)}}
        self.expression(node.body, inner)
        return CALLABLE

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp, kinds: Kinds) -> str:
        inner = dict(kinds)
        for one in node.generators:
            if self.expression(one.iter, inner) == TENSOR:
                raise Refused(one.iter, "a loop over a tensor belongs in the kernel")
            self._assign(one.target, UNKNOWN, inner)
            for test in one.ifs:
                self._plain(test, inner)
        self._plain(node.elt, inner)
        return UNKNOWN

    # Calls

    def _call(self, node: ast.Call, kinds: Kinds) -> str:
        function = node.func
        if isinstance(function, ast.Subscript):
            return self._launch(node, function, kinds)
        given = self._arguments(node, kinds)
        if isinstance(function, ast.Name):
            return self._named(node, function, given, kinds)
        dotted = self._names.dotted(function)
        if dotted is not None:
            if dotted not in words.CALLABLE and not dotted.startswith("math."):
                raise Refused(node, f"{dotted} may not be called: the kernel computes")
            if dotted.startswith("math.") and TENSOR in given:
                raise Refused(node, "arithmetic on a tensor belongs in the kernel")
            return TENSOR if dotted in words.GIVES_TENSOR else PLAIN
        if isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name) and function.value.id in self._names.libraries:
                self._library_function(function)
                self.launches += 1
                return PLAIN
            return self._attribute(function, kinds)
        raise Refused(node, "only named functions may be called")

    def _arguments(self, node: ast.Call, kinds: Kinds) -> set[str]:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return {self.expression(value, kinds) for value in values}

    def _named(self, node: ast.Call, function: ast.Name, given: set[str], kinds: Kinds) -> str:
        name, names = function.id, self._names
        if name in kinds:
            if kinds[name] != CALLABLE:
                raise Refused(node, f"{name} may not be called")
            return UNKNOWN
        if name in names.kernels:
            if names.task.language is not Language.NUMBA:
                raise Refused(node, f"{name} is a kernel: launch it with a grid")
            self.launches += 1
            return UNKNOWN
        if name in names.functions:
            return UNKNOWN
        if name in names.imports and names.imports[name] in words.CALLABLE:
            return TENSOR if names.imports[name] in words.GIVES_TENSOR else PLAIN
        if name in words.BUILTINS and not names.taken(name):
            if TENSOR in given and name not in words.LOOKS_ONLY:
                raise Refused(node, f"{name} of a tensor belongs in the kernel")
            return UNKNOWN if TENSOR in given else PLAIN
        raise Refused(node, f"{name} may not be called")

    def _launch(self, node: ast.Call, function: ast.Subscript, kinds: Kinds) -> str:
        kernel = function.value
        if not (isinstance(kernel, ast.Name) and kernel.id in self._names.kernels):
            raise Refused(node, "only kernels of this module may be launched")
        if self._names.task.language is not Language.TRITON:
            raise Refused(node, f"{kernel.id} takes no grid")
        self.expression(function.slice, kinds)
        for keyword in node.keywords:
            if keyword.arg == "grid" or keyword.arg == "warmup":
                raise Refused(node, f"a launch may not be given {keyword.arg}")
        self._arguments(node, kinds)
        self.launches += 1
        return PLAIN

    def _library_function(self, node: ast.expr) -> None:
        if not (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in self._names.libraries
            and re.search(rf"\b{re.escape(node.attr)}\s*\(", self._source)
        ):
            raise Refused(node, f"{ast.unparse(node)[:60]} is no function of the kernel's source")

    _expressions: ClassVar[dict[str, Callable[..., str]]] = {
        "Constant": _constant,
        "Name": _name,
        "Attribute": _attribute,
        "BinOp": _operation,
        "UnaryOp": _unary,
        "BoolOp": _boolean,
        "Compare": _compare,
        "IfExp": _either,
        "Subscript": _subscript,
        "Slice": _slice,
        "Tuple": _sequence,
        "List": _sequence,
        "Starred": _starred,
        "Dict": _dictionary,
        "JoinedStr": _text,
        "Lambda": _lambda,
        "ListComp": _comprehension,
        "GeneratorExp": _comprehension,
        "Call": _call,
    }


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*found, *(one for one in (arguments.vararg, arguments.kwarg) if one is not None)]
