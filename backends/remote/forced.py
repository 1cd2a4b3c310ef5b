"""Calls that an engine cannot be made to make by itself: asked for as JSON that fits a schema.

Rule: pure. The functions are described in the system message, so that it does not matter what the
engine's chat template makes of tools. One call comes of it. Must not know engines or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backends.backend import Tool
from backends.errors import RemoteProtocolError

_TOLD = """You must call one of these functions. They are described here as JSON, one a line:
{tools}
Answer with nothing but JSON: {{"name": "the name", "arguments": {{…}}}}"""


def told(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the conversation with the functions in its system message."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = _TOLD.format(tools=lines)
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the schema of a call of one of `tools`: an object with its name and arguments."""
    parts = {f"arguments{number}": tool for number, tool in enumerate(tools)}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "const": tool.name},
                "arguments": {"$ref": f"#/$defs/{part}"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for part, tool in parts.items()
    ]
    found = {part: _moved(arguments_of(tool), f"#/$defs/{part}") for part, tool in parts.items()}
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "$defs": found}


def arguments_of(tool: Tool) -> dict[str, Any]:
    """Return the schema of the tool's arguments: those of an object."""
    return {"type": "object", **tool.parameters}


def _moved(value: Any, root: str) -> Any:
    """Return a schema with its references to its own root leading to `root`."""
    if isinstance(value, list):
        return [_moved(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, root) for key, item in value.items()}
    if isinstance(ref := value.get("$ref"), str) and (ref == "#" or ref.startswith("#/")):
        moved["$ref"] = root + ref[1:]
    return moved


def read(text: str) -> tuple[str, str]:
    """Return the name and the arguments, as JSON, of the call in `text`.

    Raises RemoteProtocolError where there is none, for which the model need not be to blame.
    """
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise RemoteProtocolError(
            "The answer is no call of a function, though one was asked for: the engine did not "
            "hold its model to that. Use the tool choice “auto”."
        )
    return call["name"], json.dumps(call.get("arguments", {}), ensure_ascii=False)
