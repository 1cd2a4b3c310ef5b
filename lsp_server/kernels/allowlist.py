"""placeholder"""

import ast

from lsp_server.kernels.task import Check, Level, Result, Task


def check(tree: ast.Module, task: Task) -> Check:
    """Nothing yet."""
    return Check(Level.ALLOWED, Result.PASSED)
