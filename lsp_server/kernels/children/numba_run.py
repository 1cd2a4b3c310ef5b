"""Runs Numba kernels, compiled for this processor, with bounds checked.

Rule: object mode is an error. Sandbox only; NUMBA_BOUNDSCHECK is set by whoever starts it.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from numba.core.dispatcher import Dispatcher

from lsp_server.kernels.children import wire
from lsp_server.kernels.children.guards import Guarded, TorchGuard
from lsp_server.kernels.children.modules import load


class NumbaRunner:
    """A candidate's module; its kernels are counted where host code calls them."""

    exact = False
    device = "cpu"

    def __init__(self, header: wire.Header, guard: TorchGuard) -> None:
        self._launches: list[dict[str, Any]] = []
        module, self.path = load("candidate", header["source"])
        # Host code sees kernels that count; kernels that call each other see the real ones.
        names: dict[str, Any] = dict(module)
        for name, value in module.items():
            if isinstance(value, Dispatcher):
                names[name] = self._counted(name, value)
            elif isinstance(value, types.FunctionType) and value.__module__ == "candidate":
                names[name] = types.FunctionType(
                    value.__code__, names, name, value.__defaults__, value.__closure__
                )
                names[name].__kwdefaults__ = value.__kwdefaults__
        self._function = names[header["name"]]

    def _counted(self, name: str, kernel: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._launches.append({"kernel": name})
            return kernel(*args, **kwargs)

        return call

    def call(self, inputs: dict[str, Any], guarded: list[Guarded]) -> Any:
        """Call the candidate's function."""
        return self._function(**inputs)

    def launches(self) -> list[dict[str, Any]]:
        """Which kernels were called."""
        found, self._launches = self._launches, []
        return found

    def wrote(self, output: torch.Tensor) -> bool:
        """Not seen for Numba; poisoned memory shows what was not written."""
        return True
