"""A function taken out of its module, with the imports, helpers and constants that it needs.

Rule: what comes out is a whole module that means the same, or a refusal that says what stands in
the way; nothing is left out in silence. Pure: syntax trees and text. Annotations are never
evaluated (`from __future__ import annotations`), so they need not be importable.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence

# Modules that a reference may import; whatever runs it has these.
MODULES = frozenset(
    {
        "torch",
        "math",
        "typing",
        "typing_extensions",
        "collections",
        "functools",
        "itertools",
        "operator",
        "numbers",
    }
)
# Decorators that change how a function runs and not what it computes.
_DECORATORS = frozenset(
    {"compile", "script", "no_grad", "inference_mode", "jaxtyped", "beartype", "typechecked"}
)
_EFFECTS = frozenset(
    {"open", "print", "input", "eval", "exec", "compile", "__import__", "globals", "locals"}
    | {"setattr", "delattr", "breakpoint", "vars"}
)
_RANDOM = frozenset(
    {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm"}
    | {"dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"}
    | {"bernoulli", "multinomial", "normal", "poisson", "rrelu", "gumbel_softmax"}
)
_UNSUITED = {
    ast.AsyncFunctionDef: "it is asynchronous",
    ast.Await: "it is asynchronous",
    ast.Yield: "it is a generator",
    ast.YieldFrom: "it is a generator",
    ast.Global: "it changes global variables",
    ast.Nonlocal: "it changes variables of the function around it",
    ast.ClassDef: "it defines a class",
    ast.Try: "it handles exceptions",
}


class UnsuitedError(ValueError):
    """The function cannot stand alone; the message completes "NAME cannot be taken: …"."""


def take(tree: ast.Module, text: str, function: ast.FunctionDef) -> str:
    """Return a module with `function`, dedented, and all that it needs. Raises UnsuitedError."""
    return _Taking(tree, text).module(function)


def check(function: ast.FunctionDef) -> None:
    """Raise UnsuitedError for a function that no kernel can stand for."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = ast.unparse(called).rpartition(".")[2]
        if name not in _DECORATORS and name != "staticmethod":
            raise UnsuitedError(f"its decorator {name} may change what it does")
    if function.args.vararg or function.args.kwarg:
        raise UnsuitedError("it takes any number of arguments")
    parameters = {part.arg for part in ast.walk(function.args) if isinstance(part, ast.arg)}
    returns = False
    for node in ast.walk(function):
        if type(node) in _UNSUITED:
            raise UnsuitedError(_UNSUITED[type(node)])
        returns = returns or (isinstance(node, ast.Return) and node.value is not None)
        _check_node(node, parameters)
    if not returns:
        raise UnsuitedError("it returns nothing")


def _check_node(node: ast.AST, parameters: set[str]) -> None:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _EFFECTS:
            raise UnsuitedError(f"it calls {name}")
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _RANDOM:
            raise UnsuitedError(f"its result is random ({name})")
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if (
            owner in parameters and name.endswith("_") and not name.endswith("__")
        ):
            raise UnsuitedError(f"it changes its parameter {owner} in place ({name})")
        case ast.AugAssign(target=ast.Name(id=owner) | ast.Subscript(value=ast.Name(id=owner))) if (
            owner in parameters
        ):
            raise UnsuitedError(f"it changes its parameter {owner} in place")
        case ast.Assign(targets=targets):
            for target in targets:
                if isinstance(target, ast.Subscript) and (
                    isinstance(target.value, ast.Name) and target.value.id in parameters
                ):
                    raise UnsuitedError(f"it writes into its parameter {target.value.id}")


