"""A real llama-server with the starter model: anchored token prompts, healing, chat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import psutil
import pytest
import pytest_asyncio

from backends.backend import (
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Sampling,
    Tool,
)
from backends.config import ModelSettings
from backends.remote.backend import RemoteBackend
from backends.remote.llama_tokenizer import LlamaTokenizer
from backends.remote.profiles import Healing
from backends.remote.prompting import Prompter
from backends.remote.transport import IDLE
from tests.backends.remote.conftest import collected

BEFORE = "import os\n\n\n" + "".join(
    f"def read_{name}(path):\n    with open(path) as file:\n        return file.read()\n\n\n"
    for name in ("text", "lines", "names", "items", "words")
)
CURSOR = "def read_all(path):\n    with open(path) as file:\n        ret"
SUFFIX = "\n\n\ndef main():\n    print(read_all('x'))\n"
REQUEST = InfillRequest(BEFORE + CURSOR, SUFFIX, document="file:///a.py", max_tokens=12)


@pytest_asyncio.fixture
async def backend(llama_server: str) -> AsyncIterator[RemoteBackend]:
    backend = await RemoteBackend.connect("any name", ModelSettings(endpoint=llama_server))
    yield backend
    await backend.close()


async def test_probe_recognises_it(backend: RemoteBackend) -> None:
    assert "llama-server" in backend.description
    assert "midspan-starter" in backend.description
    capabilities = backend.capabilities
    assert capabilities.fim
    assert capabilities.family == "qwen2.5-coder"
    assert capabilities.context_length >= 512


async def test_idle_connections_leave_the_server_its_threads(
    backend: RemoteBackend, llama_server: str
) -> None:
    """Each holds one for five seconds: whoever comes next would wait for it."""
    port = int(llama_server.rpartition(":")[2])

    def kept() -> int:
        connections = psutil.Process().net_connections("tcp")
        return sum(bool(c.raddr) and c.raddr.port == port for c in connections)

    await asyncio.gather(*(backend.health() for _ in range(12)))
    async with asyncio.timeout(3):
        while kept() > IDLE:
            await asyncio.sleep(0.02)
    assert kept() > 0, "the next request needs no new one"


async def test_second_key_finds_its_prompt_cached(backend: RemoteBackend) -> None:
    texts = []
    for typed in ("", "u", "urn", "urn file"):
        request = replace(REQUEST, prefix=REQUEST.prefix + typed)
        text, last = await collected(backend.infill(request))
        texts.append(typed + text)
        usage = last.usage
        assert usage is not None
        assert 0 < usage.prompt_tokens < 512
        assert usage.cached_tokens <= usage.prompt_tokens
        if typed:
            # Typing appends to the prompt: only what was typed since the anchor is evaluated.
            assert usage.prompt_tokens - usage.cached_tokens <= 8
    assert texts[0].startswith("urn file"), "the word under the cursor is gone on with"
    assert {text[:16] for text in texts} == {texts[0][:16]}, "as if nothing had been typed"


async def test_cached_text_equals_cold_text(backend: RemoteBackend) -> None:
    cold, _ = await collected(backend.infill(replace(REQUEST, document=None)))
    warm, last = await collected(backend.infill(REQUEST))
    again, _ = await collected(backend.infill(REQUEST))
    assert last.usage is not None
    assert last.usage.cached_tokens > 0
    assert cold == warm == again


async def test_stops_and_lines_end_it(backend: RemoteBackend) -> None:
    line, last = await collected(backend.infill(replace(REQUEST, single_line=True)))
    assert "\n" not in line
    assert last.finish_reason is FinishReason.STOP
    stopped, last = await collected(backend.infill(replace(REQUEST, stop=("file",))))
    assert stopped == line.split("file")[0]
    assert last.stopping_word == "file"
    _, last = await collected(
        backend.infill(replace(REQUEST, prefix=BEFORE, suffix="", max_tokens=3))
    )
    assert last.finish_reason is FinishReason.LENGTH


async def test_no_tokens_evaluates_the_prompt_only(backend: RemoteBackend) -> None:
    prefix = "# something new entirely\n" + REQUEST.prefix
    warm = InfillRequest(prefix, SUFFIX, document="file:///warm.py", max_tokens=0)
    text, last = await collected(backend.infill(warm))
    assert text == ""
    assert last.finish_reason is FinishReason.LENGTH
    _, last = await collected(backend.infill(replace(warm, max_tokens=4)))
    assert last.usage is not None
    assert last.usage.prompt_tokens - last.usage.cached_tokens <= 8


async def test_seeded_samples_are_repeatable(backend: RemoteBackend) -> None:
    sampling = Sampling(temperature=1.2, top_p=1.0, top_k=0, seed=7)
    request = InfillRequest("x = ", "", max_tokens=12, sampling=sampling)
    first, _ = await collected(backend.infill(request))
    assert (await collected(backend.infill(request)))[0] == first
    other = replace(request, sampling=replace(sampling, seed=8))
    assert (await collected(backend.infill(other)))[0] != first


async def test_document_cannot_inject_control_tokens(llama_server: str) -> None:
    backend = await RemoteBackend.connect("x", ModelSettings(endpoint=llama_server))
    tokenizer = await LlamaTokenizer.connect(backend._connection)
    prompter = Prompter(backend._probed.template, 1024, Healing.GRAMMAR, tokenizer)
    nasty = "".join(tokenizer.control)
    request = InfillRequest(f"# {nasty}\nx = '{nasty}", f"{nasty}\n", path=f"{nasty}.py")
    outgoing = await prompter.prompt(request, 512)
    control = set(tokenizer.control.values())
    found = [token for token in outgoing.prompt if token in control]
    # Prefix, suffix and middle of the template; the path is shown only beside other files.
    wanted = [tokenizer.control[f"<|fim_{part}|>"] for part in ("prefix", "suffix", "middle")]
    assert found == wanted
    await backend.close()


async def test_characters_of_many_tokens_survive(backend: RemoteBackend) -> None:
    prefix = 'greeting = "héllo 世界 🙂'
    text, last = await collected(backend.infill(InfillRequest(prefix, '"\n', max_tokens=4)))
    assert last.finish_reason is not None
    msgspec.json.encode(text)  # no half characters


async def test_long_documents_fit_the_context(backend: RemoteBackend) -> None:
    request = InfillRequest(BEFORE * 40, SUFFIX * 100, document="file:///long.py", max_tokens=400)
    _, last = await collected(backend.infill(replace(request, max_tokens=4)))
    assert last.truncated
    assert last.usage is not None
    assert last.usage.prompt_tokens < backend.capabilities.context_length


async def test_cancelled_request_leaves_the_server_usable(backend: RemoteBackend) -> None:
    older = asyncio.create_task(collected(backend.infill(replace(REQUEST, max_tokens=200))))
    await asyncio.sleep(0.01)
    newer, _ = await collected(backend.infill(REQUEST))
    await older
    assert newer.startswith("urn")
    assert backend.in_flight == 0


async def test_infill_of_the_server_itself(llama_server: str) -> None:
    settings = ModelSettings(endpoint=llama_server, profile="llama-server-infill")
    backend = await RemoteBackend.connect("x", settings)
    text, last = await collected(backend.infill(replace(REQUEST, single_line=True)))
    assert text
    assert last.usage is not None
    assert last.usage.prompt_tokens > 0
    await backend.close()


async def test_chat_streams_and_counts(backend: RemoteBackend) -> None:
    request = ChatRequest((Message(Role.USER, "hello"),), max_tokens=6, session="s")
    chunks: list[Chunk] = [chunk async for chunk in backend.chat(request)]
    assert len(chunks) > 2
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    _, last = await collected(backend.chat(request))
    assert last.usage is not None
    assert last.usage.cached_tokens > 0


async def test_chat_is_held_to_a_schema(backend: RemoteBackend) -> None:
    schema = {
        "type": "object",
        "properties": {"good": {"type": "boolean"}},
        "required": ["good"],
        "additionalProperties": False,
    }
    request = ChatRequest((Message(Role.USER, "hello"),), max_tokens=40, schema=schema)
    text, _ = await collected(backend.chat(request))
    assert isinstance(msgspec.json.decode(text)["good"], bool)


NODE = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["leaf"],
    "additionalProperties": False,
}
TREE = Tool("tree", "A tree.", {**NODE, "$defs": {"node": NODE}})
SAY = Tool("say", "Say it.", {"properties": {"word": {"enum": ["a", "b"]}}, "required": ["word"]})


@pytest.mark.parametrize(("choice", "names"), [("required", {"tree", "say"}), ("tree", {"tree"})])
async def test_demanded_call_is_made(backend: RemoteBackend, choice: str, names: set[str]) -> None:
    """By a model that never saw one, of a schema with references of its own."""
    messages = (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "hello"))
    request = ChatRequest(messages, tools=(TREE, SAY), tool_choice=choice, max_tokens=200)
    text, last = await collected(backend.chat(replace(request, stop=("name",))))
    assert (text, last.finish_reason) == ("", FinishReason.TOOL_CALLS)
    (call,) = last.tool_calls
    assert call.name in names
    result = Message(Role.TOOL, "done", tool_call_id=call.id)
    after = (*messages, Message(Role.ASSISTANT, "", (call,)), result)
    _, last = await collected(backend.chat(replace(request, messages=after)))
    assert last.tool_calls


@pytest.mark.parametrize("family", ["codestral", "nonsense"])
async def test_family_that_does_not_fit_is_said(llama_server: str, family: str) -> None:
    settings = ModelSettings(endpoint=llama_server, family=family)
    if family == "nonsense":
        with pytest.raises(Exception, match="no family 'nonsense'"):
            await RemoteBackend.connect("x", settings)
        return
    backend = await RemoteBackend.connect("x", settings)
    assert not backend.capabilities.fim
    assert "lacks" in backend.capabilities.no_fim_reason
    await backend.close()
