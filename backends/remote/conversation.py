"""A conversation as OpenAI's chat API has it, and what came of it, checked.

Rule: pure, but for the ids of calls that came without one. What a model elsewhere says about
functions is not trusted: a call must be of a tool that was offered, with arguments that are JSON
and fit its schema. Must not know HTTP.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from backends.backend import ChatRequest, Message, Tool, ToolCall
from backends.errors import BadRequest, EngineMissing, RemoteProtocolError, Unsupported
from backends.remote import forced, wire
from backends.remote.profiles import Forcing, Profile

MAX_CALLS = 64  # in one answer
MAX_ARGUMENTS = 1024 * 1024  # characters of one call's


def arguments(
    profile: Profile, model: str, request: ChatRequest, effort: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `chat.completions.create`, and the fields it does not know.

    `effort` is the model's own setting, for requests that name none. Raises BadRequest, and
    Unsupported where the engine can't be made to call a tool.
    """
    effort = request.reasoning_effort or effort
    held = held_to(profile, request)
    messages = [_message(message) for message in request.messages]
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        profile.chat_limit_field: min(request.max_tokens, profile.max_tokens or request.max_tokens),
    }
    extra: dict[str, Any] = {}
    if effort:
        body["reasoning_effort"] = effort
    if not (effort and profile.effort_alone):
        for name, value in wire.sampling(profile, request.sampling).items():
            (body if name in ("temperature", "top_p", "seed") else extra)[name] = value
        if request.stop and profile.max_stops and not held:
            body["stop"] = list(request.stop[: profile.max_stops])
    if held:
        messages = forced.told(messages, [_tool(tool) for tool in held])
        body["response_format"] = _format(profile, forced.schema(held))
    elif request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request)
    elif predicts(profile, request):
        body["prediction"] = {"type": "content", "content": request.prediction}
        del body[profile.chat_limit_field]  # OpenAI takes no limit beside it
    if request.schema is not None:
        _validator(request.schema)
        body["response_format"] = _format(profile, request.schema)
        if not profile.schemas:
            wanted = f"Answer with JSON that fits this schema: {json.dumps(request.schema)}"
            messages.insert(0, {"role": "system", "content": wanted})
    body["messages"] = messages
    return body, extra


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        made["content"] = message.content or None
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    return made


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": forced.arguments_of(tool),
    }
    return {"type": "function", "function": function}


def demanded(request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools of which one must be called, none where that is the model's choice.

    Raises BadRequest where there is no such tool.
    """
    tools, choice = request.tools, request.tool_choice
    if choice in ("auto", "none"):
        return ()
    if not tools:
        raise BadRequest("tool_choice asks for a call, but there are no tools.")
    named = tools if choice == "required" else tuple(t for t in tools if t.name == choice)
    if not named:
        raise BadRequest(f"tool_choice names {choice!r}, which is none of the tools.")
    return named


def held_to(profile: Profile, request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools of which one must be called, where only a schema makes sure of that.

    Raises BadRequest, and Unsupported where nothing does.
    """
    tools = demanded(request)
    if tools and profile.forcing is Forcing.NONE:
        raise Unsupported(
            f"{profile.title} cannot be made to call a tool; use the tool choice “auto”."
        )
    if not tools or profile.forcing is Forcing.CHOICE:
        return ()
    if request.schema is not None:
        raise BadRequest("An answer can be held to a schema or be calls of tools, not both.")
    for tool in tools:
        _validator(forced.arguments_of(tool))
    return tools


def predicts(profile: Profile, request: ChatRequest) -> bool:
    """Tell whether the prediction of `request` is sent."""
    return bool(request.prediction and profile.prediction and not request.tools)


def _choice(request: ChatRequest) -> Any:
    if request.tool_choice in ("auto", "none", "required"):
        return request.tool_choice
    return {"type": "function", "function": {"name": request.tool_choice}}


def _format(profile: Profile, schema: dict[str, Any]) -> dict[str, Any]:
    if not profile.schemas:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@dataclass(slots=True)
class _Part:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Calls:
    """Puts calls together that come in pieces, each for a number."""

    tools: tuple[Tool, ...]
    _parts: dict[int, _Part] = field(default_factory=dict)

    def push(self, index: int, id: str, name: str, arguments: str) -> None:
        """Add a piece. Raises RemoteProtocolError beyond all measure."""
        part = self._parts.setdefault(index, _Part())
        part.id = part.id or id
        part.name += name
        part.arguments += arguments
        if len(self._parts) > MAX_CALLS or len(part.arguments) > MAX_ARGUMENTS:
            raise RemoteProtocolError("The model's calls of functions do not end.")

    def finished(self) -> tuple[ToolCall, ...]:
        """Return the calls, each of a tool that was offered. Raises RemoteProtocolError."""
        return tuple(self._checked(part) for _, part in sorted(self._parts.items()))

    def _checked(self, part: _Part) -> ToolCall:
        tool = next((tool for tool in self.tools if tool.name == part.name), None)
        if tool is None:
            raise RemoteProtocolError("The model called a function that it was not offered.")
        what = f"The model's call of {part.name}"
        given = part.arguments or "{}"
        check(_parsed(given, what), forced.arguments_of(tool), what)
        return ToolCall(part.id or _new_id(), part.name, given)


def _new_id() -> str:
    """Return the id of a call whose engine gave it none: nine characters, as Mistral's have."""
    return secrets.token_hex(5)[:9]


def check_text(text: str, schema: dict[str, Any]) -> None:
    """Raise RemoteProtocolError where an answer is not what its schema asks for."""
    check(_parsed(text, "The model's answer"), schema, "The model's answer")


def check(value: Any, schema: dict[str, Any], what: str) -> None:
    """Raise RemoteProtocolError where `value` does not fit; BadRequest where the schema is none."""
    wrong = next(iter(_validator(schema).iter_errors(value)), None)
    if wrong is not None:
        place = "/".join(str(step) for step in wrong.absolute_path) or "its top"
        raise RemoteProtocolError(f"{what} does not fit the schema at {place} ({wrong.validator}).")


def _validator(schema: dict[str, Any]) -> Any:
    """Return what checks values against `schema`. Raises BadRequest where it is none."""
    try:
        import jsonschema
        from referencing import Registry
    except ImportError as exc:
        raise EngineMissing(
            "Tools and schemas need jsonschema: pip install 'midspan[remote]'."
        ) from exc
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise BadRequest("The schema is no JSON schema.") from exc
    # An empty registry: a `$ref` never makes it fetch anything.
    return kind(schema, registry=Registry())


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RemoteProtocolError(f"{what} is no JSON.") from exc
