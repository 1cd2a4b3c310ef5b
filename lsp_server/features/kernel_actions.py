"""The code actions *Generate … kernel*, where the cursor is in a PyTorch function.

Rule: listing reads the document and nothing else, and imports nothing for documents without
torch. The work is the command's (`kernels`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lsprotocol import types

from lsp_server.documents import Document

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

KIND = "refactor.rewrite.kernel"
RUN = "midspan.kernel.run"
# By language, as `kernels.task.Language` has them.
TITLES = {
    "triton": "Generate Triton kernel",
    "c": "Generate C kernel",
    "numba": "Generate Numba kernel",
    "cuda": "Generate CUDA kernel",
}
_MAX_CHARACTERS = 1_000_000  # reading a larger file takes longer than a menu may take to open


def listed(
    ls: MidspanServer, document: Document, cursor: int, asked: Callable[[str], bool]
) -> list[types.CodeAction | types.Command]:
    """List the kernels that can be generated at an offset; `asked` says which kinds are wanted."""
    kinds = {language: f"{KIND}.{language}" for language in TITLES}
    wanted = [language for language, kind in kinds.items() if asked(kind)]
    if not wanted or not _may_have_one(document):
        return []
    from lsp_server.kernels import reference

    line = document.line_of(cursor)
    found = reference.find(document.text, line + 1, document.path)
    if isinstance(found, reference.Refusal):
        if not (found.torch and ls.client.action_disabled and ls.client.action_literals):
            return []
        disabled = types.CodeActionDisabled(found.reason)
        return [types.CodeAction(TITLES[wanted[0]], kinds[wanted[0]], disabled=disabled)]
    return [_action(ls, document, line, language, kinds[language]) for language in wanted]


def _may_have_one(document: Document) -> bool:
    return (
        document.language_id == "python"
        and len(document.text) <= _MAX_CHARACTERS
        and "torch" in document.text
    )


def _action(
    ls: MidspanServer, document: Document, line: int, language: str, kind: str
) -> types.CodeAction | types.Command:
    title = TITLES[language]
    wanted = {
        "uri": document.uri,
        "line": line,
        "language": language,
        "revision": document.revision,
    }
    command = types.Command(title=title, command=RUN, arguments=[wanted])
    if not ls.client.action_literals:
        return command
    return types.CodeAction(title=title, kind=kind, command=command)
