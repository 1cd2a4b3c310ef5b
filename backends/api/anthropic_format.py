"""The fields of Anthropic's Messages API: its names on the wire, our types inside.

Rule: pure. What is in no table here could change an answer's meaning and is refused by name; null
is the same as absent. Numbers are clamped. docs/http-api.md has the same tables for readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from backends.api import chat_format, steering
from backends.api.chat_format import ChatCall
from backends.api.fields import (
    Body,
    Number,
    flag,
    neutral,
    number,
    objects,
    only,
    strings,
    table,
    text,
)
from backends.backend import ChatRequest, Message, Role, Tool, ToolCall
from backends.errors import BadRequest

MAX_TOKENS = Number(int, 1, chat_format.MAX_TOKENS)
BUDGET = Number(int, 1, 1_000_000)
# Tokens to think for, at most → how hard; more is "high".
BUDGETS = ((2048, "low"), (8192, "medium"))

FIELDS = frozenset(
    {
        *("model", "max_tokens", "messages", "system", "tools", "tool_choice", "stop_sequences"),
        *("temperature", "top_p", "top_k", "stream", "thinking", "output_config", "metadata"),
        *("modulation", "steering", "seed"),  # ours
    }
)
# Fields about accounts and caches; they would change nothing in an answer.
IGNORED = frozenset(
    {
        *("cache_control", "service_tier", "inference_geo", "diagnostics"),
        *("user_profile_id", "workspace_id"),
    }
)
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "container": (),
    "context_management": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
# What a message may have and a count of its tokens has not.
NOT_COUNTED = frozenset(
    {
        *("max_tokens", "stop_sequences", "temperature", "top_p", "top_k", "seed", "stream"),
        *("metadata", "modulation", "steering"),
    }
)
_SAMPLING = ("temperature", "top_p", "top_k", "seed")
_TOOL_FIELDS = frozenset(
    {
        *("name", "description", "input_schema", "type"),
        *("cache_control", "strict", "eager_input_streaming", "input_examples"),
    }
)
_TOOL_CHOICES: Mapping[str, str] = {"auto": "auto", "any": "required", "none": "none"}
# Texts of one message that stand apart there are joined by this here.
_JOIN = "\n"


def parse(body: Body) -> ChatCall:
    """Return the call that a body of `/v1/messages` describes. Raises BadRequest."""
    neutral(body, NEUTRAL)
    only(body, FIELDS | IGNORED | NEUTRAL.keys())
    max_tokens = number(body, "max_tokens", MAX_TOKENS)
    if max_tokens is None:
        raise BadRequest("'max_tokens' must be a number, and is needed.")
    messages = _conversation(body)
    tools = tuple(map(_tool, objects(body, "tools", chat_format.MAX_TOOLS)))
    choice, one_call = _tool_choice(table(body, "tool_choice"))
    chat_format.check_tools(tools, choice)
    sampling, modulated = chat_format.sampling(body, _SAMPLING)
    config = table(body, "output_config")
    only(config, ("effort", "format"), "output_config")
    thinking = table(body, "thinking")
    request = ChatRequest(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        schema=_schema(table(config, "format")),
        max_tokens=int(max_tokens),
        sampling=sampling,
        stop=chat_format.stops(strings(body, "stop_sequences"), "stop_sequences"),
        reasoning_effort=chat_format.effort(config.get("effort"), "effort") or _effort(thinking),
        steering=steering.uses(body),
    )
    return ChatCall(
        request=request,
        model=text(body, "model") or None,
        user=text(table(body, "metadata"), "user_id"),
        stream=flag(body, "stream"),
        one_call=one_call,
        modulated=modulated,
        reasoning=thinking.get("type") != "disabled",
    )


def parse_count(body: Body) -> ChatCall:
    """Return the call that a body of `/v1/messages/count_tokens` describes. Raises BadRequest."""
    only(body, (FIELDS - NOT_COUNTED) | IGNORED | NEUTRAL.keys())
    call = parse({**body, "max_tokens": 1})
    return replace(call, request=replace(call.request, count_only=True))


def _conversation(body: Body) -> tuple[Message, ...]:
    messages = (
        [Message(Role.SYSTEM, _texts(body["system"], "system"))] if body.get("system") else []
    )
    for item in objects(body, "messages", chat_format.MAX_MESSAGES):
        only(item, ("role", "content"), "messages")
        role = text(item, "role")
        if role not in _ROLES:
            raise BadRequest(f"'role' must be one of {', '.join(_ROLES)}.")
        for message in _ROLES[role](item.get("content")):
            if messages and _continues(messages[-1], message):
                messages[-1] = _joined(messages[-1], message)
            else:
                messages.append(message)
    chat_format.check_conversation(messages)
    return tuple(messages)


def _continues(before: Message, message: Message) -> bool:
    """Whether the two are one turn: the API joins them, and templates want turns to alternate."""
    return before.role is message.role and message.role is not Role.TOOL


def _joined(before: Message, message: Message) -> Message:
    said = _JOIN.join(filter(None, (before.content, message.content)))
    return Message(before.role, said, before.tool_calls + message.tool_calls)


def _system(content: object) -> list[Message]:
    return [Message(Role.SYSTEM, _texts(content, "content"))]


def _user(content: object) -> list[Message]:
    """Return what the user's message says: results of tools, then text."""
    blocks = _blocks(content, "content", ("text", "tool_result"))
    results = [
        Message(Role.TOOL, _result(block), tool_call_id=text(block, "tool_use_id"))
        for block in blocks
        if block["type"] == "tool_result"
    ]
    said = [text(block, "text") for block in blocks if block["type"] == "text"]
    return [*results, *([Message(Role.USER, _JOIN.join(said))] if said else [])]


