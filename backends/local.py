"""`LocalBackend`: a model in a worker process, spoken to in frames over its stdin and stdout.

Rule: this module owns the process. Whatever happens to it (a crash, silence, an end) every request
under way ends with an error of `backends.errors`, and `on_exit` is called once. Must not know
which models exist, nor what is done about a worker that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from backends import draining, frames
from backends.backend import Capabilities, ChatRequest, Chunk, InfillRequest
from backends.backups import Backups, Joiner, parts
from backends.child_words import ChildWords
from backends.errors import (
    BackendError,
    LoadFailed,
    MidspanError,
    WorkerDied,
    WorkerTimeout,
    from_wire,
)

logger = logging.getLogger(__name__)

# -P: a folder named "backends" in the current directory must not be run in place of ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "backends.worker")
LOAD_TIMEOUT = 600.0  # seconds; a large model from a slow disk
END_TIMEOUT = 3.0  # seconds between the end of a worker's input and its death by SIGKILL


@dataclass(frozen=True, slots=True)
class Liveness:
    """How a worker that hangs is found out, in seconds."""

    ping_every: float = 5.0  # while requests are under way
    pong_within: float = 10.0


@dataclass(eq=False, slots=True)
class _Pending:
    """A request under way: what the worker sent for it waits here."""

    answers: asyncio.Queue[Chunk | MidspanError] = field(default_factory=asyncio.Queue)


class LocalBackend:
    """A loaded model in its worker. Made by `start`; ended by `close`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        name: str,
        on_exit: Callable[[WorkerDied], None],
        liveness: Liveness,
        backup_bytes: int = 0,
    ) -> None:
        self._process = process
        self._name = name
        self._on_exit = on_exit
        self._liveness = liveness
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._owners: dict[str, int] = {}  # document or session → its newest request
        self._loaded: asyncio.Future[frames.Loaded] = asyncio.get_running_loop().create_future()
        self._last_pong = 0.0
        self._pings: dict[int, asyncio.Future[frames.Pong]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()
        self._joiner = Joiner()
        self._handed_over: list[frames.Snapshot] = []
        self._backups = Backups(backup_bytes)
        self._dead: BackendError | None = None
        self._closing = False
        self._hung = False
        self._reader = asyncio.create_task(self._read())
        self._words = ChildWords(process, f"worker of {name}")
        self._pinger = asyncio.create_task(self._ping())

    @classmethod
    async def start(
        cls,
        load: frames.Load,
        on_exit: Callable[[WorkerDied], None],
        *,
        command: Sequence[str] = WORKER_COMMAND,
        liveness: Liveness | None = None,
        load_timeout: float = LOAD_TIMEOUT,
    ) -> LocalBackend:
        """Start a worker and return when its model is loaded and warm.

        Raises LoadFailed (or what the worker reports: EngineMissing, NoFim, ModelFileError), and
        WorkerCrashed where a signal killed it. `on_exit` is called if it ends later on, unasked.
        Cancelling ends the worker.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the manager
        )
        backend = cls(process, load.name, on_exit, liveness or Liveness(), load.backup_bytes)
        try:
            await backend._send(load)
            async with asyncio.timeout(load_timeout):
                await asyncio.shield(backend._loaded)
        except TimeoutError as exc:
            await backend.kill()
            raise LoadFailed(f"{load.name} was not loaded within {load_timeout:.0f} s.") from exc
        except BaseException:
            await backend.kill()
            raise
        return backend

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do."""
        return self._loaded.result().capabilities

    @property
    def loaded(self) -> frames.Loaded:
        """What the worker said when it was ready."""
        return self._loaded.result()

    @property
    def description(self) -> str:
        """Architecture, quantisation and engine of the loaded model."""
        return self.loaded.description

    @property
    def memory_bytes(self) -> int:
        """Bytes of the runtime, weights, KV cells and their snapshots."""
        return self.loaded.runtime_bytes + self.loaded.model_bytes + self.loaded.cache_bytes

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def backups(self) -> list[frames.Snapshot]:
        """What the worker had cached of each document when it last rested, newest first."""
        return self._backups.newest_first()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._pending)

    def infill(self, request: InfillRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the completion. A newer request for the same document cancels this one.

        A cancelled one still ends with a chunk, unless its iterator was closed.
        """
        return self._stream(frames.Infill(next(self._ids), request), request.document)

    def chat(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer. A newer request of the same session cancels this one."""
        owner = None if request.session is None else f"chat {request.session}"
        return self._stream(frames.Chat(next(self._ids), request), owner)

    async def _stream(
        self, message: frames.Infill | frames.Chat, owner: str | None
    ) -> AsyncGenerator[Chunk, None]:
        """Send a request and yield what comes back, to its end."""
        if self._dead is not None:
            raise self._dead
        id = message.id
        pending = self._pending[id] = _Pending()
        self._count_pending()
        self._supersede(owner, id)
        ended = False
        try:
            await self._send(message)
            while not ended:
                answer = await pending.answers.get()
                if isinstance(answer, MidspanError):
                    ended = True
                    raise answer
                ended = answer.finish_reason is not None
                yield answer
        finally:
            del self._pending[id]
            if owner is not None and self._owners.get(owner) == id:
                del self._owners[owner]
            self._count_pending()
            if not ended:
                self._post(frames.Cancel(id))

    async def health(self) -> None:
        """Return if the worker lives. Raises WorkerDied or WorkerTimeout."""
        if self._dead is not None:
            raise self._dead

    async def ping(self, limit: float) -> frames.Pong:
        """Ask what the worker is doing; it answers in mid-generation too, within `limit` seconds.

        Raises BackendError.
        """
        if self._dead is not None:
            raise self._dead
        id = next(self._ids)
        answer: asyncio.Future[frames.Pong] = asyncio.get_running_loop().create_future()
        self._pings[id] = answer
        try:
            self._post(frames.Ping(id))
            async with asyncio.timeout(limit):
                return await answer
        except TimeoutError as exc:
            raise WorkerTimeout(f"The worker of {self._name} does not answer.") from exc
        finally:
            del self._pings[id]

    async def drain(self, limit: float) -> None:
        """Let requests finish for `limit` seconds, then cancel them."""
        await draining.drain(self._idle, limit, self._cancel)

    def _cancel(self) -> None:
        for id in self._pending:
            self._post(frames.Cancel(id))

    async def close(self) -> None:
        """End the worker: the end of its input, then SIGKILL. Requests under way fail."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        await self._end()

    async def unload(self, limit: int) -> list[frames.Snapshot]:
        """End the worker; return what it had cached, most recently used first.

        `limit` in bytes. What does not come in time, or not whole, is left out.
        """
        self._post(frames.Unload(limit))
        await self._end()
        return self._handed_over

    async def give(self, snapshots: Sequence[frames.Snapshot]) -> None:
        """Send what `unload` returned to another worker of the very same model."""
        for snapshot in reversed(snapshots):  # the last one counts as the latest used
            for part in parts(snapshot):
                await self._send(part)

    async def _end(self) -> None:
        self._closing = True
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            logger.warning("worker %s does not end: killed", self._name)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """End the worker at once, whatever it is doing, and wait until it is gone."""
        self._closing = True
        self._kill()
        await self._process.wait()
        self._pinger.cancel()
        # Its pipes are at their end now, unless a child of its own holds them.
        await asyncio.wait({self._reader, self._words.reading}, timeout=END_TIMEOUT)
        self._reader.cancel()
        self._words.reading.cancel()

    def _kill(self) -> None:
        # Not Process.kill: it may reap the process, and nobody learns how it ended (gh-127049).
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def _supersede(self, owner: str | None, id: int) -> None:
        if owner is None:
            return
        if (older := self._owners.get(owner)) is not None:
            self._post(frames.Cancel(older))
        self._owners[owner] = id

    def _count_pending(self) -> None:
        full, empty = (self._busy, self._idle) if self._pending else (self._idle, self._busy)
        full.set()
        empty.clear()

    def _post(self, message: frames.ToWorker) -> None:
        """Write without waiting: small messages only."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(frames.encode(message))

    async def _send(self, message: frames.ToWorker) -> None:
        assert self._process.stdin is not None
        self._post(message)
        with contextlib.suppress(ConnectionError):  # the reader sees the end and knows the reason
            await self._process.stdin.drain()

    # What comes back.

    async def _read(self) -> None:
        """Hand out what the worker sends, until it ends; then end everything that waits for it."""
        try:
            await self._read_frames()
        except (frames.FrameError, OSError) as exc:
            logger.error("worker %s sent no frame: %s", self._name, exc)
        self._kill()  # it may have closed its output only
        await self._process.wait()
        await asyncio.wait({self._words.reading}, timeout=0.05)
        self._ended()

    async def _read_frames(self) -> None:
        assert self._process.stdout is not None
        read = self._process.stdout.readexactly
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                length = frames.body_length(await read(frames.HEADER.size))
                self._dispatch(frames.decode_from_worker(await read(length)))

    def _dispatch(self, message: frames.FromWorker) -> None:
        match message:
            case frames.Piece(id=id, chunk=chunk):
                self._answer(id, chunk)
            case frames.Failed(id=0, kind=kind, message=reason):
                self._not_loaded(from_wire(kind, reason))
            case frames.Failed(id=id, kind=kind, message=reason):
                self._answer(id, from_wire(kind, reason))
            case frames.Pong(id=id):
                self._last_pong = time.monotonic()
                asked = self._pings.get(id)
                if asked is not None and not asked.done():
                    asked.set_result(message)
            case frames.Snapshot():
                self._keep(message)
            case frames.Loaded():
                if not self._loaded.done():
                    self._loaded.set_result(message)

    def _keep(self, part: frames.Snapshot) -> None:
        if (whole := self._joiner.add(part)) is None:
            return
        if whole.owner:
            self._backups.put(whole)
        else:
            self._handed_over.append(whole)

    def _answer(self, id: int, answer: Chunk | MidspanError) -> None:
        # Unknown ids are requests whose iterator was closed.
        if (pending := self._pending.get(id)) is not None:
            pending.answers.put_nowait(answer)

    def _not_loaded(self, error: MidspanError) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # taken: nobody may be waiting any more

    def _ended(self) -> None:
        was_loading = not self._loaded.done()
        error = self._words.end(hung=self._hung)
        self._not_loaded(self._words.end_of_load(error))
        self._dead = error
        self._pinger.cancel()
        for pending in self._pending.values():
            pending.answers.put_nowait(error)
        for asked in self._pings.values():
            if not asked.done():
                asked.set_exception(error)
        if not self._closing and not was_loading:
            self._on_exit(WorkerDied(str(error)))

    async def _ping(self) -> None:
        """While requests are under way, expect the worker to answer pings; kill it if it won't."""
        while True:
            await self._busy.wait()
            sent = time.monotonic()
            self._post(frames.Ping(next(self._ids)))
            await asyncio.sleep(self._liveness.ping_every)
            late = self._last_pong < sent
            while late and time.monotonic() < sent + self._liveness.pong_within:
                await asyncio.sleep(0.05)
                late = self._last_pong < sent
            if late and not self._reader.done():
                logger.error("worker %s does not answer: killed", self._name)
                self._hung = True
                self._kill()
                return
