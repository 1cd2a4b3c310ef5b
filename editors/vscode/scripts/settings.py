"""Write the server's settings into package.json and package.nls.json.

    python editors/vscode/scripts/settings.py

Rule: the server's schema (`midspan config schema --editor`) says which settings there are; the
extension's own stand in package.json's second group, and are left alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lsp_server.settings import settings_schema

FOLDER = Path(__file__).parents[1]
KEY = "config.{}"
LOG_ONLY = {"midspan.trace.server"}  # of the extension's own: chooses no program and no model

Json = dict[str, Any]


def generated(package: Json, nls: dict[str, str]) -> tuple[Json, dict[str, str]]:
    """Return both files' contents with the settings of the schema.

    Those that are the machine's, not a workspace's, count in no untrusted workspace.
    """
    properties: Json = {}
    texts: dict[str, str] = {}
    for name, value in settings_schema()["properties"].items():  # type: ignore[attr-defined]
        key = KEY.format(name.removeprefix("midspan."))
        texts[key] = value["description"]
        properties[name] = value | {"description": f"%{key}%"}
    groups = package["contributes"]["configuration"]
    own = groups[1]["properties"]
    machine = {name for name, each in {**properties, **own}.items() if each["scope"] == "machine"}
    capabilities = package["capabilities"]
    untrusted = capabilities["untrustedWorkspaces"] | {
        "restrictedConfigurations": sorted(machine - LOG_ONLY)
    }
    first = {"title": "Midspan", "properties": properties}
    own_keys = {KEY.format(name.removeprefix("midspan.")) for name in own}
    kept = {
        key: text
        for key, text in nls.items()
        if not key.startswith("config.") or key in own_keys or key == "config.extension.title"
    }
    changed = {
        "capabilities": capabilities | {"untrustedWorkspaces": untrusted},
        "contributes": package["contributes"] | {"configuration": [first, *groups[1:]]},
    }
    return package | changed, kept | texts


def main() -> None:
    """Rewrite both files."""
    paths = FOLDER / "package.json", FOLDER / "package.nls.json"
    contents = generated(*(json.loads(path.read_text("utf-8")) for path in paths))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
