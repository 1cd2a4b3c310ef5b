"""The few lines that let a module with C or CUDA source in it stand alone.

Rule: a kernel's module carries its language's loader word for word, and it is the only code in it
that the allow-list lets start a compiler. The checks never run it: they build the source themselves
and hand the library in. Must not know what a kernel computes.
"""

from __future__ import annotations

import ast
from functools import cache

from lsp_server.kernels.task import Language

NAME = "_load"

C = '''\
def _load(source: str) -> ctypes.CDLL:
    """Compile C source and load it."""
    import pathlib
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / "kernel.so"
        command = ["cc", "-O3", "-std=c11", "-shared", "-fPIC", "-x", "c", "-", "-lm", "-o"]
        subprocess.run([*command, str(library)], input=source, text=True, check=True)
        return ctypes.CDLL(str(library))
'''

CUDA = '''\
def _load(source: str) -> ctypes.CDLL:
    """Compile CUDA source for this machine's device and load it."""
    import pathlib
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.cu"
        path.write_text(source)
        library = path.with_suffix(".so")
        command = ["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC", str(path), "-o"]
        subprocess.run([*command, str(library)], check=True)
        return ctypes.CDLL(str(library))
'''

TEXT = {Language.C: C, Language.CUDA: CUDA}


@cache
def _shape(language: Language) -> str:
    return ast.dump(ast.parse(TEXT[language]).body[0])


def is_loader(node: ast.stmt, language: Language) -> bool:
    """Whether this statement is the language's loader, word for word (layout aside)."""
    return language in TEXT and ast.dump(node) == _shape(language)


def source_of(tree: ast.Module) -> tuple[str, int] | None:
    """Find the C or CUDA source: the constant string named SOURCE, and the line it begins on."""
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "SOURCE"
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            return node.value.value, node.value.lineno
    return None
