"""Runs C (built with address and undefined-behaviour sanitisers) and CUDA kernels through ctypes.

Rule: the library is built elsewhere and handed in; the candidate's own loader is never run. The
sanitiser guards each tensor's allocation. Sandbox only.
"""

from __future__ import annotations

import ast
import ctypes
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from lsp_server.kernels.children import wire
from lsp_server.kernels.children.guards import Guarded, TorchGuard
from lsp_server.kernels.children.modules import load


class _Function:
    """A function of the library that counts its calls."""

    _name: str
    _function: Any
    _launches: list[dict[str, Any]]

    def __init__(self, name: str, function: Any, launches: list[dict[str, Any]]) -> None:
        self.__dict__.update(_name=name, _function=function, _launches=launches)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._function, name, value)

    def __call__(self, *args: Any) -> Any:
        self._launches.append({"kernel": self._name})
        return self._function(*args)


class _Library:
    """The library, with functions that count their calls."""

    def __init__(self, path: Path, launches: list[dict[str, Any]]) -> None:
        self._library = ctypes.CDLL(str(path))
        self._launches = launches
        self._functions: dict[str, _Function] = {}

    def __getattr__(self, name: str) -> _Function:
        if name not in self._functions:
            function = getattr(self._library, name)
            self._functions[name] = _Function(name, function, self._launches)
        return self._functions[name]


class NativeRunner:
    """A candidate's module, with its library built for the check."""

    def __init__(self, header: wire.Header, library: bytes, guard: TorchGuard) -> None:
        path = Path("/tmp/kernel.so")  # noqa: S108
        path.write_bytes(library)
        self.exact = header["language"] == "c"
        self.device = "cpu" if self.exact else "cuda"
        self._launches: list[dict[str, Any]] = []
        loaded = _Library(path, self._launches)

        def without_loader(source: str, name: str) -> CodeType:
            tree = ast.parse(source)
            tree.body = [
                node
                for node in tree.body
                if not (isinstance(node, ast.FunctionDef) and node.name == header["loader"])
            ]
            return compile(tree, name, "exec")

        module, self.path = load(
            "candidate",
            header["source"],
            prepare=lambda names: names.update({header["loader"]: lambda source: loaded}),
            compiled=without_loader,
        )
        self._function = module[header["name"]]

    def call(self, inputs: dict[str, Any], guarded: list[Guarded]) -> Any:
        """Call the candidate's function."""
        return self._function(**inputs)

    def launches(self) -> list[dict[str, Any]]:
        """Which of the library's functions were called."""
        found = list(self._launches)
        self._launches.clear()
        return found

    def wrote(self, output: torch.Tensor) -> bool:
        """Not seen for native code; poisoned memory shows what was not written."""
        return True
