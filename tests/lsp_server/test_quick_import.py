"""In a process of its own, since importing happens once."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import attrs
from lsp_server.quick_import import import_lsprotocol
define = attrs.define
import_lsprotocol()
import_lsprotocol()
assert attrs.define is define
from lsprotocol import converters, types
converter = converters.get_converter()
raw = {"textDocument": {"uri": "file:///a"}, "position": {"line": 1, "character": 2},
       "context": {"triggerKind": 2}}
params = converter.structure(raw, types.InlineCompletionParams)
assert converter.unstructure(params) == raw
assert params.position == types.Position(1, 2)  # written by hand in lsprotocol, kept
assert "secret" not in repr(types.TextDocumentItem("file:///a", "x", 1, "secret"))
try:
    types.Position(-1, 0)
except ValueError:
    print("validated")
"""


def test_quick_import_changes_nothing_but_time_and_repr():
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "validated\n", done.stderr


def test_language_server_imports_nothing_heavy():
    """What an idle window does not need is not imported."""
    code = (
        "import sys; from lsp_server.server import create_server; create_server();"
        "print(sorted({'msgspec', 'starlette', 'uvicorn', 'click', 'rich', 'numpy', 'psutil',"
        "'llama_cpp', 'fim.postprocess', 'backends.client', 'websockets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
