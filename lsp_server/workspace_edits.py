"""Edits in the form that the client understands, and having it apply them.

Rule: an edit of an open document is bound to its version, where the client knows versions, so that
it is never applied to another text. Knows not what is edited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from lsp_server.client_features import ClientFeatures
from lsp_server.documents import Document
from lsp_server.protocol import REQUEST_FAILED, position_of

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

PREVIEW = "midspan"  # the id of the annotation: one in each edit
_START = types.Range(types.Position(0, 0), types.Position(0, 0))

TextEdits = Sequence[types.TextEdit]


def text_edit(document: Document, start: int, end: int, text: str) -> types.TextEdit:
    """Return the edit that puts `text` between two offsets."""
    first, last = position_of(document.place(start)), position_of(document.place(end))
    return types.TextEdit(types.Range(first, last), text)


def changed(
    client: ClientFeatures,
    uri: str,
    version: int | None,
    edits: TextEdits,
    preview: types.ChangeAnnotation | None = None,
) -> types.WorkspaceEdit:
    """Return the edit of one document; `version` is None where it is not open."""
    if not client.document_changes:
        return types.WorkspaceEdit(changes={uri: edits})
    return types.WorkspaceEdit(
        document_changes=[_of_document(client, uri, version, edits, preview)],
        change_annotations=_annotations(client, preview),
    )


def created(
    client: ClientFeatures,
    files: Mapping[str, str],
    preview: types.ChangeAnnotation | None = None,
) -> types.WorkspaceEdit:
    """Return the edit that makes files, texts by URI; a file that is there is never replaced."""
    edits = {uri: [types.TextEdit(_START, text)] for uri, text in files.items()}
    if not (client.document_changes and client.create_files):
        return types.WorkspaceEdit(changes=edits)
    changes: list[types.CreateFile | types.TextDocumentEdit] = []
    for uri, wanted in edits.items():
        options = types.CreateFileOptions(overwrite=False, ignore_if_exists=False)
        new = types.CreateFile(uri, options=options)
        if preview is not None and client.change_annotations:
            new.annotation_id = PREVIEW
        changes += [new, _of_document(client, uri, None, wanted, preview)]
    return types.WorkspaceEdit(
        document_changes=changes, change_annotations=_annotations(client, preview)
    )


async def apply(ls: MidspanServer, edit: types.WorkspaceEdit, label: str) -> None:
    """Have the client apply an edit; JsonRpcException where it does not."""
    if not await is_applied(ls, edit, label, 5.0):
        raise JsonRpcException("The editor did not apply the edit.", code=REQUEST_FAILED)


async def is_applied(
    ls: MidspanServer, edit: types.WorkspaceEdit, label: str, patience: float
) -> bool:
    """Have the client apply an edit within `patience` s; False where its user did not want it.

    Raises JsonRpcException where the client cannot apply edits at all.
    """
    # Sent to editors that say they cannot, too: ALE says so, and applies it without an answer.
    answer = await ls.protocol.ask(
        types.WORKSPACE_APPLY_EDIT,
        types.ApplyWorkspaceEditParams(edit=edit, label=label),
        patience,
    )
    if isinstance(answer, dict) and answer.get("applied"):
        return True
    if not ls.client.apply_edit:
        raise JsonRpcException("This editor cannot apply edits.", code=REQUEST_FAILED)
    return False


def _of_document(
    client: ClientFeatures,
    uri: str,
    version: int | None,
    edits: TextEdits,
    preview: types.ChangeAnnotation | None,
) -> types.TextDocumentEdit:
    identifier = types.OptionalVersionedTextDocumentIdentifier(uri=uri, version=version)
    if preview is None or not client.change_annotations:
        return types.TextDocumentEdit(identifier, edits)
    shown = [types.AnnotatedTextEdit(PREVIEW, edit.range, edit.new_text) for edit in edits]
    return types.TextDocumentEdit(identifier, shown)


def _annotations(
    client: ClientFeatures, preview: types.ChangeAnnotation | None
) -> Mapping[str, types.ChangeAnnotation] | None:
    return {PREVIEW: preview} if preview is not None and client.change_annotations else None
