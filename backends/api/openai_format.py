"""The fields of OpenAI's Chat and Completions APIs: their names on the wire, our types inside.

Rule: pure. What is in no table here could change an answer's meaning and is refused by name; null
is the same as absent. Numbers are clamped. docs/http-api.md has the same tables for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from backends.backend import ChatRequest, InfillRequest, Message, Role, Sampling, Tool, ToolCall
from backends.errors import BadRequest
from fim import rendered

LIMITS: Mapping[str, Number] = {
    "max_tokens": Number(int, 1, chat_format.MAX_TOKENS),
    "max_completion_tokens": Number(int, 1, chat_format.MAX_TOKENS),
    "n": Number(int, -1, 10_000),
}
DEFAULT_COMPLETION_TOKENS = 128
DIVERSE = 0.7  # temperature of several completions where none is given

# Fields that act, in both APIs.
_BOTH = (
    *("model", "stream", "stream_options", "stop", "max_tokens", "n", "user"),
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    "steering",  # ours
)
CHAT_FIELDS = frozenset(
    {
        *_BOTH,
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
        *("max_completion_tokens", "reasoning_effort", "prediction", "prompt_cache_key"),
        "modulation",  # ours
    }
)
COMPLETION_FIELDS = frozenset({*_BOTH, "prompt", "suffix", "best_of", "echo"})
# Fields about accounts and billing; they would change nothing in an answer.
IGNORED = frozenset(
    {
        *("metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_options", "prompt_cache_retention"),
    }
)
# Field → the values it may have: those that ask for nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "presence_penalty": (0,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
COMPLETION_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (),
    "presence_penalty": (0,),
}
_MESSAGE_FIELDS = frozenset(
    {
        *("role", "content", "tool_calls", "tool_call_id"),
        # No template knows them: a speaker's name, what was thought, what another API refused.
        *("name", "reasoning_content", "refusal", "audio", "annotations"),
    }
)
_ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A parsed body of `/v1/completions`. Its request names no document."""

    request: InfillRequest
    model: str | None
    user: str  # whose caches are apart from others'
    stream: bool
    include_usage: bool
    choices: int


def parse_chat(body: Body) -> ChatCall:
    """Return the call that a body of `/v1/chat/completions` describes. Raises BadRequest."""
    neutral(body, NEUTRAL)
    only(body, CHAT_FIELDS | IGNORED | NEUTRAL.keys())
    messages = tuple(map(_message, objects(body, "messages", chat_format.MAX_MESSAGES)))
    chat_format.check_conversation(messages)
    tools = tuple(map(_tool, objects(body, "tools", chat_format.MAX_TOOLS)))
    choice = _tool_choice(body.get("tool_choice"))
    chat_format.check_tools(tools, choice)
    sampling, modulated = chat_format.sampling(body)
    numbers = {name: number(body, name, spec) for name, spec in LIMITS.items()}
    most = numbers["max_completion_tokens"] or numbers["max_tokens"] or chat_format.DEFAULT_TOKENS
    request = ChatRequest(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        schema=_schema(table(body, "response_format")),
        max_tokens=int(most),
        sampling=sampling,
        stop=_stops(body),
        reasoning_effort=chat_format.effort(body.get("reasoning_effort"), "reasoning_effort"),
        prediction=_prediction(table(body, "prediction")),
        steering=steering.uses(body),
    )
    return ChatCall(
        request=request,
        model=text(body, "model") or None,
        user=text(body, "prompt_cache_key") or text(body, "user"),
        stream=flag(body, "stream"),
        include_usage=_include_usage(body),
        choices=_choices(numbers["n"], sampling),
        one_call=not flag(body, "parallel_tool_calls", True),
        modulated=modulated,
    )


def parse_completion(body: Body) -> CompletionCall:
    """Return the call that a body of `/v1/completions` describes. Raises BadRequest.

    Without a suffix the gap is at the document's end, unless the prompt is one that the client
    wrote in a model's own format. All of it is text of a document: nothing in it is an instruction
    or a control token.
    """
    neutral(body, COMPLETION_NEUTRAL)
    only(body, COMPLETION_FIELDS | IGNORED | COMPLETION_NEUTRAL.keys())
    given = {name: number(body, name, spec) for name, spec in LIMITS.items()}
    sampling = _completion_sampling(body, several=(given["n"] or 1) > 1)
    prefix, suffix = _prompt(body.get("prompt")), text(body, "suffix")
    if not suffix:
        prefix, suffix = rendered.gap(prefix) or (prefix, suffix)
    request = InfillRequest(
        prefix=prefix,
        suffix=suffix,
        max_tokens=int(given["max_tokens"] or DEFAULT_COMPLETION_TOKENS),
        sampling=sampling,
        stop=_stops(body),
        steering=steering.uses(body),
    )
    return CompletionCall(
        request=request,
        model=text(body, "model") or None,
        user=text(body, "user"),
        stream=flag(body, "stream"),
        include_usage=_include_usage(body),
        choices=_choices(given["n"], sampling),
    )


