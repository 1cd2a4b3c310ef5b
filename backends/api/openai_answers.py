"""What OpenAI's Chat and Completions APIs answer, whole and as events of a stream.

Rule: pure but for ids and the clock, which are made once per answer. Must not know HTTP.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.api.chat_format import ChatCall, calls_given
from backends.backend import Chunk, FinishReason, ToolCall, Usage

# A deadline cuts an answer short, as a limit does.
_REASONS: Mapping[FinishReason, str] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.DEADLINE: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
}

Object = dict[str, Any]


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    last: Chunk = field(default_factory=lambda: Chunk(""))


class Answer(ABC):
    """One answer under way: fed with chunks, it gives events, or in the end the whole."""

    def __init__(self, model: str, kind: str, prefix: str, *, include_usage: bool) -> None:
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage
        self._choices: dict[int, _Choice] = {}

    def add(self, index: int, chunk: Chunk) -> list[Object]:
        """Take a chunk of choice `index`; return the events for it."""
        first = index not in self._choices
        choice = self._choices.setdefault(index, _Choice())
        choice.text.append(chunk.text)
        choice.reasoning.append(chunk.reasoning)
        choice.last = chunk
        usage = {"usage": None} if self._include_usage else {}
        return [{**self._head, "choices": [e], **usage} for e in self._events(index, chunk, first)]

    def end(self) -> list[Object]:
        """Return the event that comes after all choices, if it was asked for."""
        if not self._include_usage:
            return []
        return [{**self._head, "choices": [], "usage": self._usage()}]

    def body(self) -> Object:
        """Return the whole answer."""
        choices = [self._whole(index, choice) for index, choice in self._choices.items()]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _usage(self) -> Object:
        """Count all choices' tokens; they have one prompt, which counts once."""
        usages = [choice.last.usage or Usage() for choice in self._choices.values()]
        prompt, completion = usages[0].prompt_tokens, sum(u.completion_tokens for u in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens},
        }

    @abstractmethod
    def _events(self, index: int, chunk: Chunk, first: bool) -> Iterator[Object]:
        """Yield the choices of the events for a chunk, the `first` of its choice or not."""

    @abstractmethod
    def _whole(self, index: int, choice: _Choice) -> Object:
        """Return a choice of the whole answer."""


class ChatAnswer(Answer):
    """The answer to a call of `/v1/chat/completions`."""

    def __init__(self, call: ChatCall, model: str) -> None:
        kind = "chat.completion.chunk" if call.stream else "chat.completion"
        super().__init__(model, kind, "chatcmpl", include_usage=call.include_usage)
        self._call = call

    def _events(self, index: int, chunk: Chunk, first: bool) -> Iterator[Object]:
        if first:
            yield _choice(index, delta={"role": "assistant", "content": ""})
        if chunk.reasoning:
            yield _choice(index, delta={"reasoning_content": chunk.reasoning})
        if chunk.text:
            yield _choice(index, delta={"content": chunk.text})
        for number, call in enumerate(calls_given(chunk.tool_calls, self._call)):
            for delta in _call_deltas(number, call):
                yield _choice(index, delta={"tool_calls": [delta]})
        if chunk.finish_reason is not None:
            yield _choice(index, finish(chunk), delta={})

    def _whole(self, index: int, choice: _Choice) -> Object:
        text, reasoning = "".join(choice.text), "".join(choice.reasoning)
        calls = calls_given(choice.last.tool_calls, self._call)
        message: Object = {"role": "assistant", "content": text, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["content"] = text or None
            message["tool_calls"] = _calls(calls)
        return _choice(index, finish(choice.last), message=message)


class TextAnswer(Answer):
    """The answer to a call of `/v1/completions`."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        super().__init__(model, "text_completion", "cmpl", include_usage=include_usage)

    def _events(self, index: int, chunk: Chunk, first: bool) -> Iterator[Object]:
        reason = finish(chunk) if chunk.finish_reason is not None else None
        yield _choice(index, reason, text=chunk.text)

    def _whole(self, index: int, choice: _Choice) -> Object:
        return _choice(index, finish(choice.last), text="".join(choice.text))


def finish(last: Chunk) -> str:
    """Return why the choice that ends with `last` ended."""
    if last.tool_calls:
        return "tool_calls"
    return _REASONS[last.finish_reason or FinishReason.STOP]


def _choice(index: int, reason: str | None = None, **what: object) -> Object:
    return {"index": index, **what, "logprobs": None, "finish_reason": reason}


def _calls(calls: Sequence[ToolCall]) -> list[Object]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def _call_deltas(number: int, call: ToolCall) -> Iterator[Object]:
    """Yield a call as clients put it together: who is called, then the arguments."""
    function = {"name": call.name, "arguments": ""}
    yield {"index": number, "id": call.id, "type": "function", "function": function}
    yield {"index": number, "function": {"arguments": call.arguments}}
