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


def generated(package: dict[str, Any], nls: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return both files' contents with the settings of the schema."""
    schema = settings_schema()
    properties: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, value in schema["properties"].items():  # type: ignore[attr-defined]
        key = KEY.format(name.removeprefix("midspan."))
        texts[key] = value["description"]
        properties[name] = value | {"description": f"%{key}%"}
    groups = package["contributes"]["configuration"]
    own = {KEY.format(name.removeprefix("midspan.")) for name in groups[1]["properties"]}
    first = {"title": "Midspan", "properties": properties}
    contributes = package["contributes"] | {"configuration": [first, *groups[1:]]}
    kept = {
        key: text
        for key, text in nls.items()
        if not key.startswith("config.") or key in own or key == "config.extension.title"
    }
    return package | {"contributes": contributes}, kept | texts


def main() -> None:
    """Rewrite both files."""
    paths = FOLDER / "package.json", FOLDER / "package.nls.json"
    contents = generated(*(json.loads(path.read_text("utf-8")) for path in paths))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
