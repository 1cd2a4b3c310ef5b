"""How many tokens a conversation has at an endpoint: asked, never guessed.

Rule: the messages are the very ones that a chat would send. Raises errors of `backends.errors`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from backends.backend import ChatRequest
from backends.errors import RemoteProtocolError, RemoteRefused, Unsupported
from backends.remote import conversation
from backends.remote.profiles import Counting

if TYPE_CHECKING:
    from backends.remote.probe import Probed
    from backends.remote.transport import Connection

_SHOWN = ("messages", "tools", "tool_choice")


async def count(connection: Connection, probed: Probed, request: ChatRequest) -> int:
    """Return the number of tokens of the prompt. Raises Unsupported where nobody can say."""
    profile = probed.profile
    if (ask := _WAYS.get(profile.counting)) is None:
        raise Unsupported(f"{profile.title} does not count a conversation's tokens.")
    body, _ = conversation.arguments(profile, probed.model, request, "")
    shown: dict[str, Any] = {name: body[name] for name in _SHOWN if name in body}
    try:
        number = await ask(connection, {"model": probed.model, **shown})
    except RemoteRefused as exc:  # a router in between may let nothing through but /v1
        raise Unsupported(f"A conversation's tokens cannot be counted. {exc}") from exc
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise RemoteProtocolError(f"{connection.endpoint.root} sent no number of tokens.")
    return number


async def _of_template(connection: Connection, body: Mapping[str, Any]) -> object:
    applied, _ = await connection.json("POST", "/apply-template", body)
    prompt = applied.get("prompt") if isinstance(applied, dict) else None
    if not isinstance(prompt, str):
        raise RemoteProtocolError("llama-server's /apply-template sent no prompt.")
    asked = {"content": prompt, "add_special": True, "parse_special": True}
    answer, _ = await connection.json("POST", "/tokenize", asked)
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    return len(tokens) if isinstance(tokens, list) else None


async def _of_messages(connection: Connection, body: Mapping[str, Any]) -> object:
    fields = {name: value for name, value in body.items() if name != "tool_choice"}
    asked = {**fields, "add_generation_prompt": True}
    answer, _ = await connection.json("POST", "/tokenize", asked)
    return answer.get("count") if isinstance(answer, dict) else None


_WAYS: Mapping[Counting, Callable[[Connection, Mapping[str, Any]], Awaitable[object]]] = {
    Counting.TEMPLATE: _of_template,
    Counting.MESSAGES: _of_messages,
}
