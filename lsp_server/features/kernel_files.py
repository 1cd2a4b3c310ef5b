"""Follows the open kernel files and their references: diagnostics, code lenses.

Rule: looks only once typing rests, and imports nothing of kernels until a kernel file is open. A
statement is about the very text that is shown, or says that it is stale.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lsprotocol import types

if TYPE_CHECKING:
    from lsp_server.documents import Document
    from lsp_server.language_server import MidspanServer

SETTLED_S = 0.3  # after the last key
_HEAD = 8192  # characters in which a kernel file says that it is one
_MARK = "# midspan-kernel: "  # as `kernels.files` writes it, which is not imported for each file


class KernelFiles:
    """What the client was told of each kernel file."""

    def __init__(self, ls: MidspanServer) -> None:
        self._ls = ls
        self._references: dict[str, set[str]] = {}  # a reference's URI, unquoted → its kernels'
        self._told: dict[str, str] = {}  # a kernel's URI → what its lenses said
        self._diagnosed: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def changed(self, uri: str) -> None:
        """A document was opened, changed or closed."""
        document = self._ls.documents.get(uri)
        if document is None:
            self._closed(uri)
        elif uri in self._diagnosed:  # they are about another text now
            self._publish(uri, [], document.version)
        # Of a reference that was closed, its kernels stand for what is on disk.
        is_kernel = document is not None and (uri in self._told or _is_kernel(document))
        if is_kernel or self._references.get(unquote(uri)):
            loop = asyncio.get_running_loop()
            self._stop(uri)
            self._timers[uri] = loop.call_later(SETTLED_S, self.look, uri)

    def look(self, uri: str) -> None:
        """Look at a kernel file, or at those of a reference, and tell the client what changed."""
        self._stop(uri)
        before = dict(self._told)
        for kernel in {uri, *self._references.get(unquote(uri), ())}:
            self._look(kernel)
        if self._told != before and self._ls.client.lens_refresh:
            self._ls.in_background(self._refresh())

    def lenses(self, uri: str) -> list[types.CodeLens]:
        """The statement of a kernel file, and what can be done with it."""
        document = self._ls.documents.get(uri)
        if document is None or not _is_kernel(document):
            return []
        from lsp_server.features import kernel_documents, kernel_lens

        kernel = kernel_documents.read(self._ls, document)
        return [] if kernel is None else kernel_lens.lenses(kernel)

    def _look(self, uri: str) -> None:
        document = self._ls.documents.get(uri)
        if document is None or not (uri in self._told or _is_kernel(document)):
            return
        from lsp_server.features import kernel_documents, kernel_lens

        kernel = kernel_documents.read(self._ls, document)
        if kernel is None:  # its comment was removed
            self._closed(uri)
            return
        beside = kernel_documents.sibling(uri, kernel.marker.reference)
        self._references.setdefault(unquote(beside), set()).add(uri)
        self._told[uri] = kernel.statement
        found = kernel_lens.diagnostics(kernel)
        if found or uri in self._diagnosed:
            self._publish(uri, found, document.version)

    def _closed(self, uri: str) -> None:
        self._stop(uri)
        self._told.pop(uri, None)
        for kernels in self._references.values():
            kernels.discard(uri)
        if uri in self._diagnosed:
            self._publish(uri, [], None)

    def _publish(self, uri: str, found: list[types.Diagnostic], version: int | None) -> None:
        (self._diagnosed.add if found else self._diagnosed.discard)(uri)
        self._ls.text_document_publish_diagnostics(
            types.PublishDiagnosticsParams(uri=uri, diagnostics=found, version=version)
        )

    async def _refresh(self) -> None:
        await self._ls.protocol.ask(types.WORKSPACE_CODE_LENS_REFRESH, None)

    def _stop(self, uri: str) -> None:
        if timer := self._timers.pop(uri, None):
            timer.cancel()


def _is_kernel(document: Document) -> bool:
    return document.language_id == "python" and _MARK in document.text[:_HEAD]
