"""What the editor says it can do, read once from the raw `initialize` parameters.

Rule: pure, over plain JSON; whatever is missing or of a wrong type counts as "cannot". The rest
of the server asks this and never digs in capabilities. Knows no pygls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientFeatures:
    """Each is False where the client did not say so."""

    name: str = ""
    inline_completion: bool = False
    action_literals: bool = False  # code actions, not just commands
    action_resolve: bool = False  # asks for a code action's edit when it was chosen
    action_disabled: bool = False  # shows actions that cannot be taken, with the reason
    document_changes: bool = False  # edits bound to a document version
    create_files: bool = False  # as a part of an edit
    change_annotations: bool = False  # edits that the user confirms in a preview
    lens_refresh: bool = False  # asks for code lenses again when it is told to
    apply_edit: bool = False
    progress: bool = False  # server-initiated progress
    configuration: bool = False  # answers workspace/configuration
    register_configuration: bool = False  # wants to be asked to report changed settings
    copilot_dialect: bool = False


def read(params: Mapping[str, object]) -> ClientFeatures:
    """Read the parameters of `initialize`."""
    action = "capabilities.textDocument.codeAction"
    properties = _at(params, f"{action}.resolveSupport.properties")
    edit = "capabilities.workspace.workspaceEdit"
    operations = _at(params, f"{edit}.resourceOperations")
    return ClientFeatures(
        name=str(_at(params, "clientInfo.name") or ""),
        inline_completion=isinstance(
            _at(params, "capabilities.textDocument.inlineCompletion"), Mapping
        ),
        action_literals=_at(params, f"{action}.codeActionLiteralSupport") is not None,
        action_resolve=isinstance(properties, list)
        and "edit" in properties
        and _at(params, f"{action}.dataSupport") is True,
        action_disabled=_at(params, f"{action}.disabledSupport") is True,
        document_changes=_at(params, f"{edit}.documentChanges") is True,
        create_files=isinstance(operations, list) and "create" in operations,
        change_annotations=isinstance(_at(params, f"{edit}.changeAnnotationSupport"), Mapping),
        lens_refresh=_at(params, "capabilities.workspace.codeLens.refreshSupport") is True,
        apply_edit=_at(params, "capabilities.workspace.applyEdit") is True,
        progress=_at(params, "capabilities.window.workDoneProgress") is True,
        configuration=_at(params, "capabilities.workspace.configuration") is True,
        register_configuration=_at(
            params, "capabilities.workspace.didChangeConfiguration.dynamicRegistration"
        )
        is True,
        copilot_dialect=_speaks_copilot(params),
    )


def pruned(params: Mapping[str, object]) -> dict[str, object]:
    """The parameters with no capabilities but the position encodings.

    Clients send hundreds, among them values newer than lsprotocol knows, each of which would make
    `initialize` fail; and converting them takes longer than all the rest of start-up.
    """
    general: dict[str, object] = {}
    encodings = _at(params, "capabilities.general.positionEncodings")
    # Copilot's server knows UTF-16 alone: its clients count so whatever their editor offers.
    if isinstance(encodings, list) and not _speaks_copilot(params):
        general["positionEncodings"] = [entry for entry in encodings if isinstance(entry, str)]
    return {**params, "capabilities": {"general": general}}


def _speaks_copilot(params: Mapping[str, object]) -> bool:
    options = _at(params, "initializationOptions")
    return isinstance(options, Mapping) and not {"editorInfo", "editorPluginInfo"}.isdisjoint(
        options
    )


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
