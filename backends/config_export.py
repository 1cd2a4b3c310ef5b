"""The configuration file's JSON schema, made from the settings' own fields.

Must not know what is done with it: editors and the reference page (`docs/configuration.md`) are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from backends import config
from backends.config_schema import json_schema as _of_setting
from backends.config_schema import specs


def json_schema(others: Mapping[str, type] | None = None) -> dict[str, object]:
    """Return the schema of config.toml; `others` are tables of other readers, by name."""
    tables = {**config.SHAPE.tables, **(others or {})}
    properties: dict[str, object] = {name: _table(kind) for name, kind in tables.items()}
    for name, kind in config.SHAPE.named.items():
        properties[name] = {"type": "object", "additionalProperties": _table(kind)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "midspan",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _table(kind: type) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {name: _of_setting(spec) for name, spec in specs(kind).items()},
        "additionalProperties": False,
    }


def shown(value: object) -> str:
    """Return a value as TOML and JSON write it."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON can hold half a character
