"""`midspan.kernel.*`: a verified kernel is generated from a PyTorch function, kept, and called.

    generate, run   [{uri, line, language, shapes?, revision?}]    shapes   [{uri, line, language?}]
    resample, repair, verify, evidence, counterexample, insert     [{uri of the kernel file}]

Rule: only names what there is; nothing of kernels is imported before it is asked for, since an
editor waits for this process to start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server.features.kernel_files import KernelFiles

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

Handler = Callable[["MidspanServer", types.ExecuteCommandParams], Awaitable[Any]]

_MODULES = {
    "kernel_generation": ("generate", "run", "shapes"),
    "kernel_commands": ("resample", "repair", "verify", "evidence", "counterexample", "insert"),
}


def _handler(module: str, name: str) -> Handler:
    async def handle(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
        found: Handler = getattr(import_module(f"lsp_server.features.{module}"), name)
        return await found(ls, params)

    return handle


COMMANDS = {
    f"midspan.kernel.{name}": _handler(module, name)
    for module, names in _MODULES.items()
    for name in names
}


def register(ls: MidspanServer) -> None:
    """Add the code lenses and follow the kernel files; `commands` adds the commands."""
    kernel_files = KernelFiles(ls)
    ls.kernel_files = kernel_files
    ls.document_listeners.append(kernel_files.changed)

    @ls.feature(types.TEXT_DOCUMENT_CODE_LENS, types.CodeLensOptions(resolve_provider=False))
    async def code_lens(params: types.CodeLensParams) -> list[types.CodeLens]:
        return kernel_files.lenses(params.text_document.uri)
