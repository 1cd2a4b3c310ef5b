"""Diagnostics in configuration files, while they are open: what is wrong, at its key.

    config.toml, config.json (the user's)   .midspan.toml (a repository's)

Rule: says exactly what the readers of these files say, for the text as the editor has it; a saved
file takes effect. Everything but these files is none of its business.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lsprotocol import types

from backends.config_schema import Problem
from lsp_server import repository
from lsp_server.documents import Document
from lsp_server.protocol import position_of

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

_USER_NAMES = ("config.toml", "config.json")
_MAX_CHARACTERS = 1024 * 1024


def problems_of(document: Document) -> tuple[Problem, ...] | None:
    """Return what is wrong in an open configuration file; None for any other document."""
    path = document.path
    name = os.path.basename(path)
    if len(document.text) > _MAX_CHARACTERS:
        return None
    if name == repository.NAME:
        return repository.check_text(document.text, path)
    if _is_users(path, name):
        from lsp_server import user_config

        return user_config.check_users(document.text, path)
    return None


def _is_users(path: str, name: str) -> bool:
    explicit = os.environ.get("MIDSPAN_CONFIG")
    if name not in (_USER_NAMES if not explicit else (*_USER_NAMES, os.path.basename(explicit))):
        return False
    from lsp_server import user_config

    real = os.path.realpath(path)
    return any(os.path.realpath(file) == real for file in user_config.files())


def diagnostic(document: Document, problem: Problem) -> types.Diagnostic:
    """Return a problem at its key; without a place, at the first line."""
    line = min(max(problem.line, 1), document.line_count) - 1
    start, end = document.line_bounds(line)
    first = min(start + max(problem.column - 1, 0), end)
    last = min(first + problem.length, end) if problem.length else end
    return types.Diagnostic(
        range=types.Range(
            position_of(document.place(first)), position_of(document.place(max(first, last)))
        ),
        message=problem.message,
        severity=types.DiagnosticSeverity.Warning,
        source="midspan",
    )


class ConfigDiagnostics:
    """Follows the open configuration files, and has saved ones take effect."""

    def __init__(self, ls: MidspanServer) -> None:
        self._ls = ls
        self._shown: set[str] = set()

    def changed(self, uri: str) -> None:
        """A document was opened, changed or closed."""
        document = self._ls.documents.get(uri)
        if document is None:
            if uri in self._shown:
                self._shown.remove(uri)
                self._send(uri, [], None)
            return
        problems = problems_of(document)
        if problems is not None:
            self._shown.add(uri)
            found = [diagnostic(document, problem) for problem in problems]
            self._send(uri, found, document.version)

    async def saved(self, uri: str) -> None:
        """A document was written."""
        document = self._ls.documents.get(uri)
        if document is None:
            return
        name = os.path.basename(document.path)
        if name in repository.READERS:
            self._ls.documents.check_repositories()
        elif _is_users(document.path, name):
            await self._ls.configuration.read_user()

    def _send(self, uri: str, found: list[types.Diagnostic], version: int | None) -> None:
        self._ls.text_document_publish_diagnostics(
            types.PublishDiagnosticsParams(uri=uri, diagnostics=found, version=version)
        )


def register(ls: MidspanServer) -> None:
    """Listen to what happens to documents."""
    diagnostics = ConfigDiagnostics(ls)
    ls.document_listeners.append(diagnostics.changed)

    @ls.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def did_save(params: types.DidSaveTextDocumentParams) -> None:
        await diagnostics.saved(params.text_document.uri)
