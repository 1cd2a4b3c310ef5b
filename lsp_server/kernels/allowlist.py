"""Level 1: the syntax tree of a module keeps to an allow-list, so that the kernel does the work.

Rule: pure, and what is not known to be harmless is refused, with its line. Host code may allocate,
look at shapes, make views and launch; kernels may use their language. Must not know what is right:
what this cannot see (aliases, data flow through containers) is caught while running.
"""

from __future__ import annotations

import ast

from lsp_server.kernels import allowlist_words as words
from lsp_server.kernels import c_source, loaders
from lsp_server.kernels.allowlist_host import HostCode
from lsp_server.kernels.allowlist_kernel import KernelCode, decorators
from lsp_server.kernels.allowlist_names import Names, Refused
from lsp_server.kernels.task import Check, Language, Level, Result, Task


def check(tree: ast.Module, task: Task) -> Check:
    """Read a candidate's module. The first thing that is not allowed is what it fails for."""
    try:
        _read(tree, task)
    except Refused as refused:
        return Check(
            Level.ALLOWED,
            Result.FAILED,
            reason=str(refused),
            line=refused.line,
            column=refused.column,
        )
    except RecursionError:
        return Check(Level.ALLOWED, Result.FAILED, reason="it is nested too deeply")
    return Check(Level.ALLOWED, Result.PASSED)


def called(tree: ast.Module) -> frozenset[str]:
    """The functions of a library of C or CUDA that host code names."""
    libraries = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and _loads(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in libraries
    )


def _loads(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == loaders.NAME
    )


def _read(tree: ast.Module, task: Task) -> None:
    names = Names(task)
    _everywhere(tree, task.language)
    body = [node for node in tree.body if not loaders.is_loader(node, task.language)]
    for node in body:
        _declare(node, names)
    source = _source(tree, names)
    host = HostCode(names, source)
    kernels = KernelCode(names)
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name in names.kernels:
            kernels.function(node, host)
        elif isinstance(node, ast.FunctionDef):
            host.function(node)
        else:
            _top(node, host)
    if not host.launches:
        raise Refused(names.functions[task.name], "no kernel is launched")


def _everywhere(tree: ast.Module, language: Language) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.MatMult):
            continue  # it has no line; its operation has
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            raise Refused(node, "`@` computes outside of a kernel")
        if isinstance(node, ast.Name) and node.id.startswith("__") and node.id != "__all__":
            raise Refused(node, f"{node.id} is not allowed")
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise Refused(node, f"{node.attr} is not allowed")


def _declare(node: ast.stmt, names: Names) -> None:
    """Take note of what a statement at the top of the module brings in."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            names.add_import(node, alias.name, alias.asname)
    elif isinstance(node, ast.ImportFrom):
        if node.level or node.module is None:
            raise Refused(node, "only whole modules may be imported")
        for alias in node.names:
            names.add_from(node, node.module, alias.name, alias.asname)
    elif isinstance(node, ast.FunctionDef):
        if node.name == loaders.NAME and names.task.language in loaders.TEXT:
            raise Refused(node, f"{loaders.NAME} is not the loader that midspan writes")
        names.add_function(node, kernel=bool(decorators(node, names)))
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                names.add_constant(target, library=_loads(node.value))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        names.add_constant(node.target, library=False)


def _source(tree: ast.Module, names: Names) -> str:
    """Read the C or CUDA source, where the language has one."""
    language = names.task.language
    if language not in loaders.TEXT:
        return ""
    found = loaders.source_of(tree)
    if found is None:
        raise Refused(names.functions[names.task.name], "there is no SOURCE with the kernel in it")
    text, line = found
    for offset, reason in c_source.problems(text, language):
        raise Refused(line + offset - 1, reason)
    return text


def _top(node: ast.stmt, host: HostCode) -> None:
    """A statement at the top of the module that is no function."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # the docstring
    if isinstance(node, ast.Assign | ast.AnnAssign):
        if node.value is not None and _loads(node.value):
            return
        host.constant(node)
        return
    if isinstance(node, ast.Expr):
        raise Refused(node, "nothing may be called while the module loads")
    raise Refused(node, f"{words_for(node)} is not allowed at the top of the module")


def words_for(node: ast.AST) -> str:
    """What a statement or expression is called in a sentence."""
    return words.NODES.get(type(node).__name__, type(node).__name__)
