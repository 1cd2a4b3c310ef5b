"""What the chat APIs have in common: one parsed call, whichever API it came by.

Rule: pure; each value that goes to a model is checked and clamped here or in the API's own format
module. Must not know either API's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backends import sampling_profile
from backends.api import steering
from backends.api.fields import Body, Number, number, only, table
from backends.backend import (
    Capabilities,
    ChatRequest,
    Message,
    Role,
    Sampling,
    Tool,
    ToolCall,
)
from backends.errors import BadRequest, Unsupported

MAX_TOKENS = 131_072
DEFAULT_TOKENS = 4096
MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_STOPS = 32
MAX_STOP_LENGTH = 1024
MAX_CHOICES = 16
MAX_SCHEMA_DEPTH = 64
MOODS = Number(float, -10, 10)
SAMPLING: Mapping[str, Number] = {
    "temperature": Number(float, 0, 2),
    "top_p": Number(float, 0, 1),
    "top_k": Number(int, 0, 1_000_000),
    "min_p": Number(float, 0, 1),
    "seed": Number(int, -(2**63), 2**63 - 1),
}
SCHEMA = "hold answers to a schema, which tools need too"
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_CHOICES = frozenset({"auto", "none", "required"})
# What APIs call effort → what models know.
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A parsed body: what to answer, and how. Its request names no session yet."""

    request: ChatRequest
    model: str | None
    user: str = ""  # whose caches are apart from others'
    stream: bool = False
    include_usage: bool = False  # as a last event of a stream
    choices: int = 1
    one_call: bool = False  # at most one call of a tool
    modulated: bool = False  # temperature and top_p are from a mood
    reasoning: bool = True  # it is shown


def check(call: ChatCall, can: Capabilities) -> None:
    """Raise Unsupported where the model, which can chat, cannot do what `call` asks for."""
    wants = (
        (bool(call.request.tools) or call.request.schema is not None, can.tools, SCHEMA),
        (call.modulated, can.modulation, "modulate how it samples"),
        (call.request.count_only, can.counting, "count a conversation's tokens"),
    )
    for wanted, possible, what in wants:
        if wanted and not possible:
            raise Unsupported(f"The engine of this model cannot {what}.")
    steering.check(call.request.steering, can)


def sampling(body: Body, names: Sequence[str] = tuple(SAMPLING)) -> tuple[Sampling, bool]:
    """Return how to sample, and whether a mood had a say in it.

    A value that is given wins over the mood, and the mood over the profile for chat. 0 is a value.
    """
    mood = table(body, "modulation")
    only(mood, ("arousal", "valence"), "modulation")
    arousal, valence = (number(mood, name, MOODS) or 0.0 for name in ("arousal", "valence"))
    values: dict[str, Any] = {}
    for name in names:
        value = number(body, name, SAMPLING[name])
        if value is not None:
            values[name] = value % 2**32 if name == "seed" else value
    return replace(sampling_profile.modulate(arousal, valence), **values), bool(mood)


def stops(values: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the strings that end the text. Raises BadRequest."""
    kept = tuple(stop for stop in values if stop)
    if len(kept) > MAX_STOPS or any(len(stop) > MAX_STOP_LENGTH for stop in kept):
        raise BadRequest(f"{name!r} may hold {MAX_STOPS} strings of {MAX_STOP_LENGTH} characters.")
    return kept


def effort(value: object, name: str) -> str:
    """Return how hard to think, "" where nothing is said. Raises BadRequest."""
    if value is None:
        return ""
    if not isinstance(value, str) or value not in _EFFORTS:
        raise BadRequest(f"{name!r} must be one of {', '.join(_EFFORTS)}.")
    return _EFFORTS[value]


def tool(name: object, description: str, parameters: dict[str, Any]) -> Tool:
    """Return a tool; `parameters` is the JSON schema of its arguments. Raises BadRequest."""
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name) or name in _CHOICES:
        raise BadRequest(f"{name!r} is no name for a tool: letters, digits, _, - and . are.")
    check_depth(parameters, f"the parameters of {name}")
    return Tool(name, description, parameters or {"type": "object", "properties": {}})


def check_tools(tools: Sequence[Tool], choice: str) -> None:
    """Refuse two tools of one name, and a choice that is not among them. Raises BadRequest."""
    names = {tool.name for tool in tools}
    if len(names) < len(tools):
        raise BadRequest("Two 'tools' have the same name.")
    if choice not in ("auto", "none") and not tools:
        raise BadRequest("'tool_choice' asks for a call, and there are no 'tools'.")
    if choice not in _CHOICES and choice not in names:
        raise BadRequest(f"'tool_choice' names {choice!r}, which is not among the 'tools'.")


def check_depth(value: object, what: str, most: int = MAX_SCHEMA_DEPTH) -> None:
    """Refuse what is nested deeper than `most`: nothing that reads it must run out of stack."""
    level = [value]
    for _ in range(most):
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [x for v in inner for x in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return
    raise BadRequest(f"{what.capitalize()} are nested too deeply.")


def check_conversation(messages: Sequence[Message]) -> None:
    """Refuse a conversation that nothing is to be answered in. Raises BadRequest."""
    if all(message.role is Role.SYSTEM for message in messages):
        raise BadRequest("'messages' must hold a message to answer.")
    if messages[-1].role is Role.ASSISTANT:
        raise BadRequest("The last of the 'messages' must be the user's or a tool's result.")
    called: set[str] = set()
    for message in messages:
        called.update(call.id for call in message.tool_calls)
        if message.role is Role.TOOL and message.tool_call_id not in called:
            raise BadRequest(
                f"A result is for the call {message.tool_call_id!r}, which no message before made."
            )


def calls_given(calls: Sequence[ToolCall], call: ChatCall) -> Sequence[ToolCall]:
    """Return those of `calls` that may be given."""
    return calls[:1] if call.one_call else calls
