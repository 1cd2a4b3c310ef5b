"""The contract suite over every backend there is, all with the starter's weights in float32."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from backends import catalogue, contract, engines
from backends.backend import Backend, Chunk, FinishReason, InfillRequest
from backends.config import ModelSettings
from backends.contract import CHECKS, ENDINGS, Check, Ending
from backends.contract.streams import GAP, HELLO, LONG, SCHEMA, SOON, TOOL, collected
from backends.factory import Wishes, make
from backends.local import LocalBackend
from tests.backends.real_servers import MLX, TRANSFORMERS, RealServers

pytest.importorskip("gguf", reason="the same weights are written with it")
from benchmarks import peer, same_weights

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

# The model has seen no roles: it goes on with whatever was said.
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
NAME = "starter"
LOCAL = ("llama-cpp", "transformers", "mlx")
NAMING = len(LOCAL) + 2  # of the kinds, those whose engine says which stop it ended at


class Here:
    """What backends are made of: files, and servers that are started when first asked for."""

    def __init__(self, folder: Path, stack: ExitStack, real_servers: RealServers) -> None:
        self._folder = folder
        self._stack = stack
        self._real_servers = real_servers
        self._weights: same_weights.SameWeights | None = None
        self._peer = ""

    @property
    def weights(self) -> same_weights.SameWeights:
        if self._weights is None:
            self._weights = same_weights.write(self._folder / "weights")
        return self._weights

    def local(self, engine: str, **settings: Any) -> ModelSettings:
        """Return how an engine of this machine is told to run the model; skip if it is missing."""
        row = engines.ENGINES[engine]
        if importlib.util.find_spec(row.runtime) is None:
            pytest.skip(f"{row.distribution} is not installed")
        path = self.weights.by_engine().get(engine, self.weights.gguf)
        template = self._folder / "chat.jinja"
        template.write_text(TEMPLATE, encoding="utf-8")
        chosen = {"chat_template": str(template), "kv_type": "f32", **settings}
        return ModelSettings(path=str(path), engine=engine, **chosen)

    def llama_server(self, **settings: Any) -> ModelSettings:
        """Return how to speak to a llama-server of somebody else's."""
        if not self._peer:
            pytest.importorskip("xllamacpp", reason="the extra 'llama-server' is not installed")
            model = str(self.weights.gguf)
            server = peer.llama_server(model, threads=1, slots=4, batch=512)
            self._peer = self._stack.enter_context(server)
        return ModelSettings(endpoint=f"http://{self._peer}", **settings)

    def other(self, server: str, **settings: Any) -> ModelSettings:
        """Return how to speak to a server of another kind."""
        url, path = self._real_servers.get(server)
        return ModelSettings(endpoint=url, remote_model=path, timeout_s=60, **settings)


@dataclass(frozen=True)
class Kind:
    """A kind of backend: what settings make one, and what its engine lacks without saying so."""

    name: str
    settings: Callable[[Here], ModelSettings]
    schemas: bool = True  # its answers can be held to one
    lacks: Mapping[Check, str] = field(default_factory=dict)


NO_CACHE = "it keeps no prompts"
NO_SCHEMAS = "it holds no answer to a schema: 60 slow tokens would show nothing"
KINDS = (
    *(Kind(engine, partial(Here.local, engine=engine)) for engine in LOCAL),
    Kind("llama-server, managed", lambda here: here.local("llama-server")),
    Kind("llama-server, remote", lambda here: here.llama_server(profile="llama-server")),
    Kind(
        "openai-compatible, remote",
        lambda here: here.llama_server(
            profile="openai-compatible", family="qwen2.5-coder", context_length=1024
        ),
    ),
    Kind(
        "transformers serve, remote",
        lambda here: here.other(TRANSFORMERS, family="qwen2.5-coder"),
        schemas=False,
        lacks={
            contract.greedy_text_is_the_same_twice_and_cached: NO_CACHE,
            contract.typing_on_finds_its_prompt_cached: NO_CACHE,
            contract.samples_are_repeated_by_their_seed: "it batches, and then samples as it likes",
            contract.an_answer_that_is_whole_fits_its_schema: NO_SCHEMAS,
            contract.calls_are_of_the_tools_that_are_offered: NO_SCHEMAS,
        },
    ),
    Kind("mlx_lm.server, remote", lambda here: here.other(MLX), schemas=False),
)
HELD = tuple(kind for kind in KINDS if kind.schemas)
# What these say that they can't do is another matter.
WITHOUT_CHAT = (
    Kind("llama-cpp", lambda here: here.local("llama-cpp", chat_template="")),
    Kind("llama-server", lambda here: here.local("llama-server", chat_template="")),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, real_servers: RealServers) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(tmp_path_factory.mktemp("contract"), stack, real_servers)


