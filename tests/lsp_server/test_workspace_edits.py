from __future__ import annotations

import json

from lsprotocol import converters, types

from lsp_server import client_features, workspace_edits
from lsp_server.client_features import ClientFeatures
from lsp_server.documents import Document

FILES = {"file:///w/a.py": "x = 1\n", "file:///w/test_a.py": "import a\n"}
PREVIEW = types.ChangeAnnotation("Two files", needs_confirmation=True, description="Verified.")
ABLE = ClientFeatures(document_changes=True, create_files=True, change_annotations=True)


def on_the_wire(edit: types.WorkspaceEdit):
    return json.loads(json.dumps(converters.get_converter().unstructure(edit)))


def test_files_are_created_and_never_overwritten_after_a_preview():
    edit = on_the_wire(workspace_edits.created(ABLE, FILES, PREVIEW))
    assert edit["changeAnnotations"] == {
        "midspan": {"label": "Two files", "needsConfirmation": True, "description": "Verified."}
    }
    create, write = edit["documentChanges"][:2]
    assert create == {
        "kind": "create",
        "uri": "file:///w/a.py",
        "options": {"overwrite": False, "ignoreIfExists": False},
        "annotationId": "midspan",
    }
    assert write["textDocument"] == {"uri": "file:///w/a.py", "version": None}
    assert write["edits"][0]["newText"] == "x = 1\n"
    assert write["edits"][0]["annotationId"] == "midspan"
    assert [change.get("kind") for change in edit["documentChanges"]] == [
        "create",
        None,
        "create",
        None,
    ]


def test_client_that_knows_no_annotations_gets_none():
    able = ClientFeatures(document_changes=True, create_files=True)
    edit = on_the_wire(workspace_edits.created(able, FILES, PREVIEW))
    assert "changeAnnotations" not in edit
    assert "annotationId" not in json.dumps(edit)


def test_client_that_cannot_create_files_gets_plain_changes():
    for able in (ClientFeatures(), ClientFeatures(document_changes=True)):
        edit = on_the_wire(workspace_edits.created(able, FILES, PREVIEW))
        assert set(edit) == {"changes"}
        assert {uri: edits[0]["newText"] for uri, edits in edit["changes"].items()} == FILES


def test_edit_of_an_open_document_is_bound_to_its_version():
    document = Document("file:///w/a.py", "é = 1\n", 7, "python", "utf-8")
    edit = workspace_edits.text_edit(document, 4, 5, "2")
    changed = on_the_wire(
        workspace_edits.changed(ABLE, document.uri, document.version, [edit], PREVIEW)
    )
    (change,) = changed["documentChanges"]
    assert change["textDocument"] == {"uri": "file:///w/a.py", "version": 7}
    assert change["edits"][0]["range"]["start"] == {"line": 0, "character": 5}
    plain = on_the_wire(workspace_edits.changed(ClientFeatures(), document.uri, 7, [edit]))
    assert plain["changes"][document.uri][0]["newText"] == "2"


def test_what_a_client_can_do_with_edits_is_read_from_its_capabilities():
    def read(edit: object, **more: object) -> ClientFeatures:
        workspace = {"workspaceEdit": edit, **more}
        return client_features.read({"capabilities": {"workspace": workspace}})

    able = read(
        {
            "documentChanges": True,
            "resourceOperations": ["create", "rename"],
            "changeAnnotationSupport": {"groupsOnLabel": True},
        },
        codeLens={"refreshSupport": True},
    )
    assert able == ClientFeatures(
        document_changes=True, create_files=True, change_annotations=True, lens_refresh=True
    )
    odd = {"resourceOperations": "create", "changeAnnotationSupport": True}
    assert read(odd, codeLens=5) == ClientFeatures()
    assert read(None) == ClientFeatures()
