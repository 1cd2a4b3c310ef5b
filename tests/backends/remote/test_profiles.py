"""What goes out for each profile, as a scripted endpoint sees it, and what comes of its answers."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from backends.backend import (
    ChatRequest,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Sampling,
    Tool,
)
from backends.config import ModelSettings
from backends.errors import BadRequest, NoFim, RemoteProtocolError, UnknownModel, Unsupported
from backends.remote import conversation
from backends.remote.backend import RemoteBackend
from backends.remote.probe import OLLAMA_CONTEXT
from backends.remote.profiles import PROFILES, Way
from tests.backends.remote.conftest import MODEL, Connect, collected
from tests.backends.remote.upstream import Reply, Upstream, as_json, ndjson, sse

REQUEST = InfillRequest(
    "def add(a, b):\n    return ",
    "\n\nprint(add(1, 2))\n",
    document="file:///private/a.py",
    max_tokens=8,
    stop=("one", "two", "three", "four", "five"),
)
ANCHORED = (
    "<|fim_prefix|>def add(a, b):\n<|fim_suffix|>\n\nprint(add(1, 2))\n<|fim_middle|>    return"
)
WHOLE = "def add(a, b):\n    return "


def completion(text: str, finish: str | None = None, **usage: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
    return event | ({"usage": usage} if usage else {})


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [choice],
    }


ENDED = sse(
    completion(" a +"),
    completion(" b", "stop"),
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 30,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 24},
        },
    },
)


def models(owner: str, **fields: Any) -> Reply:
    return as_json({"data": [{"id": MODEL, "owned_by": owner, **fields}]})


@pytest.mark.parametrize(
    ("profile", "owner"),
    [("vllm", "vllm"), ("sglang", "sglang"), ("lm-studio", "organization_owner")],
)
async def test_engines_that_cache_prefixes_get_the_anchored_prompt_as_text(
    connect: Connect, upstream: Upstream, profile: str, owner: str
) -> None:
    upstream.answers("/v1/models", models(owner, max_model_len=32768))
    upstream.answers("/v1/completions", ENDED)
    backend = await connect(token="sk-key")
    assert PROFILES[profile].title in backend.description
    text, last = await collected(backend.infill(REQUEST))
    assert text == "a + b"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.cached_tokens) == (30, 24)
    (sent,) = upstream.to("/v1/completions")
    assert sent.json["prompt"] == ANCHORED
    assert sent.json["model"] == MODEL
    assert sent.json["stop"] == ["one", "two", "three", "four"], "at most four go out"
    assert sent.json["temperature"] == 0
    assert sent.json["stream_options"]["include_usage"] is True
    assert sent.headers["authorization"] == "Bearer sk-key"
    assert "private" not in str(sent)


async def test_typing_only_appends_to_the_prompt(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/completions", ENDED)
    backend = await connect()
    prefix, sent = REQUEST.prefix, []
    for letter in ("x", " ", "+", "\n", "    ", "y"):  # the next line too
        prefix += letter
        request = InfillRequest(prefix, REQUEST.suffix, document="d", max_tokens=4)
        await collected(backend.infill(request))
        sent.append(upstream.to("/v1/completions")[-1].json["prompt"])
    head = ANCHORED.removesuffix("    return")
    assert all(prompt.startswith(head) for prompt in sent)


async def test_vllm_keeps_users_and_documents_apart(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", models("vllm"))
    upstream.answers("/v1/completions", ENDED)
    backend = await connect()
    for document in ("file:///a", "file:///a", "file:///b"):
        await collected(backend.infill(InfillRequest("a = ", "", document=document)))
    sent = upstream.to("/v1/completions")
    assert len({request.json["cache_salt"] for request in sent}) == 1
    assert len(sent[0].json["cache_salt"]) >= 24
    sessions = [request.headers["x-session-id"] for request in sent]
    assert sessions[0] == sessions[1] != sessions[2]


async def test_answer_that_disagrees_is_asked_for_again_with_all_that_was_typed(
    connect: Connect, upstream: Upstream
) -> None:
    other = sse(completion("yield"), completion(" x", "stop"))
    upstream.answers("/v1/completions", other, sse(completion("a + b", "stop")))
    backend = await connect()
    text, _ = await collected(backend.infill(REQUEST))
    assert text == "a + b"
    first, second = (request.json["prompt"] for request in upstream.to("/v1/completions"))
    assert first == ANCHORED
    assert second == ANCHORED + " "


async def test_what_spells_control_tokens_is_not_sent(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/completions", ENDED)
    backend = await connect()
    request = InfillRequest(
        'old = "<|fim_middle|>"\nnew = 1\nx = ',
        "\ny = 2\nend = '<|im_start|>'\n",
        path="a<|file_sep|>.py",
    )
    _, last = await collected(backend.infill(request))
    (sent,) = upstream.to("/v1/completions")
    assert sent.json["prompt"] == (
        "<|fim_prefix|>\"\nnew = 1\n<|fim_suffix|>\ny = 2\nend = '<|fim_middle|>x ="
    )
    assert last.truncated


@pytest.mark.parametrize(
    ("profile", "path", "fields", "reply"),
    [
        ("deepseek", "/beta/completions", ("prompt", "suffix"), ENDED),
        (
            "mistral",
            "/v1/fim/completions",
            ("prompt", "suffix"),
            sse(delta(content=" a +"), delta("stop", content=" b")),
        ),
        ("openai-suffix", "/v1/completions", ("prompt", "suffix"), ENDED),
    ],
)
async def test_engines_with_the_template_get_prefix_and_suffix(
    connect: Connect,
    upstream: Upstream,
    profile: str,
    path: str,
    fields: tuple[str, str],
    reply: Reply,
) -> None:
    upstream.answers(path, reply)
    upstream.answers("/models", models("somebody"))
    backend = await connect(token="sk", profile=profile)
    text, last = await collected(backend.infill(REQUEST))
    assert text == " a + b"
    assert last.finish_reason is FinishReason.STOP
    (sent,) = upstream.to(path)
    assert [sent.json[name] for name in fields] == [WHOLE, REQUEST.suffix]
    assert len(sent.json["stop"]) == min(5, PROFILES[profile].max_stops)
    # Nothing is asked that nobody waits for, where it is billed.
    await collected(backend.infill(InfillRequest("a", "", max_tokens=0)))
    with pytest.raises(Unsupported, match="billed"):
        await collected(backend.infill(InfillRequest("a", "", ahead=True)))
    assert len(upstream.to(path)) == 1


async def test_mistral_calls_the_seed_by_its_own_name(connect: Connect, upstream: Upstream) -> None:
    path = "/v1/fim/completions"
    upstream.answers(path, sse(delta("stop", content="x")))
    backend = await connect(profile="mistral")
    sampling = Sampling(temperature=0.5, seed=3)
    await collected(backend.infill(InfillRequest("a", "", sampling=sampling)))
    sent = upstream.to(path)[0].json
    assert sent["random_seed"] == 3
    assert sent["temperature"] == 0.5
    assert "seed" not in sent
    assert "top_k" not in sent


async def test_deepseeks_limit_holds(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/beta/completions", ENDED)
    backend = await connect(profile="deepseek")
    await collected(backend.infill(InfillRequest("a", "", max_tokens=9000)))
    assert upstream.to("/beta/completions")[0].json["max_tokens"] == 4096


async def test_ollama_speaks_lines(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", models("library"))
    shown = {"capabilities": ["completion", "insert"], "model_info": {"qwen2.context_length": 4096}}
    upstream.answers("/api/show", as_json(shown))
    counts = {"prompt_eval_count": 20, "eval_count": 3, "prompt_eval_duration": 5_000_000}
    end = {"response": "", "done": True, "done_reason": "stop", **counts}
    upstream.answers("/api/generate", ndjson({"response": "a + b", "done": False}, end))
    backend = await connect()
    assert backend.capabilities.context_length == 4096
    text, last = await collected(backend.infill(InfillRequest(WHOLE, "", max_tokens=9)))
    assert text == "a + b"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (20, 3)
    sent = upstream.to("/api/generate")[0].json
    assert sent["prompt"] == WHOLE
    assert sent["suffix"] == "\n", "with none it would chat"
    assert sent["options"] == {"temperature": 0, "num_predict": 9}


@pytest.mark.parametrize(
    ("shown", "running", "settings", "length"),
    [
        ({}, None, {}, 4096),
        ({"parameters": 'stop "x"\nnum_ctx    8192'}, None, {}, 8192),
        ({"parameters": "num_ctx 999999"}, None, {}, 32768),
        ({}, as_json({"models": [{"name": MODEL, "context_length": 16384}]}), {}, 16384),
        ({}, as_json({"models": [{"name": "other", "context_length": 16384}]}), {}, 4096),
        ({}, None, {"context_length": 12000}, 12000),
    ],
)
async def test_ollama_is_sent_no_more_than_it_serves(
    connect: Connect,
    upstream: Upstream,
    shown: dict[str, str],
    running: Reply | None,
    settings: dict[str, int],
    length: int,
) -> None:
    """It would cut the prompt without a word."""
    upstream.answers("/v1/models", models("library"))
    upstream.answers("/api/show", as_json({"model_info": {"q.context_length": 32768}, **shown}))
    if running:
        upstream.answers("/api/ps", running)
    upstream.answers("/api/generate", ndjson({"response": "x", "done": True}))
    backend = await connect(**settings)
    assert backend.capabilities.context_length == length
    await collected(backend.infill(REQUEST))
    (sent,) = upstream.to("/api/generate")
    assert sent.json["options"].get("num_ctx", 0) == settings.get("context_length", 0)


async def test_ollama_model_without_a_suffix_says_so(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", models("library"))
    upstream.answers("/api/show", as_json({"capabilities": ["completion"]}))
    backend = await connect()
    assert not backend.capabilities.fim
    with pytest.raises(NoFim, match="has no suffix"):
        await collected(backend.infill(REQUEST))


@pytest.mark.parametrize("info", [["q.context_length"], "q.context_length", 4096, True])
async def test_ollama_that_describes_its_model_by_no_object_is_told(
    connect: Connect, upstream: Upstream, info: object
) -> None:
    upstream.answers("/v1/models", models("library"))
    upstream.answers("/api/show", as_json({"model_info": info}))
    with pytest.raises(RemoteProtocolError, match="model_info that is no object"):
        await connect()


@pytest.mark.parametrize("length", [-1, True, "4096", [4096], {"n": 1}, 40.5, None])
async def test_a_context_length_that_is_no_count_is_not_known(
    connect: Connect, upstream: Upstream, length: object
) -> None:
    row = {"id": MODEL, "max_model_len": length, "aliases": length}
    upstream.answers("/v1/models", as_json({"data": [row]}))
    backend = await connect(profile="vllm")
    assert backend.capabilities.context_length == 0
    upstream.answers("/v1/models", models("library"))
    upstream.answers("/api/show", as_json({"model_info": {"q.context_length": length}}))
    upstream.answers("/api/ps", as_json({"models": [{"name": MODEL, "context_length": length}]}))
    backend = await connect()
    assert backend.capabilities.context_length == OLLAMA_CONTEXT


async def test_unknown_family_does_not_complete_but_chats(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers("/v1/models", as_json({"data": [{"id": "some-model"}]}))
    backend = await connect()
    assert not backend.capabilities.fim
    assert "set its family" in backend.capabilities.no_fim_reason
    assert backend.capabilities.chat
    backend = await connect(family="codestral")
    assert backend.capabilities.fim


async def test_wrong_model_name_lists_the_right_ones(connect: Connect, upstream: Upstream) -> None:
    with pytest.raises(UnknownModel, match=MODEL):
        await connect(remote_model="other")


MESSAGES = (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "hello"))
TOOL = Tool(
    "open_file",
    "Open a file.",
    {"properties": {"path": {"type": "string"}}, "required": ["path"]},
)

OTHER = Tool(
    "other",
    "Something else.",
    {
        "properties": {"tree": {"$ref": "#/$defs/tree"}},
        "required": ["tree"],
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"inner": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            }
        },
    },
)


def call(arguments: str, name: str = "open_file") -> Reply:
    half = len(arguments) // 2
    first = {"index": 0, "id": "call_7", "function": {"name": name, "arguments": arguments[:half]}}
    rest = {"index": 0, "function": {"arguments": arguments[half:]}}
    return sse(delta(tool_calls=[first]), delta(tool_calls=[rest]), delta("tool_calls"))


async def test_tool_calls_are_put_together_and_checked(
    connect: Connect, upstream: Upstream
) -> None:
    upstream.answers("/v1/chat/completions", call('{"path": "a.py"}'))
    request = ChatRequest(MESSAGES, tools=(TOOL,), tool_choice="open_file")
    text, last = await collected((await connect(profile="vllm")).chat(request))
    assert text == ""
    assert last.finish_reason is FinishReason.TOOL_CALLS
    (made,) = last.tool_calls
    assert (made.id, made.name, made.arguments) == ("call_7", "open_file", '{"path": "a.py"}')
    sent = upstream.to("/v1/chat/completions")[0].json
    assert sent["tools"][0]["function"]["parameters"]["type"] == "object"
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "open_file"}}
    assert sent["messages"][1] == {"role": "user", "content": "hello"}


NAMED = {"type": "function", "function": {"name": "open_file"}}


@pytest.mark.parametrize(("choice", "sent"), [("open_file", NAMED), ("required", "required")])
def test_call_is_demanded_of_engines_that_heed_it(choice: str, sent: Any) -> None:
    request = ChatRequest(MESSAGES, tools=(TOOL, OTHER), tool_choice=choice)
    for name in ("vllm", "sglang", "openai", "deepseek", "mistral"):
        body, _ = conversation.arguments(PROFILES[name], "m", request, "")
        assert len(body["tools"]) == 2
        assert body["tool_choice"] == sent
        assert "response_format" not in body


@pytest.mark.parametrize("choice", ["open_file", "required"])
def test_call_is_a_schema_for_engines_that_heed_no_choice(choice: str) -> None:
    request = ChatRequest(MESSAGES, tools=(TOOL, OTHER), tool_choice=choice, stop=("name",))
    for name in ("llama-server", "ollama", "lm-studio", "openai-compatible"):
        body, _ = conversation.arguments(PROFILES[name], "m", request, "")
        assert not {"tools", "tool_choice", "stop"} & body.keys()
        system, user = body["messages"]
        assert system["content"].startswith("Be brief.")
        assert ('"other"' in system["content"]) == (choice == "required")
        assert user["content"] == "hello"
        fits = jsonschema.Draft202012Validator(body["response_format"]["json_schema"]["schema"])
        assert fits.is_valid({"name": "open_file", "arguments": {"path": "a"}})
        assert not fits.is_valid({"name": "open_file", "arguments": {"path": 3}})
        tree = {"name": "other", "arguments": {"tree": {"inner": [{"inner": []}]}}}
        assert fits.is_valid(tree) == (choice == "required")
        assert not fits.is_valid({"name": "other", "arguments": {"tree": {"inner": [3]}}})


async def test_call_that_cannot_be_made_sure_of_is_refused(
    connect: Connect, upstream: Upstream
) -> None:
    request = ChatRequest(MESSAGES, tools=(TOOL,), tool_choice="required")
    backend = await connect(profile="mlx-lm")
    with pytest.raises(Unsupported, match=r"mlx_lm\.server cannot be made to call"):
        await collected(backend.chat(request))
    assert not upstream.to("/v1/chat/completions")


async def test_demanded_call_is_read_from_the_answer(connect: Connect, upstream: Upstream) -> None:
    said = '{"name": "open_file", "arguments": {"path": "ä.py"}}'
    parts = [delta(content=letter) for letter in f"<think>hm</think>{said}"]
    upstream.answers("/v1/chat/completions", sse(*parts, delta("stop")))
    backend = await connect()
    request = ChatRequest(MESSAGES, tools=(TOOL, OTHER), tool_choice="required", stop=("name",))
    ids = set()
    for _ in range(2):
        chunks = [chunk async for chunk in backend.chat(request)]
        assert "".join(chunk.text for chunk in chunks) == ""
        assert "".join(chunk.reasoning for chunk in chunks) == "hm"
        assert chunks[-1].finish_reason is FinishReason.TOOL_CALLS
        (made,) = chunks[-1].tool_calls
        assert (made.name, json.loads(made.arguments)) == ("open_file", {"path": "ä.py"})
        ids.add(made.id)
    assert len(ids) == 2, "a result must tell which call it is of"


@pytest.mark.parametrize(
    ("profile", "said", "words"),
    [
        ("openai-compatible", "I will open it.", "no call of a function"),
        ("openai-compatible", '{"name": "delete", "arguments": {}}', "not offered"),
        ("openai-compatible", '{"name": "open_file", "arguments": {}}', "does not fit the schema"),
        ("vllm", "I will open it.", "called no function"),
    ],
)
async def test_demanded_call_that_is_not_made_is_an_error(
    connect: Connect, upstream: Upstream, profile: str, said: str, words: str
) -> None:
    upstream.answers("/v1/chat/completions", sse(delta(content=said), delta("stop")))
    backend = await connect(profile=profile)
    request = ChatRequest(MESSAGES, tools=(TOOL,), tool_choice="required")
    with pytest.raises(RemoteProtocolError, match=words):
        await collected(backend.chat(request))


async def test_demanded_call_that_is_cut_off_is_none(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/chat/completions", sse(delta(content='{"name": "op'), delta("length")))
    request = ChatRequest(MESSAGES, tools=(TOOL,), tool_choice="required")
    text, last = await collected((await connect()).chat(request))
    assert (text, last.finish_reason, last.tool_calls) == ("", FinishReason.LENGTH, ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_choice": "required"}, "no tools"),
        ({"tool_choice": "other", "tools": (TOOL,)}, "'other'"),
        ({"schema": {"type": "no such type"}}, "no JSON schema"),
        ({"schema": {}, "tools": (TOOL,), "tool_choice": "required"}, "not both"),
    ],
)
def test_chat_that_cannot_be_meant_is_not_sent(fields: dict[str, Any], words: str) -> None:
    request = ChatRequest(MESSAGES, **fields)
    with pytest.raises(BadRequest, match=words):
        conversation.arguments(PROFILES["openai-compatible"], "m", request, "")


def test_stops_that_an_engine_cuts_wrongly_are_not_sent_to_it() -> None:
    request = ChatRequest(MESSAGES, stop=("\n",))
    for name, sent in (("mlx-lm", False), ("vllm", True)):
        body, _ = conversation.arguments(PROFILES[name], "m", request, "")
        assert ("stop" in body) == sent


@pytest.mark.parametrize(
    "reply",
    [call('{"path": 3}'), call("{}"), call('{"path": "a'), call('{"path": "a"}', "delete_file")],
    ids=["wrong type", "nothing", "no json", "not offered"],
)
async def test_tool_calls_that_do_not_fit_are_refused(
    connect: Connect, upstream: Upstream, reply: Reply
) -> None:
    upstream.answers("/v1/chat/completions", reply)
    with pytest.raises(RemoteProtocolError, match="The model"):
        await collected((await connect()).chat(ChatRequest(MESSAGES, tools=(TOOL,))))


async def test_answer_that_does_not_fit_its_schema_is_refused(
    connect: Connect, upstream: Upstream
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    good, bad = (sse(delta("stop", content=text)) for text in ('{"a": 1}', '{"a": "x"}'))
    upstream.answers("/v1/chat/completions", good, bad)
    backend = await connect()
    text, _ = await collected(backend.chat(ChatRequest(MESSAGES, schema=schema)))
    assert text == '{"a": 1}'
    with pytest.raises(RemoteProtocolError, match="does not fit the schema at a"):
        await collected(backend.chat(ChatRequest(MESSAGES, schema=schema)))
    sent = upstream.to("/v1/chat/completions")[0].json
    assert sent["response_format"]["json_schema"]["schema"] == schema


async def test_vllm_counts_messages_with_their_tools(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/models", models("vllm"))
    upstream.answers("/tokenize", as_json({"count": 42, "max_model_len": 4096, "tokens": []}))
    backend = await connect()
    _, last = await collected(backend.chat(ChatRequest(MESSAGES, tools=(TOOL,), count_only=True)))
    assert last.usage is not None
    assert last.usage.prompt_tokens == 42
    (sent,) = upstream.to("/tokenize")
    assert sent.json["messages"][1] == {"role": "user", "content": "hello"}
    assert sent.json["tools"][0]["function"]["name"] == "open_file"
    assert not upstream.to("/v1/chat/completions")


async def test_count_behind_a_router_that_lets_it_not_through_is_refused(
    connect: Connect, upstream: Upstream
) -> None:
    backend = await connect(profile="vllm")
    with pytest.raises(Unsupported, match=r"cannot be counted.*404"):
        await collected(backend.chat(ChatRequest(MESSAGES, count_only=True)))


@pytest.mark.parametrize("answer", [{}, {"count": -1}, {"count": "42"}, []])
async def test_count_that_is_none_is_an_error(
    connect: Connect, upstream: Upstream, answer: Any
) -> None:
    upstream.answers("/tokenize", as_json(answer))
    backend = await connect(profile="vllm")
    with pytest.raises(RemoteProtocolError, match="no number"):
        await collected(backend.chat(ChatRequest(MESSAGES, count_only=True)))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_in_a_field_is_kept_apart(
    connect: Connect, upstream: Upstream, field: str
) -> None:
    reply = sse(delta(**{field: "hm"}), delta(content="yes"), delta("stop"))
    upstream.answers("/v1/chat/completions", reply)
    chunks = [chunk async for chunk in (await connect()).chat(ChatRequest(MESSAGES))]
    assert "".join(chunk.text for chunk in chunks) == "yes"
    assert "".join(chunk.reasoning for chunk in chunks) == "hm"


@pytest.mark.parametrize(
    ("model", "said"),
    [("qwen", "<think>hm</think>\n\nyes"), ("DeepSeek-R1-Distill", "hm</think>\n\nyes")],
    ids=["opened by the model", "opened by the template"],
)
async def test_reasoning_in_tags_is_kept_apart_in_every_cut(
    connect: Connect, upstream: Upstream, model: str, said: str
) -> None:
    upstream.answers("/v1/models", as_json({"data": [{"id": model}]}))
    reply = sse(*(delta(content=letter) for letter in said), delta("stop"))
    upstream.answers("/v1/chat/completions", reply)
    chunks = [chunk async for chunk in (await connect()).chat(ChatRequest(MESSAGES))]
    assert "".join(chunk.text for chunk in chunks) == "yes"
    assert "".join(chunk.reasoning for chunk in chunks) == "hm"


async def test_stops_of_a_chat_hold_whatever_the_engine_does(
    connect: Connect, upstream: Upstream
) -> None:
    reply = sse(delta(content="one tw"), delta(content="o three"), delta("stop"))
    upstream.answers("/v1/chat/completions", reply)
    text, last = await collected((await connect()).chat(ChatRequest(MESSAGES, stop=("two",))))
    assert text == "one "
    assert last.stopping_word == "two"


async def test_openai_gets_effort_prediction_and_a_cache_key(
    connect: Connect, upstream: Upstream
) -> None:
    reply = sse(delta("stop", content="x"))
    upstream.answers("/v1/chat/completions", reply)
    backend = await connect(profile="openai", reasoning_effort="high")
    await collected(
        backend.chat(ChatRequest(MESSAGES, session="s", prediction="old text", max_tokens=7))
    )
    sent = upstream.to("/v1/chat/completions")[0]
    assert sent.json["reasoning_effort"] == "high"
    assert "temperature" not in sent.json
    assert sent.json["prediction"] == {"type": "content", "content": "old text"}
    assert "max_completion_tokens" not in sent.json, "OpenAI refuses the two together"
    assert len(sent.json["prompt_cache_key"]) == 32
    assert not [name for name in sent.headers if name.startswith(("x-stainless", "openai"))]
    assert sent.headers["user-agent"] == "midspan"
    with pytest.raises(NoFim, match="chat"):
        await collected(backend.infill(REQUEST))


async def test_prediction_that_a_model_does_not_take_is_left_out(
    connect: Connect, upstream: Upstream
) -> None:
    refusal = as_json({"error": {"message": "Unsupported parameter: 'prediction'"}}, 400)
    upstream.answers("/v1/chat/completions", refusal, sse(delta("stop", content="x")))
    backend = await connect(profile="openai")
    for _ in range(2):
        request = ChatRequest(MESSAGES, prediction="old text", max_tokens=7)
        assert (await collected(backend.chat(request)))[0] == "x"
    sent = [request.json for request in upstream.to("/v1/chat/completions")]
    assert ["prediction" in body for body in sent] == [True, False, False]
    assert [body.get("max_completion_tokens") for body in sent] == [None, 7, 7]


async def test_effort_is_for_chat_only(connect: Connect, upstream: Upstream) -> None:
    upstream.answers("/v1/completions", ENDED)
    backend = await connect(reasoning_effort="high")
    await collected(backend.infill(REQUEST))
    assert "reasoning_effort" not in upstream.to("/v1/completions")[0].json


async def test_known_keys_go_to_their_own_host_alone(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    upstream.answers("/v1/chat/completions", sse(delta("stop", content="x")))
    settings = ModelSettings(endpoint=upstream.url, profile="openai")
    backend = await RemoteBackend.connect("m", settings)
    await collected(backend.chat(ChatRequest(MESSAGES)))
    await backend.close()
    assert "sk-of-openai" not in str(upstream.requests)
    assert not [r for r in upstream.requests if "openai-organization" in r.headers]
    assert len(upstream.to("/v1/chat/completions")) == 1, "where the settings say"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_rows_are_whole(profile: Any) -> None:
    assert profile.path.startswith("/")
    assert profile.models.startswith("/")
    assert not profile.chat.endswith("/")
    assert bool(profile.hosted) == bool(profile.endpoint) == bool(profile.key_env)
    assert profile.max_stops > 0 or profile.way is Way.NONE
    assert (profile.way is Way.NONE) == bool(profile.no_fim)
    assert set(profile.sampling) <= set(Sampling.__dataclass_fields__)
    assert profile.way is not Way.TOKENS or profile.fixed["return_tokens"]
