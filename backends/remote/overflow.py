"""Finding out that a request was too long for a model's context, and how long that is.

Rule: pure; a table of what engines say. Their numbers are not trusted: one that can't be is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from backends.errors import RemoteRefused

STATUSES = frozenset({400, 413, 422})  # that engines say it with
MIN_LENGTH = 16  # tokens; no model has less
MAX_LENGTH = 100_000_000

# `type` or `code` of an error: llama-server's and OpenAI's.
_NAMES = frozenset({"exceed_context_size_error", "context_length_exceeded"})
_LENGTHS = (
    r"maximum (?:context|model) length (?:is|of) ([0-9]+)",  # vLLM, SGLang, OpenAI, DeepSeek
    r"context length (?:of only |of |is |\()([0-9]+)",  # SGLang, LM Studio
    r"context (?:size|window) (?:of |is |\()([0-9]+)",  # llama-server
    r"([0-9]+) maximum context length",  # Mistral
    r"`max_new_tokens` must be <= ([0-9]+)",  # text-generation-inference
)
_PROMPTS = (
    r"([0-9]+) in the (?:messages|prompt|input)",  # vLLM, OpenAI
    r"(?:prompt|request) (?:contains|has) (?:at least )?([0-9]+)",  # vLLM, Mistral
    r"messages resulted in ([0-9]+)",  # OpenAI
    r"(?:request|input|prompt) \((?:length )?([0-9]+)",  # llama-server, SGLang, vLLM
    r"Given: ([0-9]+) `inputs`",  # text-generation-inference
)
# With no number in them.
_PHRASES = (
    r"exceeds? the (?:available )?context (?:size|window|length)",  # older llama-server, OpenAI
    r"exceeds the (?:model's )?(?:maximum )?context",
    r"longer than the (?:model's )?context",
    r"context (?:length|window|size) (?:was )?exceeded",
)


def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_LENGTH, _PROMPT, _PHRASE = _any(_LENGTHS), _any(_PROMPTS), _any(_PHRASES)


class ContextExceeded(RemoteRefused):
    """The request is longer than the model's context. In tokens, 0 where it is not said:

    `length` is that of the context, `prompt` that of what was sent.
    """

    def __init__(self, message: str, length: int = 0, prompt: int = 0) -> None:
        super().__init__(message)
        self.length = length
        self.prompt = prompt


def read(value: Any, text: str) -> tuple[int, int] | None:
    """Return the tokens of the context and of the prompt; None where an error is another one.

    `value` is the error as it was sent, `text` the words in it.
    """
    told = _details(value)
    length = _number(told.get("n_ctx")) or _found(_LENGTH, text)
    prompt = _number(told.get("n_prompt_tokens")) or _found(_PROMPT, text)
    named = not _NAMES.isdisjoint(str(told.get(name)) for name in ("type", "code"))
    if not (named or length or _PHRASE.search(text)):
        return None
    return length, prompt


def _details(value: Any) -> Mapping[str, Any]:
    """Return the object that an error's details are in."""
    while isinstance(value, dict) and isinstance(value.get("error"), dict):
        value = value["error"]
    return value if isinstance(value, dict) else {}


def _found(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return _number(int(next(filter(None, match.groups()))[:12])) if match else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) and MIN_LENGTH <= value <= MAX_LENGTH else 0
