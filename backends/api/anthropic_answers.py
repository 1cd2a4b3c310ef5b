"""What Anthropic's Messages API answers, whole and as events of a stream.

Rule: pure but for the id, which is made once per answer. `input_tokens`, `cache_read_input_tokens`
and `cache_creation_input_tokens` add up to the prompt, as Anthropic defines them. The usage is
known at the end, so `message_delta` tells it and `message_start` has zeros. Must not know HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from backends.api.chat_format import ChatCall, calls_given
from backends.backend import Chunk, FinishReason, ToolCall, Usage
from backends.errors import BackendError

Object = dict[str, Any]

# A deadline cuts an answer short, as a limit does.
_REASONS: Mapping[FinishReason, str] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.DEADLINE: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}
# Kind of block → its field, and the kind of its deltas.
_BLOCKS: Mapping[str, tuple[str, str]] = {
    "thinking": ("thinking", "thinking_delta"),
    "text": ("text", "text_delta"),
}


class MessageAnswer:
    """One answer under way: fed with chunks, it gives events, or in the end the whole."""

    def __init__(self, call: ChatCall, model: str) -> None:
        self._call = call
        self._model = model
        self._id = f"msg_{secrets.token_hex(12)}"
        self._blocks: list[Object] = []  # as the whole answer has them
        self._open = False  # the last of them can still grow
        self._last = Chunk("")

    def start(self) -> list[Object]:
        """Return the events before any chunk."""
        message = self._message([], None, None, Usage())
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def add(self, chunk: Chunk) -> list[Object]:
        """Take a chunk; return the events for it, which are the last if it ends the answer."""
        self._last = chunk
        events: list[Object] = []
        if self._call.reasoning:
            events += self._grow("thinking", chunk.reasoning)
        events += self._grow("text", chunk.text)
        if chunk.finish_reason is not None:
            events += self._close()
            for call in calls_given(chunk.tool_calls, self._call):
                events += self._tool_use(call)
            events += self._end()
        return events

    def body(self) -> Object:
        """Return the whole answer."""
        reason, stop = self._stop()
        return self._message(self._blocks, reason, stop, self._last.usage or Usage())

    def _grow(self, kind: str, text: str) -> Iterator[Object]:
        if not text:
            return
        field, delta = _BLOCKS[kind]
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._close()
            block = {"type": kind, field: ""} | ({"signature": ""} if kind == "thinking" else {})
            yield self._begin(block)
            self._open = True
        self._blocks[-1][field] += text
        yield self._delta({"type": delta, field: text})

    def _tool_use(self, call: ToolCall) -> Iterator[Object]:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield self._begin(block)
        self._blocks[-1]["input"] = _object(call)
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        self._open = True
        yield from self._close()

    def _begin(self, block: Object) -> Object:
        self._blocks.append(dict(block))
        index = len(self._blocks) - 1
        return {"type": "content_block_start", "index": index, "content_block": block}

    def _delta(self, delta: Object) -> Object:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _close(self) -> Iterator[Object]:
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _end(self) -> Iterator[Object]:
        reason, stop = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        yield {
            "type": "message_delta",
            "delta": delta,
            "usage": _usage(self._last.usage or Usage()),
        }
        yield {"type": "message_stop"}

    def _stop(self) -> tuple[str, str | None]:
        """Return why the answer ended, and the stop sequence that ended it, if one did."""
        if self._last.tool_calls:
            return "tool_use", None
        if self._last.stopping_word:
            return "stop_sequence", self._last.stopping_word
        return _REASONS[self._last.finish_reason or FinishReason.STOP], None

    def _message(
        self, content: list[Object], reason: str | None, stop: str | None, usage: Usage
    ) -> Object:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(usage),
        }


def _usage(usage: Usage) -> Object:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _object(call: ToolCall) -> Object:
    """Return the call's arguments; engines promise an object."""
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise BackendError(f"The model's call of {call.name} is not JSON. Ask again.") from exc