def _assistant(content: object) -> list[Message]:
    """Return what the assistant said and called; what it thought is not told again."""
    kinds = ("text", "tool_use", "thinking", "redacted_thinking")
    blocks = _blocks(content, "content", kinds)
    said = [text(block, "text") for block in blocks if block["type"] == "text"]
    calls = tuple(_call(block) for block in blocks if block["type"] == "tool_use")
    return [Message(Role.ASSISTANT, _JOIN.join(said), calls)]


_ROLES: Mapping[str, Callable[[object], list[Message]]] = {
    "user": _user,
    "assistant": _assistant,
    "system": _system,
}


def _blocks(content: object, where: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise BadRequest(f"{where!r} must be a string or a list of blocks.")
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in kinds:
            raise BadRequest(
                f"{where!r} has a block of type {kind!r}; {', '.join(kinds)} can be read here."
            )
    return content


def _texts(content: object, where: str) -> str:
    return _JOIN.join(text(block, "text") for block in _blocks(content, where, ("text",)))


def _result(block: dict[str, Any]) -> str:
    content = block.get("content")
    said = _texts(content, "content") if content else ""
    # Templates have no word for a call that failed; models understand this one.
    return f"Error: {said}" if flag(block, "is_error") else said


def _call(block: dict[str, Any]) -> ToolCall:
    if not text(block, "name") or not text(block, "id"):
        raise BadRequest("A block of type 'tool_use' must have an 'id' and a 'name'.")
    arguments = table(block, "input")
    chat_format.check_depth(arguments, "the parts of 'input'")
    return ToolCall(text(block, "id"), text(block, "name"), msgspec.json.encode(arguments).decode())


def _tool(item: dict[str, Any]) -> Tool:
    if item.get("type") not in (None, "custom"):
        raise BadRequest(f"A tool of type {item['type']!r} is not supported; 'custom' is.")
    only(item, _TOOL_FIELDS, "tools")
    parameters = table(item, "input_schema")
    return chat_format.tool(item.get("name"), text(item, "description"), parameters)


def _tool_choice(value: dict[str, Any]) -> tuple[str, bool]:
    """Return which tool is to be called, and whether only one may be."""
    only(value, ("type", "name", "disable_parallel_tool_use"), "tool_choice")
    kind = value.get("type", "auto")
    one = flag(value, "disable_parallel_tool_use")
    if kind == "tool":
        return text(value, "name"), one
    if not isinstance(kind, str) or kind not in _TOOL_CHOICES:
        raise BadRequest("'tool_choice' must be of type auto, any, none or tool.")
    return _TOOL_CHOICES[kind], one


def _schema(value: dict[str, Any]) -> dict[str, Any] | None:
    if not value:
        return None
    schema = table(value, "schema")
    if value.get("type") != "json_schema" or not schema:
        raise BadRequest("'format' must be of type json_schema, with a schema.")
    chat_format.check_depth(schema, "the parts of 'format'")
    return schema


def _effort(thinking: dict[str, Any]) -> str:
    """Return how hard to think, from how many tokens may be spent on it."""
    if thinking.get("type") not in (None, "enabled", "disabled", "adaptive"):
        raise BadRequest("'thinking' must be of type enabled, disabled or adaptive.")
    budget = number(thinking, "budget_tokens", BUDGET)
    if budget is None:
        return ""
    return next((effort for most, effort in BUDGETS if budget <= most), "high")
