"""The fields of `POST /infill`: llama-server's names on the wire, our types inside.

Rule: pure. Every parameter is on this page with its type and limits, numbers are clamped, a wrong
type is a BadRequest that names the field, and what is not listed is ignored, as llama-server does.

    input_prefix, input_suffix   text around the cursor; `prompt` is appended to the prefix
    input_extra                  [{filename, text}], pieces of other files
    n_predict                    tokens at most; negative: as many as allowed; 0: only evaluate
    temperature                  0 or absent is greedy, also where top_k and top_p are given
    top_k, top_p, min_p, seed    used with a temperature
    stop                         strings that end the text
    t_max_prompt_ms              time for the prompt; the window shrinks to fit
    t_max_predict_ms             time for the text after it
    deadline_ms                  time for both (ours); wins over the two above
    document, path, single_line, limit_scope, ahead   ours: see `backends.backend.InfillRequest`
    n_indent                     more than 0: limit_scope, by the depth of the cursor's line
    steering                     [{name, coefficient}] (ours): vectors that act on this request
    id_slot                      stands for a document where none is named
    cache_prompt                 false: as if no document were named
    model                        must be the one that serves
    stream, response_fields, return_tokens   the answer's form
    modulation                   refused: it is for chat
    samplers                     checked and not used: we sample in one fixed order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.api import steering
from backends.api.fields import Number, number, strings, typed
from backends.backend import (
    Chunk,
    ContextChunk,
    FinishReason,
    InfillRequest,
    Sampling,
    Timings,
    Usage,
)
from backends.errors import BadRequest

MAX_TOKENS = 2048
MAX_STOPS = 32
MAX_STOP_LENGTH = 1024
MAX_EXTRA = 256
MAX_MS = 3_600_000.0
DEFAULT_TOKENS = 128
DEFAULT_PROMPT_MS = 1000.0  # of the deadline, where only the time to predict is given


NUMBERS: Mapping[str, Number] = {
    "n_predict": Number(int, -1, MAX_TOKENS),
    "temperature": Number(float, 0, 2),
    "top_k": Number(int, 0, 1_000_000),
    "top_p": Number(float, 0, 1),
    "min_p": Number(float, 0, 1),
    "seed": Number(int, -1, 2**32 - 1),
    "t_max_prompt_ms": Number(float, 0, MAX_MS),
    "t_max_predict_ms": Number(float, 0, MAX_MS),
    "deadline_ms": Number(float, 0, MAX_MS),
    "n_indent": Number(int, 0, 1024),
    "id_slot": Number(int, -1, 1_000_000),
}
TEXTS = ("input_prefix", "input_suffix", "prompt", "document", "path", "model")
FLAGS = ("stream", "single_line", "limit_scope", "ahead", "cache_prompt", "return_tokens")
LISTS = ("stop", "samplers", "response_fields")


@dataclass(frozen=True, slots=True)
class InfillCall:
    """A parsed body: what to generate, and how to answer."""

    request: InfillRequest
    model: str | None
    stream: bool
    response_fields: tuple[str, ...]
    return_tokens: bool


def parse(body: Mapping[str, Any]) -> InfillCall:
    """Return the call that `body` describes. Raises BadRequest."""
    if body.get("modulation") is not None:  # ours, so nobody's client sends it by the way
        raise BadRequest("'modulation' is for chat; give 'temperature' and 'top_p' here.")
    numbers = {name: number(body, name, spec) for name, spec in NUMBERS.items()}
    texts = {name: typed(body, name, str, "a string") for name in TEXTS}
    flags = {name: typed(body, name, bool, "true or false") for name in FLAGS}
    lists = {name: strings(body, name) for name in LISTS}
    stops = tuple(stop for stop in lists["stop"] if stop)
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_LENGTH for stop in stops):
        raise BadRequest(f"'stop' may hold {MAX_STOPS} strings of {MAX_STOP_LENGTH} characters.")
    max_tokens = _max_tokens(numbers["n_predict"])
    prompt_ms, deadline_ms = _times(numbers, max_tokens)
    request = InfillRequest(
        prefix=(texts["input_prefix"] or "") + (texts["prompt"] or ""),
        suffix=texts["input_suffix"] or "",
        document=_document(texts["document"], flags["cache_prompt"], numbers["id_slot"]),
        path=texts["path"],
        extra=_extra(body),
        max_tokens=max_tokens,
        sampling=_sampling(numbers),
        stop=stops,
        single_line=bool(flags["single_line"]),
        limit_scope=bool(flags["limit_scope"] or numbers["n_indent"]),
        ahead=bool(flags["ahead"]),
        prompt_ms=prompt_ms,
        deadline_ms=deadline_ms,
        steering=steering.uses(body),
    )
    return InfillCall(
        request=request,
        model=texts["model"] or None,
        stream=bool(flags["stream"]),
        response_fields=lists["response_fields"],
        return_tokens=bool(flags["return_tokens"]),
    )


def _extra(body: Mapping[str, Any]) -> tuple[ContextChunk, ...]:
    value = body.get("input_extra")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_EXTRA:
        raise BadRequest(f"'input_extra' must be a list of at most {MAX_EXTRA} objects.")
    chunks = []
    for item in value:
        text = item.get("text") if isinstance(item, dict) else None
        filename = item.get("filename", "tmp") if isinstance(item, dict) else None
        if not isinstance(text, str) or not isinstance(filename, str):
            raise BadRequest("'input_extra' must hold objects with a 'text' and a 'filename'.")
        chunks.append(ContextChunk(filename, text))
    return tuple(chunks)


def _max_tokens(given: float | None) -> int:
    if given is None:
        return DEFAULT_TOKENS
    return MAX_TOKENS if given < 0 else int(given)


def _times(
    numbers: Mapping[str, float | None], max_tokens: int
) -> tuple[float | None, float | None]:
    """Return the time for the prompt and for the whole request, in milliseconds.

    llama.vim warms the cache with no tokens to predict and 1 ms for everything: such a request is
    there to evaluate the prompt, so only a deadline of its own limits it.
    """
    prompt, predict = numbers["t_max_prompt_ms"] or None, numbers["t_max_predict_ms"] or None
    deadline = numbers["deadline_ms"] or None
    if max_tokens == 0:
        return None, deadline
    if deadline is None and predict is not None:
        deadline = (prompt or DEFAULT_PROMPT_MS) + predict
    return prompt, deadline


def _document(document: str | None, cache_prompt: bool | None, id_slot: float | None) -> str | None:
    """Return the identity of the document that this request's cache belongs to.

    Clients of llama-server name a slot and no document; a slot then stands for one. Cached text is
    found by its content, so it does no harm if the slot's document changes.
    """
    if cache_prompt is False:
        return None
    if document:
        return document
    return f"slot:{int(id_slot)}" if id_slot is not None and id_slot >= 0 else None


def _sampling(numbers: Mapping[str, float | None]) -> Sampling:
    default = Sampling()

    def given(name: str, otherwise: float) -> float:
        value = numbers[name]
        return otherwise if value is None else value

    seed = numbers["seed"]
    return Sampling(
        temperature=float(given("temperature", default.temperature)),
        top_k=int(given("top_k", default.top_k)),
        top_p=float(given("top_p", default.top_p)),
        min_p=float(given("min_p", default.min_p)),
        seed=None if seed is None or seed < 0 else int(seed),
    )


_STOP_TYPES = {
    FinishReason.LENGTH: "limit",
    FinishReason.DEADLINE: "limit",
    FinishReason.CANCELLED: "none",
}


def answer(call: InfillCall, model: str, last: Chunk) -> dict[str, object]:
    """Return the body of a finished call; `last` is the chunk with the finish reason."""
    usage = last.usage or Usage()
    reason = last.finish_reason or FinishReason.STOP
    stopped = "word" if last.stopping_word else "eos"
    body: dict[str, object] = {
        "content": last.text,
        "stop": True,
        "stop_type": _STOP_TYPES.get(reason, stopped),
        "stopping_word": last.stopping_word,
        "finish_reason": reason.value,
        "model": model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": last.truncated,
        "timings": _timings(usage, last.timings or Timings()),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
    }
    if call.return_tokens:
        body["tokens"] = list(last.token_ids)
    return select_fields(body, call.response_fields)


def piece(chunk: Chunk) -> dict[str, object]:
    """Return the body of one event of a stream, before the last."""
    return {"content": chunk.text, "tokens": list(chunk.token_ids), "stop": False}


def select_fields(body: Mapping[str, object], wanted: Sequence[str]) -> dict[str, object]:
    """Keep what `wanted` names; "a/b" is field b of a, under that flat name, as llama-server does.

    Nothing wanted: everything. Names of nothing are left out.
    """
    if not wanted:
        return dict(body)
    kept: dict[str, object] = {}
    for path in wanted:
        value: object = body
        for key in path.split("/"):
            value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is not _MISSING:
            kept[path] = value
    return kept


_MISSING = object()


def _timings(usage: Usage, timings: Timings) -> dict[str, float]:
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": evaluated,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_token_ms": _ratio(timings.prompt_ms, evaluated),
        "prompt_per_second": _ratio(1000.0 * evaluated, timings.prompt_ms),
        "predicted_n": usage.completion_tokens,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_token_ms": _ratio(timings.predicted_ms, usage.completion_tokens),
        "predicted_per_second": _ratio(1000.0 * usage.completion_tokens, timings.predicted_ms),
        "queue_ms": timings.queue_ms,
    }


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0
