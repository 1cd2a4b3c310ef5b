"""Requests that are longer than the context of a model whose context's length nobody told."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from backends.backend import ChatRequest, InfillRequest, Message, Role
from backends.errors import BadRequest, RemoteRefused
from backends.remote import overflow
from tests.backends.remote.conftest import MODEL, Connect, collected
from tests.backends.remote.upstream import Reply, Upstream, as_json, sse

LLAMA = {
    "error": {
        "code": 400,
        "message": "request (9024 tokens) exceeds the available context size (1024 tokens), try "
        "increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9024,
        "n_ctx": 1024,
    }
}


def openai(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


# What engines say, as they say it → the context's and the prompt's tokens that it tells.
SAID: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "llama-server": (LLAMA, (1024, 9024)),
    "llama-server, older": (
        openai("the request exceeds the available context size. try increasing the context size"),
        (0, 0),
    ),
    "vLLM": (
        openai(
            "This model's maximum context length is 4096 tokens. However, you requested 5000 "
            "tokens (4900 in the messages, 100 in the completion). Please reduce the length."
        ),
        (4096, 4900),
    ),
    "vLLM, the answer's length": (
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum "
            "context length is 4096 tokens and your request has 1000 input tokens "
            "(4096 > 4096 - 1000)."
        ),
        (4096, 1000),
    ),
    "vLLM, newer": (
        openai(
            "This model's maximum context length is 2048 tokens. However, you requested 100 "
            "output tokens and your prompt contains at least 1949 input tokens, for a total of at "
            "least 2049 tokens."
        ),
        (2048, 1949),
    ),
    "vLLM, its decoder": (
        {"object": "error", "message": "The decoder prompt (length 5000) is longer than the "
         "maximum model length of 4096. Make sure that `max_model_len` is no smaller."},
        (4096, 5000),
    ),
    "SGLang": (
        openai("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (4096, 5000),
    ),
    "OpenAI": (
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted "
            "in 9000 tokens. Please reduce the length of the messages.",
            code="context_length_exceeded",
        ),
        (8192, 9000),
    ),
    "OpenAI, no numbers": (
        openai("Your input is too much for this model.", code="context_length_exceeded"),
        (0, 0),
    ),
    "Mistral": (
        {"message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
         "32768 maximum context length", "type": "invalid_request_error"},
        (32768, 40000),
    ),
    "LM Studio": (
        {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the "
         "model is loaded with context length of only 4096 tokens, which is not enough."},
        (4096, 0),
    ),
    "text-generation-inference": (
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
         "Given: 4500 `inputs` tokens and 100 `max_new_tokens`", "error_type": "validation"},
        (4096, 4500),
    ),
}  # fmt: skip
OTHERS: tuple[Any, ...] = (
    openai("'temperature' must be at most 2."),
    openai("The model 'context' does not exist."),
    openai("max_tokens must be at least 1"),
    {"detail": [{"msg": "field required"}]},
    {},
    [],
)
GOOD = sse({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]})
PATH, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = InfillRequest("a = 1\n" * 4000, "b = 2\n" * 4000, document="a", max_tokens=8)
HELLO = ChatRequest((Message(Role.USER, "hello"),), max_tokens=4096)


@pytest.mark.parametrize("engine", SAID)
async def test_length_is_learnt_and_a_shorter_prompt_sent(
    connect: Connect, upstream: Upstream, engine: str
) -> None:
    said, (length, _) = SAID[engine]
    length = min(length, 1024) if length else 0  # one that the first prompt does not fit
    body = _with_length(said, SAID[engine][1][0], length)
    upstream.answers(PATH, as_json(body, 400), GOOD)
    backend = await connect()
    assert backend.capabilities.context_length == 0
    text, _ = await collected(backend.infill(LONG))
    assert text == "x"
    await collected(backend.infill(LONG))
    first, second, third = (len(r.json["prompt"]) for r in upstream.to(PATH))
    assert second < first * 0.75
    assert not length or second < length * 3
    assert third == second, "it is remembered"


def _with_length(said: dict[str, Any], old: int, new: int) -> dict[str, Any]:
    """Return what an engine says, of another length."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        if isinstance(value, str) and old:
            return value.replace(str(old), str(new))
        return new if value == old and old else value

    result: dict[str, Any] = changed(said)
    return result


