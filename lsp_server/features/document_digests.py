"""`midspan.documents`: which documents the server has, and a digest of each one's text.

For finding out whether the editor and the server have the same text, without sending it.

Rule: tells nothing of a text but its length and SHA-256.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsprotocol import types

    from lsp_server.documents import Document
    from lsp_server.language_server import MidspanServer

COMMAND = "midspan.documents"


async def digests(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`{documents: [{uri, version, languageId, lines, characters, sha256}]}`.

    A character is a code point; the digest is that of the text in UTF-8.
    """
    return {"documents": [_digest(document) for document in ls.documents.all()]}


def _digest(document: Document) -> dict[str, Any]:
    import hashlib  # 5 ms, and nobody asks while typing

    return {
        "uri": document.uri,
        "version": document.version,
        "languageId": document.language_id,
        "lines": document.line_count,
        "characters": len(document.text),
        "sha256": hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).hexdigest(),
    }


def register(ls: MidspanServer) -> None:
    """Add the command."""
    ls.command(COMMAND)(digests)