class _Taking:
    """The names of a module, and what has been taken of it so far."""

    def __init__(self, tree: ast.Module, text: str) -> None:
        self._text = text
        self._imports: dict[str, tuple[str, str]] = {}  # name → (module, statement)
        self._others: dict[str, ast.stmt] = {}
        self._taken: dict[int, str] = {}  # line → text, so that it keeps its order
        self._needed: set[str] = set()
        for statement in tree.body:
            self._note(statement)

    def _note(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import(names=names):
                for alias in names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    shown = f"import {alias.name}" + (f" as {alias.asname}" * bool(alias.asname))
                    self._imports[bound] = (alias.name, shown)
            case ast.ImportFrom(module=module, names=names, level=level):
                origin = "." * level + (module or "")
                for alias in names:
                    renamed = f" as {alias.asname}" * bool(alias.asname)
                    shown = f"from {origin} import {alias.name}{renamed}"
                    self._imports[alias.asname or alias.name] = (origin, shown)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self._others[name] = statement
            case ast.ClassDef(name=name):
                self._others[name] = statement
            case ast.Assign(targets=targets):
                for target in targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Name):
                            self._others[part.id] = statement
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                self._others[name] = statement

    def module(self, function: ast.FunctionDef) -> str:
        imports: set[str] = set()
        code = _text_of(self._text, function)
        self._take_names(_globals(code), {function.name}, imports)
        for annotation in _annotations(function):
            for node in ast.walk(annotation):
                if isinstance(node, ast.Name) and self._imports.get(node.id, ("",))[0] in (
                    "typing",
                    "torch",
                    "collections.abc",
                ):
                    imports.add(self._imports[node.id][1])
        helpers = [self._taken[line] for line in sorted(self._taken)]
        head = ["from __future__ import annotations", "", *sorted(imports), ""]
        return "\n".join(head) + "\n" + "\n\n\n".join([*helpers, code]) + "\n"

    def _take_names(self, names: Sequence[str], known: set[str], imports: set[str]) -> None:
        for name in names:
            if name in known:
                continue
            known.add(name)
            if name in self._others:
                self._take_statement(name, self._others[name], known, imports)
            elif name in self._imports:
                module, shown = self._imports[name]
                if module.partition(".")[0] not in MODULES:
                    raise UnsuitedError(f"it needs {name} from {module or '.'}, another file")
                imports.add(shown)
            elif not hasattr(builtins, name):
                raise UnsuitedError(f"it needs {name}, which this file does not define")

    def _take_statement(
        self, name: str, statement: ast.stmt, known: set[str], imports: set[str]
    ) -> None:
        if isinstance(statement, ast.FunctionDef):
            check(statement)
            code = _text_of(self._text, statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            if not _is_constant(statement.value):
                raise UnsuitedError(f"it needs {name}, which is no constant")
            code = ast.get_source_segment(self._text, statement) or ""
        else:
            raise UnsuitedError(f"it needs {name}, which cannot be taken along")
        self._take_names(_globals(code), known, imports)
        self._taken[statement.lineno] = code


def _is_constant(value: ast.expr | None) -> bool:
    """Whether evaluating it can neither fail nor change anything."""
    allowed = (
        ast.Constant,
        ast.UnaryOp,
        ast.BinOp,
        ast.Tuple,
        ast.List,
        ast.Name,
        ast.Attribute,
        ast.operator,
        ast.unaryop,
        ast.expr_context,
    )
    nodes = [] if value is None else list(ast.walk(value))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    inside = {id(part) for call in calls for part in ast.walk(call)}
    pure = all(
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "math"
        for call in calls
    )
    return (
        value is not None
        and pure
        and all(isinstance(node, allowed) or id(node) in inside for node in nodes)
    )


def _annotations(function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg) and node.annotation is not None:
            yield node.annotation
    if function.returns is not None:
        yield function.returns


def _text_of(text: str, function: ast.FunctionDef) -> str:
    """The function's text without its decorators, dedented."""
    code = ast.get_source_segment(text, function)
    if code is None:
        return ast.unparse(function)
    indent = " " * function.col_offset
    lines = code.split("\n")
    if function.col_offset and not all(
        line.startswith(indent) or not line.strip() for line in lines[1:]
    ):
        bare = ast.parse(ast.unparse(function)).body[0]
        assert isinstance(bare, ast.FunctionDef)
        bare.decorator_list = []
        return ast.unparse(bare)
    return "\n".join([lines[0], *(line.removeprefix(indent) for line in lines[1:])]).rstrip()


def _globals(code: str) -> list[str]:
    """The names that a statement looks up in its module, in no annotation."""
    bare = _Bare().visit(ast.parse(code))
    table = symtable.symtable(ast.unparse(bare), "<reference>", "exec")
    found: dict[str, None] = {}
    tables = [table]
    while tables:
        current = tables.pop(0)
        tables += current.get_children()
        for symbol in current.get_symbols():
            top = current is table
            if symbol.is_referenced() and (
                (top and not symbol.is_assigned()) or (not top and symbol.is_global())
            ):
                found[symbol.get_name()] = None
    return list(found)


class _Bare(ast.NodeTransformer):
    """Takes the annotations out."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        node.decorator_list = []
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(
            ast.fix_missing_locations(ast.Assign([node.target], self.visit(node.value))), node
        )
