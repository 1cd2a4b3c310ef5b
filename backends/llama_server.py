"""A llama-server that the manager starts itself: a process of ours, spoken to as an engine is.

Rule: this module owns the process; requests are `RemoteBackend`'s. Whatever happens to the process,
requests under way end with an error of `backends.errors`, and `on_exit` is called once. Must not
know which models exist, nor what is done about a server that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from backends import catalogue, engine_settings, engines, frames, memory
from backends.backend import Capabilities, ChatRequest, Chunk, InfillRequest
from backends.catalogue import Header
from backends.child_words import ChildWords
from backends.config import ModelSettings
from backends.engines.llama_server import NotStarted, Options, Ready, Said
from backends.errors import BackendError, LoadFailed, ModelFileError, Unsupported, WorkerDied
from backends.local import END_TIMEOUT, LOAD_TIMEOUT
from backends.remote.backend import RemoteBackend
from fim.templates import NoFim

logger = logging.getLogger(__name__)

SLOTS = 4  # prompts that are kept evaluated; they share one pool of cells
FIRST_TOKEN_S = 120.0  # a long conversation is evaluated on this machine, not on a rack
PROGRESS_EVERY = 10.0  # seconds
HEALTHY_WITHIN = 5.0  # seconds, for a server that a request had no answer from


class LlamaServer:
    """A model in a server of its own. Made by `start`; ended by `close`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        name: str,
        on_exit: Callable[[WorkerDied], None],
        memory_bytes: int,
        no_chat_reason: str,
    ) -> None:
        self._process = process
        self._name = name
        self._on_exit = on_exit
        self._memory_bytes = memory_bytes
        self._no_chat_reason = no_chat_reason
        self._remote: RemoteBackend | None = None
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._dead: BackendError | None = None
        self._hung = False
        self._examination: asyncio.Task[None] | None = None
        self._words = ChildWords(process, f"server of {name}")
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        load: frames.Load,
        on_exit: Callable[[WorkerDied], None],
        *,
        load_timeout: float = LOAD_TIMEOUT,
    ) -> LlamaServer:
        """Start a server and return when its model is loaded and warm.

        Raises LoadFailed, ModelFileError for a wrong binary, Unsupported or BadRequest for wrong
        settings, and WorkerCrashed where a signal killed it. `on_exit` is called if it ends later
        on, unasked. Cancelling ends it.
        """
        engine = engines.ENGINES[load.engine]
        engine_settings.check(engine.name, load.settings)
        key = secrets.token_urlsafe(32)
        header = await asyncio.to_thread(catalogue.read_header, Path(load.path))
        options = _options(load, header, key)
        size = memory.expected(header, load.settings, engine.name)
        can_chat = catalogue.has_chat_template(header, load.settings)
        no_chat_reason = "" if can_chat else catalogue.NO_CHAT_TEMPLATE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", engine.module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**dict(engine.environment), **os.environ},
            start_new_session=True,  # a terminal's Ctrl-C is for the manager
        )
        server = cls(process, load.name, on_exit, size, no_chat_reason)
        try:
            ready = await server._started(options, load_timeout)
            settings = _remote_settings(load, header, f"http://{ready.address}")
            server._remote = await RemoteBackend.connect(load.name, settings, token=key)
        except BaseException:
            await server.kill()
            raise
        return server

    async def _started(self, options: Options, load_timeout: float) -> Ready:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the watcher sees the end and the reason
            self._process.stdin.write(msgspec.json.encode(options) + b"\n")
            await self._process.stdin.drain()
        waited = 0.0
        while waited < load_timeout:
            pause = min(PROGRESS_EVERY, load_timeout - waited)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    return await asyncio.shield(self._ready)
            waited += pause
            logger.info("server %s: loading for %.0f s", self._name, waited)
        raise LoadFailed(f"{self._name} was not loaded within {load_timeout:.0f} s.")

    # What it does: all of it by HTTP.

    @property
    def remote(self) -> RemoteBackend:
        """The client that speaks to it."""
        assert self._remote is not None, "it is not started"
        return self._remote

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do. A server chats with any, in a form that it may never have seen."""
        can = self.remote.capabilities
        if not self._no_chat_reason:
            return can
        reason = self._no_chat_reason
        return replace(can, chat=False, tools=False, counting=False, no_chat_reason=reason)

    @property
    def description(self) -> str:
        """The model, the engine and its address."""
        return self.remote.description

    @property
    def pid(self) -> int | None:
        """The process that has the model in memory."""
        return self._ready.result().pid

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights, KV cells and what is kept of those that had to go, as expected."""
        return self._memory_bytes

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.remote.in_flight

    async def infill(self, request: InfillRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the completion, as `RemoteBackend.infill` does."""
        async with self._watched(), aclosing(self.remote.infill(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer to a conversation, as `RemoteBackend.chat` does."""
        if self._no_chat_reason:
            raise Unsupported(self._no_chat_reason)
        async with self._watched(), aclosing(self.remote.chat(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def health(self) -> None:
        """Return if the server answers. Raises BackendError."""
        async with self._watched():
            await self.remote.health()

    async def drain(self, limit: float) -> None:
        """Let requests finish for `limit` seconds, then cancel them."""
        await self.remote.drain(limit)

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Let a failed request say that the server is gone, if that is the reason."""
        if self._dead is not None:
            raise self._dead
        try:
            yield
        except BackendError as exc:
            # The connection's end may be seen before the process's.
            await asyncio.wait({self._watcher}, timeout=0.5)
            if self._dead is not None:
                raise self._dead from exc
            if self._examination is None or self._examination.done():
                self._examination = asyncio.create_task(self._examine())
            raise

    async def _examine(self) -> None:
        """End a server that does not answer any more; another is started then."""
        try:
            async with asyncio.timeout(HEALTHY_WITHIN):
                await self.remote.health()
        except (BackendError, TimeoutError):
            logger.error("server %s does not answer: killed", self._name)
            self._hung = True
            self._kill()

    # Its process.

    async def close(self) -> None:
        """End the server: the end of its input, then SIGKILL. Requests under way fail."""
        self._closing = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the server at once, and wait until it is gone."""
        self._closing = True
        self._kill()
        await self._process.wait()
        await asyncio.wait({self._watcher, self._words.reading}, timeout=END_TIMEOUT)
        for task in (self._watcher, self._words.reading, self._examination):
            if task is not None:
                task.cancel()
        if self._remote is not None:
            await self._remote.close()

    def _kill(self) -> None:
        # The process with the model may be a child of the one that we started.
        pids = {self._process.pid} if self._process.returncode is None else set()
        if pids and self._ready.done() and not self._ready.exception():
            pids.add(self._ready.result().pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _watch(self) -> None:
        """Take what the process says, then wait for its end and tell it."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(msgspec.MsgspecError):
                self._take(msgspec.json.decode(line, type=Said))
        await self._process.wait()
        await asyncio.wait({self._words.reading}, timeout=0.05)
        self._ended()

    def _take(self, said: Said) -> None:
        if self._ready.done():
            return
        match said:
            case Ready():
                self._ready.set_result(said)
            case NotStarted(reason=reason):
                self._not_ready(LoadFailed(f"{self._name} could not be loaded: {reason}"))

    def _not_ready(self, error: BackendError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # taken: nobody may be waiting any more

    def _ended(self) -> None:
        was_loading = not self._ready.done()
        error = self._words.end(hung=self._hung)
        self._not_ready(self._words.end_of_load(error))
        self._dead = error
        if not self._closing and not was_loading:
            self._on_exit(WorkerDied(str(error)))


def _options(load: frames.Load, header: Header, key: str) -> Options:
    """Return how the server of a checked model is to be started. Raises ModelFileError."""
    settings = load.settings
    if settings.binary:
        _check_binary(settings.binary)
    cells, cache = memory.cache(header, settings.context_length, settings.kv_type)
    return Options(
        model=load.path,
        name=load.name,
        key=key,
        cells=cells,
        slots=SLOTS,
        host_cache_mb=memory.snapshot_bytes(cache) // memory.MIB,
        binary=settings.binary,
        threads=settings.threads,
        batch=settings.batch,
        gpu_layers=settings.gpu_layers,
        low_vram=settings.low_vram,
        mmap=settings.mmap,
        mlock=settings.mlock,
        kv_type=settings.kv_type,
        chat_template=settings.chat_template,
        safe_mode=load.safe_mode,
        verbose=settings.verbose,
    )


def _check_binary(binary: str) -> None:
    path = Path(binary)
    if not path.is_absolute():
        raise ModelFileError(f"binary = {binary!r} is not an absolute path.")
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ModelFileError(f"{binary} is no program that can be run.")


def _remote_settings(load: frames.Load, header: Header, endpoint: str) -> ModelSettings:
    """Return how the server is spoken to: no proxy and no key of the user's goes near it."""
    template = catalogue.template_of(header, Path(load.path))
    family = "" if isinstance(template, NoFim) else template.family
    return ModelSettings(
        endpoint=endpoint,
        profile=load.engine,
        remote_model=load.name,
        family=load.settings.family or family,
        context_length=load.settings.context_length,
        reasoning_effort=load.settings.reasoning_effort,
        timeout_s=FIRST_TOKEN_S,
        retries=0,
    )