async def started(settings: ModelSettings) -> Backend:
    path, source = Path(settings.path), catalogue.Source.CONFIG
    return await make(catalogue.Model(NAME, path, source, settings), Wishes(on_exit=unexpected))


def unexpected(error: Exception) -> None:
    raise AssertionError(f"it ended by itself: {error}")


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: k.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(kind: Kind, here: Here) -> AsyncIterator[Backend]:
    backend = await started(kind.settings(here))
    yield backend
    await backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(backend: Backend, kind: Kind, check: Check) -> None:
    if check in kind.lacks:
        pytest.skip(kind.lacks[check])
    try:
        await check(backend)
    except contract.Lacking as lack:
        pytest.skip(str(lack))


@pytest.mark.parametrize("kind", HELD, ids=lambda k: k.name, indirect=True)
async def test_call_that_is_required_is_made(backend: Backend) -> None:
    """Even by a model that never saw one."""
    request = replace(HELLO, tools=(TOOL,), tool_choice=TOOL.name, max_tokens=60)
    answer = await collected(backend.chat(request))
    assert answer.last.finish_reason is FinishReason.TOOL_CALLS
    assert [call.name for call in answer.last.tool_calls] == [TOOL.name]


@pytest.mark.parametrize("kind", HELD, ids=lambda k: k.name, indirect=True)
async def test_answer_is_held_to_its_schema(backend: Backend) -> None:
    """Even that of a model that never saw JSON."""
    request = replace(HELLO, schema=SCHEMA, max_tokens=60)
    answer = await collected(backend.chat(request))
    assert answer.last.finish_reason is FinishReason.STOP
    assert isinstance(json.loads(answer.text)["good"], bool)


@pytest.mark.parametrize("kind", KINDS[:NAMING], ids=lambda k: k.name, indirect=True)
async def test_stop_that_ended_a_text_is_named(backend: Backend) -> None:
    request = replace(LONG, stop=("no such text", ", "), max_tokens=24)
    answer = await collected(backend.infill(request))
    assert (answer.last.finish_reason, answer.last.stopping_word) == (FinishReason.STOP, ", ")


@pytest.mark.parametrize("kind", KINDS[: len(LOCAL)], ids=lambda k: k.name, indirect=True)
async def test_usage_is_what_the_worker_evaluated(backend: Backend) -> None:
    """`cached_tokens` + tokens evaluated = `prompt_tokens`, by another count than the usage's."""
    assert isinstance(backend, LocalBackend)
    request = replace(GAP, document="file:///counted.py", max_tokens=0)
    for typed in ("", "", "with", "with open(path)"):
        before = (await backend.ping(60)).evaluated_tokens
        request_now = replace(request, prefix=request.prefix + typed)
        usage = (await collected(backend.infill(request_now))).usage
        evaluated = (await backend.ping(60)).evaluated_tokens - before
        assert usage.cached_tokens + evaluated == usage.prompt_tokens


