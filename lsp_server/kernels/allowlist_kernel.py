"""What may stand in a kernel of Triton or Numba: its language, and nothing of Python around it.

Rule: pure; what is not in the tables is refused. In the interpreter a kernel is plain Python, so
this is what keeps it from doing what no GPU could.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from lsp_server.kernels import allowlist_words as words
from lsp_server.kernels.allowlist_names import Names, Refused
from lsp_server.kernels.task import Language

if TYPE_CHECKING:
    from lsp_server.kernels.allowlist_host import HostCode

_NODES = (
    *(ast.arguments, ast.arg, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If),
    *(ast.Expr, ast.Return, ast.Pass, ast.Break, ast.Continue, ast.Assert, ast.BinOp, ast.UnaryOp),
    *(ast.Compare, ast.BoolOp, ast.IfExp, ast.Call, ast.keyword, ast.Attribute, ast.Subscript),
    *(ast.Slice, ast.Tuple, ast.List, ast.Name, ast.Constant, ast.expr_context, ast.operator),
    *(ast.unaryop, ast.cmpop, ast.boolop),
)


def decorators(node: ast.FunctionDef, names: Names) -> list[ast.expr]:
    """The decorators that make a function a kernel; others are refused."""
    for one in node.decorator_list:
        dotted = names.dotted(one.func if isinstance(one, ast.Call) else one)
        if dotted not in words.TUNING and dotted not in words.NUMBA_DECORATORS:
            raise Refused(one, f"the decorator {ast.unparse(one)[:60]} is not allowed")
    return node.decorator_list


class KernelCode:
    """Reads kernels."""

    def __init__(self, names: Names) -> None:
        self._names = names
        numba = names.task.language is Language.NUMBA
        self._words = words.NUMBA if numba else words.TL
        self._methods = words.NUMBA_METHODS if numba else words.TL_METHODS
        self._numba = numba

    def function(self, node: ast.FunctionDef, host: HostCode) -> None:
        """Read a kernel with its decorators; Refused at the first thing that is not allowed."""
        for one in node.decorator_list:
            if isinstance(one, ast.Call):
                self._options(one, host)
        host.signature(node)
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            for inside in ast.walk(statement):
                self._node(inside)

    def _options(self, call: ast.Call, host: HostCode) -> None:
        dotted = self._names.dotted(call.func) or ""
        allowed = words.NUMBA_OPTIONS if self._numba else words.TUNING.get(dotted, frozenset())
        for keyword in call.keywords:
            if keyword.arg not in allowed:
                raise Refused(keyword.value, f"{dotted} may not be given {keyword.arg}")
            if keyword.arg == "nopython" and ast.unparse(keyword.value) != "True":
                raise Refused(keyword.value, "object mode is not allowed")
        for value in (*call.args, *(keyword.value for keyword in call.keywords)):
            host.expression(value, {})

    def _node(self, node: ast.AST) -> None:
        if not isinstance(node, _NODES):
            what = words.NODES.get(type(node).__name__, type(node).__name__)
            raise Refused(node, f"{what} is not allowed in a kernel")
        if isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Name):
            self._name(node)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    raise Refused(target, "nothing may be patched")

    def _attribute(self, node: ast.Attribute) -> None:
        dotted = self._names.dotted(node)
        if dotted is None:
            if node.attr not in self._methods:
                raise Refused(node, f".{node.attr} is not allowed in a kernel")
        elif not self._known(dotted) and not any(
            word.startswith(dotted + ".") for word in self._words
        ):
            raise Refused(node, f"{dotted} is not allowed in a kernel")

    def _known(self, dotted: str) -> bool:
        if dotted in self._words or (self._numba and dotted.startswith("math.")):
            return True
        return not self._numba and dotted.startswith(words.TL_LIBDEVICE)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name):
            name = function.id
            imported = self._names.imports.get(name)
            if not (
                name in self._names.kernels
                or (name in words.KERNEL_BUILTINS and not self._names.taken(name))
                or (imported is not None and self._known(imported))
            ):
                raise Refused(node, f"{name} may not be called in a kernel")
        elif not isinstance(function, ast.Attribute):
            raise Refused(node, "only named functions may be called in a kernel")

    def _name(self, node: ast.Name) -> None:
        name = node.id
        if isinstance(node.ctx, ast.Store):
            if self._names.taken(name):
                raise Refused(node, f"{name} is bound twice")
        elif name in self._names.functions and name not in self._names.kernels:
            raise Refused(node, f"{name} is no kernel and may not be used in one")
