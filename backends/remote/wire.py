"""What a completion's request looks like to an engine, and what its stream says.

Rule: pure; rows of `profiles` and tables decide. Numbers of a remote engine are not trusted: counts
that are none become 0, so that `cached_tokens` is never more than `prompt_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.backend import FinishReason, InfillRequest, Sampling, Timings, Usage
from backends.remote.profiles import Healing, Profile, Shape
from backends.remote.prompting import Outgoing

FINISHES = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "word": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "limit": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
}

MEASURED_TOKENS = 64  # fewer evaluated at once say little about the rate


@dataclass(frozen=True, slots=True)
class Event:
    """What one object of a stream says; None where it says nothing of that."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    stopping_word: str = ""
    truncated: bool = False
    prefill_rate: float = 0.0  # tokens per second, measured by the engine


def body(
    profile: Profile,
    model: str,
    outgoing: Outgoing,
    request: InfillRequest,
    stops: tuple[str, ...],
    context: int = 0,
) -> dict[str, Any]:
    """Return the JSON object to send. `stops` in order of their worth; the rest is cut here.

    `context` is the length in tokens that the engine is to serve the model with, 0 for its own.
    """
    limit = max(1, request.max_tokens + outgoing.dropped)
    options: dict[str, Any] = {
        **sampling(profile, request.sampling),
        profile.limit_field: min(limit, profile.max_tokens or limit),
    }
    if context and profile.context_field:
        options[profile.context_field] = context
    if stops:
        options["stop"] = list(stops[: profile.max_stops])
    prompt_field, suffix_field = profile.suffix_fields
    whole = {"model": model, "stream": True, **profile.fixed}
    if outgoing.suffix is None:
        whole["prompt"] = outgoing.prompt
    else:
        suffix = outgoing.suffix or profile.empty_suffix
        whole |= {prompt_field: outgoing.prompt, suffix_field: suffix}
    if outgoing.pending and profile.healing is Healing.GRAMMAR:
        whole["grammar"] = f'root ::= "{_quoted(outgoing.pending)}" .*'
    return whole | ({profile.options_field: options} if profile.options_field else options)


def sampling(profile: Profile, chosen: Sampling) -> dict[str, Any]:
    """Return how to pick tokens, in the engine's names. Greedy sends the temperature alone."""
    if chosen.temperature == 0:
        return {"temperature": 0}
    return {
        name: value
        for ours, name in profile.sampling.items()
        if (value := getattr(chosen, ours)) is not None
    }


def read(shape: Shape, event: Mapping[str, Any]) -> Event:
    """Return what an object of the stream says. Fields of a wrong type count as not there."""
    return _READERS[shape](event)


def usage(value: Any) -> Usage | None:
    """Return an OpenAI-style usage object's counts."""
    if not isinstance(value, dict):
        return None
    prompt = _count(value.get("prompt_tokens"))
    details = value.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    cached = cached or _count(value.get("prompt_cache_hit_tokens"))  # DeepSeek's name for it
    return Usage(prompt, min(cached, prompt), _count(value.get("completion_tokens")))


def _llama(event: Mapping[str, Any]) -> Event:
    timings = event.get("timings")
    timings = timings if isinstance(timings, dict) else {}
    prompt = _count(event.get("tokens_evaluated"))
    progress = event.get("prompt_progress")
    cached = timings.get("cache_n")
    if isinstance(progress, dict):
        cached = progress.get("cache")
    ended = event.get("stop") is True
    said = {} if isinstance(progress, dict) else event  # it comes with a token nobody generated
    times = Timings(0.0, _number(timings.get("prompt_ms")), _number(timings.get("predicted_ms")))
    measured = ended and _count(timings.get("prompt_n")) >= MEASURED_TOKENS
    counts = Usage(prompt, min(_count(cached), prompt), _count(event.get("tokens_predicted")))
    return Event(
        text=_text(said.get("content")),
        token_ids=_ids(said.get("tokens")),
        finish=_finish(event.get("stop_type")) or FinishReason.STOP if ended else None,
        usage=None if cached is None else counts,
        timings=times if ended else None,
        stopping_word=_text(event.get("stopping_word")),
        truncated=event.get("truncated") is True,
        prefill_rate=_number(timings.get("prompt_per_second")) if measured else 0.0,
    )


def _openai(event: Mapping[str, Any]) -> Event:
    choice = _choice(event)
    return Event(
        text=_text(choice.get("text")),
        finish=_finish(choice.get("finish_reason")),
        usage=usage(event.get("usage")),
    )


def _chat(event: Mapping[str, Any]) -> Event:
    choice = _choice(event)
    delta = choice.get("delta")
    return Event(
        text=_text(delta.get("content")) if isinstance(delta, dict) else "",
        finish=_finish(choice.get("finish_reason")),
        usage=usage(event.get("usage")),
    )


def _ollama(event: Mapping[str, Any]) -> Event:
    ended = event.get("done") is True
    counts = Usage(_count(event.get("prompt_eval_count")), 0, _count(event.get("eval_count")))
    times = [_number(event.get(f"{name}_duration")) / 1e6 for name in ("prompt_eval", "eval")]
    return Event(
        text=_text(event.get("response")),
        finish=_finish(event.get("done_reason")) or FinishReason.STOP if ended else None,
        usage=counts if ended else None,
        timings=Timings(0.0, *times) if ended else None,
    )


_READERS: Mapping[Shape, Callable[[Mapping[str, Any]], Event]] = {
    Shape.LLAMA: _llama,
    Shape.OPENAI: _openai,
    Shape.CHAT: _chat,
    Shape.OLLAMA: _ollama,
}


def _quoted(text: str) -> str:
    """Return `text` as it stands between the quotes of a llama.cpp grammar."""
    return "".join(
        f"\\x{ord(letter):02x}" if letter < " " or letter in '"\\' else letter for letter in text
    )


def _choice(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _finish(value: Any) -> FinishReason | None:
    """Return why it ended; what is not known (a content filter, …) is an end like any other."""
    return FINISHES.get(value, FinishReason.STOP) if isinstance(value, str) and value else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(i for i in value if isinstance(i, int)) if isinstance(value, list) else ()


def _count(value: Any) -> int:
    return max(0, value) if isinstance(value, int) else 0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
