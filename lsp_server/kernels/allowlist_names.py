"""The names of a kernel's module and what they stand for.

Rule: a name stands for one thing; none may be bound again. Must not know what is allowed where.
"""

from __future__ import annotations

import ast

from lsp_server.kernels import allowlist_words as words
from lsp_server.kernels.task import Task


class Refused(Exception):
    """Something is not allowed; `line` and `column` are 1-based, 0 where unknown."""

    def __init__(self, where: ast.AST | int, reason: str) -> None:
        super().__init__(reason)
        self.line = where if isinstance(where, int) else getattr(where, "lineno", 0)
        self.column = 0 if isinstance(where, int) else getattr(where, "col_offset", -1) + 1


class Names:
    """What is defined at the top of the module."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.imports: dict[str, str] = {}  # name: dotted
        self.functions: dict[str, ast.FunctionDef] = {}
        self.kernels: set[str] = set()
        self.constants: set[str] = set()
        self.libraries: set[str] = set()

    def add_import(self, node: ast.stmt, module: str, name: str | None) -> None:
        """`import module as name`."""
        if module not in words.IMPORTS[self.task.language]:
            raise Refused(
                node, f"importing {module} is not allowed in a {self.task.language} kernel"
            )
        if name is None:
            name = module = module.partition(".")[0]
        self._bind(node, name)
        self.imports[name] = module

    def add_from(self, node: ast.stmt, module: str, name: str, alias: str | None) -> None:
        """`from module import name as alias`."""
        allowed = words.IMPORTS[self.task.language]
        if name == "*" or (module not in allowed and not module.startswith(words.TL_LIBDEVICE)):
            raise Refused(node, f"importing {name} from {module} is not allowed")
        if module in ("__future__", "typing"):
            return
        dotted = f"{module}.{name}"
        known = (
            words.VALUES | words.NUMBA | words.NUMBA_DECORATORS | set(words.TUNING) | words.CONTEXTS
        )
        if not (
            dotted in known
            or dotted in allowed
            or module == "math"
            or dotted in words.TL
            or dotted.startswith(words.TL_LIBDEVICE)
        ):
            raise Refused(node, f"importing {dotted} is not allowed")
        self._bind(node, alias or name)
        self.imports[alias or name] = dotted

    def add_function(self, node: ast.FunctionDef, *, kernel: bool) -> None:
        """`def`."""
        self._bind(node, node.name)
        self.functions[node.name] = node
        if kernel:
            self.kernels.add(node.name)

    def add_constant(self, target: ast.Name, *, library: bool) -> None:
        """`NAME = …`."""
        self._bind(target, target.id)
        (self.libraries if library else self.constants).add(target.id)

    def _bind(self, node: ast.AST, name: str) -> None:
        if self.taken(name) or name in words.BUILTINS:
            raise Refused(node, f"{name} is bound twice")

    def taken(self, name: str) -> bool:
        """Whether a name at the top stands for something that code may not replace."""
        return (
            name in self.imports
            or name in self.functions
            or name in self.constants
            or name in self.libraries
        )

    def dotted(self, node: ast.expr) -> str | None:
        """Follow `tl.math.exp` to "triton.language.math.exp"; None when no import is behind it."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return f"{base}.{node.attr}" if base else None
        return None