@pytest.mark.parametrize("engine", SAID)
def test_what_engines_say_is_read(engine: str) -> None:
    said, numbers = SAID[engine]
    message = next(s for s in _strings(said) if " " in s)
    assert overflow.read(said, message) == numbers


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("said", OTHERS, ids=str)
async def test_other_refusals_are_not_taken_for_it(
    connect: Connect, upstream: Upstream, said: Any
) -> None:
    assert overflow.read(said, next(iter(_strings(said)), "")) is None
    upstream.answers(PATH, as_json(said, 400))
    with pytest.raises(RemoteRefused):
        await collected((await connect()).infill(LONG))
    assert len(upstream.to(PATH)) == 1


@pytest.mark.parametrize("n_ctx", [-5, 0, True, "1024", 10**12, None])
def test_numbers_that_cannot_be_are_none(n_ctx: object) -> None:
    said = {"error": {"type": "exceed_context_size_error", "n_ctx": n_ctx}}
    assert overflow.read(said, "") == (0, 0)


async def test_prompt_that_never_fits_is_refused_with_the_setting_to_set(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers(PATH, as_json(SAID["OpenAI, no numbers"][0], 400))
    backend = await connect()
    sizes = []
    for _ in range(3):
        with pytest.raises(BadRequest, match="context_length") as caught:
            await collected(backend.infill(LONG))
        assert "too much for this model" in str(caught.value)
        sizes.append(len(upstream.to(PATH)[-1].json["prompt"]))
    assert len(upstream.to(PATH)) == 6, "once more each time"
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


async def test_error_in_the_stream_is_understood_too(connect: Connect, upstream: Upstream) -> None:
    """As SGLang sends it, when the answer has begun by HTTP's account."""
    upstream.answers(PATH, sse(LLAMA), GOOD)
    text, _ = await collected((await connect()).infill(LONG))
    assert text == "x"


async def test_answer_is_no_longer_than_what_is_left(connect: Connect, upstream: Upstream) -> None:
    """vLLM refuses to be asked for more."""
    row = {"id": MODEL, "owned_by": "vllm", "max_model_len": 1024}
    upstream.answers("/v1/models", as_json({"data": [row]}))
    upstream.answers(PATH, GOOD)
    backend = await connect()
    await collected(backend.infill(InfillRequest("x", "", max_tokens=2000)))
    await collected(backend.infill(InfillRequest(LONG.prefix, LONG.suffix, max_tokens=2000)))
    short, long = (r.json["max_tokens"] for r in upstream.to(PATH))
    assert 256 <= long < short < 1024


async def test_chat_is_repeated_with_a_shorter_answer(connect: Connect, upstream: Upstream) -> None:
    refusal = as_json(SAID["vLLM, the answer's length"][0], 400)
    delta = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    upstream.answers(CHAT, refusal, sse(delta))
    text, _ = await collected((await connect()).chat(HELLO))
    assert text == "x"
    assert [r.json["max_tokens"] for r in upstream.to(CHAT)] == [4096, 3096]


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (as_json(LLAMA, 400), 1),
        (as_json(SAID["OpenAI, no numbers"][0], 400), 1),
        (as_json(SAID["vLLM, the answer's length"][0], 400), 2),
        (sse(LLAMA), 1),
    ],
    ids=["too long", "no numbers", "also the shorter one", "in the stream"],
)
async def test_conversation_that_does_not_fit_says_what_to_do(
    connect: Connect, upstream: Upstream, reply: Reply, asked: int
) -> None:
    upstream.answers(CHAT, reply)
    with pytest.raises(BadRequest, match="Begin a new conversation"):
        await collected((await connect()).chat(HELLO))
    assert len(upstream.to(CHAT)) == asked


async def test_real_server_is_recovered_from(
    connect: Connect, llama_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A llama-server that is taken for an engine which does not tell its context's length."""
    backend = await connect(
        endpoint=llama_server, profile="openai-compatible", family="qwen2.5-coder"
    )
    assert backend.capabilities.context_length == 0
    caplog.set_level(logging.INFO, "backends.remote.completing")
    dense = "".join(f"x{n} = [{n},{n},{n},{n}]\n" for n in range(400))
    for _ in range(2):
        _, last = await collected(backend.infill(InfillRequest(dense, dense, max_tokens=4)))
        assert last.truncated
        assert last.usage is not None
        assert 100 < last.usage.prompt_tokens < 1024
    assert caplog.text.count("a prompt was too long") == 1
    long = ChatRequest((Message(Role.USER, dense),), max_tokens=4)
    with pytest.raises(BadRequest, match="1024 tokens"):
        await collected(backend.chat(long))