def content(value: object, where: str) -> str:
    """Return a message's text, whole or in parts. Raises BadRequest for parts that are no text."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise BadRequest(f"{where!r} must be a string or a list of parts.")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(f"{where!r} has a part of type {kind!r}; models here read text only.")
        texts.append(part["text"])
    return "\n".join(texts)


def _message(item: dict[str, Any]) -> Message:
    only(item, _MESSAGE_FIELDS, "messages")
    role = _ROLES.get(text(item, "role"))
    if role is None:
        raise BadRequest(f"'role' must be one of {', '.join(_ROLES)}.")
    said = content(item.get("content"), "content")
    calls = tuple(map(_call, objects(item, "tool_calls", chat_format.MAX_TOOLS)))
    if calls and role is not Role.ASSISTANT:
        raise BadRequest("Only an assistant's message has 'tool_calls'.")
    if item.get("content") is None and not calls:
        raise BadRequest("A message must have a 'content'.")
    return Message(role, said, calls, text(item, "tool_call_id"))


def _call(item: dict[str, Any]) -> ToolCall:
    function = table(item, "function")
    arguments = text(function, "arguments")
    if item.get("type", "function") != "function" or not text(function, "name"):
        raise BadRequest("'tool_calls' must hold calls of type 'function', with a name.")
    return ToolCall(text(item, "id"), text(function, "name"), arguments or "{}")


def _tool(item: dict[str, Any]) -> Tool:
    if item.get("type") != "function":
        raise BadRequest(f"A tool of type {item.get('type')!r} is not supported; 'function' is.")
    function = table(item, "function")
    only(function, ("name", "description", "parameters", "strict"), "function")
    parameters = table(function, "parameters")
    return chat_format.tool(function.get("name"), text(function, "description"), parameters)


def _tool_choice(value: object) -> str:
    if value is None:
        return "auto"
    if isinstance(value, str) and value in ("auto", "none", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function":
        return text(table(value, "function"), "name")
    raise BadRequest(
        "'tool_choice' must be auto, none, required or a function's name in an object."
    )


def _schema(value: dict[str, Any]) -> dict[str, Any] | None:
    kind = value.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = table(table(value, "json_schema"), "schema")
    if kind != "json_schema" or not schema:
        raise BadRequest(
            "'response_format' must be of type text, json_object, or json_schema with a schema."
        )
    chat_format.check_depth(schema, "the parts of 'response_format'")
    return schema


def _prediction(value: dict[str, Any]) -> str:
    if value and value.get("type") != "content":
        raise BadRequest("'prediction' must be of type 'content'.")
    return content(value.get("content"), "prediction")


def _stops(body: Body) -> tuple[str, ...]:
    value = body.get("stop")
    return chat_format.stops((value,) if isinstance(value, str) else strings(body, "stop"), "stop")


def _include_usage(body: Body) -> bool:
    options = table(body, "stream_options")
    only(options, ("include_usage", "include_obfuscation"), "stream_options")
    return flag(options, "include_usage")


def _choices(given: float | None, sampling: Sampling) -> int:
    n = 1 if given is None else int(given)
    if not 1 <= n <= chat_format.MAX_CHOICES:
        raise BadRequest(f"'n' must be 1 to {chat_format.MAX_CHOICES}.")
    if n > 1 and sampling.temperature == 0:
        raise BadRequest("'n' over 1 needs a 'temperature' over 0: at 0 all answers are the same.")
    return n


def _completion_sampling(body: Body, *, several: bool) -> Sampling:
    """Return how to sample; greedy unless a temperature is given, or several are wanted."""
    if body.get("temperature") is None:
        body = {**body, "temperature": DIVERSE if several else 0}
    return chat_format.sampling(body)[0]


def _prompt(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise BadRequest("'prompt' must be a string, or a list of one string.")
    return value