@pytest.mark.parametrize("kind", KINDS[: len(LOCAL)], ids=lambda k: k.name, indirect=True)
async def test_closed_stream_stops_the_model_too(backend: Backend) -> None:
    assert isinstance(backend, LocalBackend)
    async with aclosing(backend.infill(LONG)) as chunks:
        await anext(chunks)
        assert (await backend.ping(60)).active == 1
    async with asyncio.timeout(SOON):
        while (await backend.ping(60)).active:
            await asyncio.sleep(0.01)
    evaluated = (await backend.ping(60)).evaluated_tokens
    await asyncio.sleep(0.1)
    assert (await backend.ping(60)).evaluated_tokens == evaluated


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("kind", KINDS[:-1], ids=lambda kind: kind.name, indirect=True)
async def test_ending(here: Here, kind: Kind, ending: Ending) -> None:
    settings = kind.settings(here)
    await ending(lambda: started(settings))


@pytest.mark.parametrize("kind", WITHOUT_CHAT, ids=lambda kind: kind.name)
async def test_model_without_a_chat_template_refuses_to_chat(here: Here, kind: Kind) -> None:
    backend = await started(kind.settings(here))
    try:
        assert not backend.capabilities.chat
        await contract.what_it_cannot_do_is_refused_with_a_reason(backend)
    finally:
        await backend.close()


class Twisted:
    """A good backend with one thing wrong: what its streams hold, or what requests become."""

    def __init__(
        self,
        backend: Backend,
        chunk: Callable[[Chunk], Chunk] = lambda chunk: chunk,
        request: Callable[[InfillRequest], InfillRequest] = lambda request: request,
    ) -> None:
        self._backend, self._chunk, self._request = backend, chunk, request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def infill(self, request: InfillRequest) -> AsyncIterator[Chunk]:
        async with aclosing(self._backend.infill(self._request(request))) as chunks:
            async for chunk in chunks:
                yield self._chunk(chunk)


def with_usage(**counts: int) -> Callable[[Chunk], Chunk]:
    return lambda c: replace(c, usage=replace(c.usage, **counts)) if c.usage else c


TWISTS: dict[str, tuple[Check, dict[str, Any]]] = {
    "ends again and again": (
        contract.an_infill_streams_and_ends_once,
        {"chunk": lambda chunk: replace(chunk, finish_reason=FinishReason.LENGTH)},
    ),
    "half characters": (
        contract.odd_documents_are_completed,
        {"chunk": lambda chunk: replace(chunk, text="\ud83d")},
    ),
    "more cached than there is": (
        contract.an_infill_streams_and_ends_once,
        {"chunk": with_usage(cached_tokens=1 << 20)},
    ),
    "nothing cached": (
        contract.typing_on_finds_its_prompt_cached,
        {"chunk": with_usage(cached_tokens=0)},
    ),
    "no stops": (
        contract.text_ends_before_a_stop_and_names_it,
        {"request": lambda request: replace(request, stop=())},
    ),
    "no lines": (
        contract.a_single_line_ends_at_its_end,
        {"request": lambda request: replace(request, single_line=False)},
    ),
    "no deadline": (
        contract.a_deadline_ends_it,
        {"request": lambda request: replace(request, deadline_ms=None)},
    ),
    "no owner": (
        contract.a_newer_request_of_a_document_cancels_the_older,
        {"request": lambda request: replace(request, document=None)},
    ),
    "one owner": (
        contract.a_newer_request_of_a_document_cancels_the_older,
        {"request": lambda request: replace(request, document="a")},
    ),
    "tokens without end": (
        contract.no_tokens_are_none_and_one_is_one,
        {"request": lambda request: replace(request, max_tokens=8)},
    ),
    "steering is ignored": (
        contract.what_it_cannot_do_is_refused_with_a_reason,
        {"request": lambda request: replace(request, steering=())},
    ),
}


@pytest.mark.parametrize("twist", TWISTS)
@pytest.mark.parametrize("kind", KINDS[:1], ids=lambda k: k.name, indirect=True)
async def test_suite_finds(backend: Backend, twist: str) -> None:
    check, wrong = TWISTS[twist]
    with pytest.raises(AssertionError):
        await check(cast(Backend, Twisted(backend, **wrong)))
    await check(backend)
