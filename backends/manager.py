"""The manager: carries out what `lifecycle` decides, and finds a backend for each request.

Rule: `_apply` is the only writer of the models' states; it runs on the event loop, without
waiting, and wakes everyone who waits for a change. Whoever waits looks at the state again when
woken. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from backends import catalogue, chosen, factory, lifecycle, memory
from backends.backend import Backend, Capabilities
from backends.backups import KeepsCells
from backends.catalogue import Catalogue, Model
from backends.child_words import WorkerCrashed
from backends.config import Settings
from backends.errors import (
    BackendError,
    Conflict,
    ManagerUnavailable,
    MidspanError,
    ModelFileError,
    NoFim,
    Unsupported,
    WorkerDied,
    from_wire,
)
from backends.factory import Wishes, Workers
from backends.frames import Snapshot
from backends.handover import Fingerprint, Handovers, Kept, computed
from backends.lifecycle import Models, ModelState, Purpose, Slot
from backends.remembered import Remembered, Selection
from backends.snapshot_files import SnapshotFiles

if TYPE_CHECKING:
    from backends.downloads.downloader import Downloader

logger = logging.getLogger(__name__)

# Deaths that point at the build and the processor; others may be somebody's kill or the OOM killer.
CRASH_SIGNALS = frozenset(
    {signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT}
)

# Of the bytes for cells in the manager's memory, what each loaded model's backups may take: 1/n.
BACKUP_SHARE = 2

STOPPING = "The backend manager is stopping."


class Manager:
    """All models of one user on one machine."""

    def __init__(
        self,
        settings: Settings,
        remembered: Remembered,
        workers: Workers | None = None,
        files: SnapshotFiles | None = None,
    ) -> None:
        """Take where to keep what workers had cached when this manager ends, if anywhere."""
        self.catalogue = Catalogue(settings, remembered)
        self._settings = settings
        self._remembered = remembered
        self._workers = workers or Workers()
        room = memory.room(settings.manager.memory_mb, memory.available())
        self._models = Models(room=room)
        self._backends: dict[tuple[str, int], Backend] = {}  # by name and run
        self._loaded_from: dict[str, Fingerprint] = {}  # by name
        self._handovers = Handovers(settings.manager.snapshot_mb * memory.MIB)
        self._files = files
        self._starting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._crashed: set[str] = set()  # models whose warm-up was ended by a crash signal
        self._stopping = False

    @property
    def models(self) -> Models:
        """The models' states, as of now."""
        return self._models

    @property
    def in_flight(self) -> int:
        """Requests under way, on all models."""
        return sum(backend.in_flight for backend in self._backends.values())

    @functools.cached_property
    def downloads(self) -> Downloader:
        """The downloads of models; nothing of them is imported before one is asked for."""
        from backends.downloads.downloader import Downloader

        return Downloader(self._settings.downloads, self.catalogue)

    @property
    def downloading(self) -> bool:
        """Whether a model is being downloaded, for which the manager must stay."""
        return "downloads" in self.__dict__ and self.downloads.active

    def serving(self) -> str:
        """Return the name of the model that requests go to, loaded or not."""
        return self._models.serving or self.catalogue.default()

    def backend(self, name: str) -> Backend | None:
        """Return the backend of `name` if it is loaded."""
        return self._backends.get((name, self._models.slot(name).run))

    async def ready(self, model: str | None = None) -> tuple[str, Backend]:
        """Return the name and backend to complete with, loading it and waiting if need be.

        `model`, if given, must be the one that serves. Raises MidspanError.
        """
        return await self._ready(lambda: self._route(model), Purpose.COMPLETION)

    async def ready_for_chat(self, model: str | None = None) -> tuple[str, Backend]:
        """Return the name and backend to chat with, loading it beside the one that completes.

        `model` may be any there is; if it is not given, it is that of `[chat]`, or else the one
        that completes. Raises MidspanError; Unsupported where that model cannot chat.
        """
        name = self.catalogue.get(model).name if model else self.chats()
        if (loaded := self.backend(name)) is None:
            await asyncio.to_thread(self._check_chat, name)
        else:
            check_chat(name, loaded.capabilities)
        name, backend = await self._ready(lambda: name, Purpose.CHAT)
        check_chat(name, backend.capabilities)
        return name, backend

    def chats(self) -> str:
        """Return the name of the model that chat goes to where a request names none."""
        return self._settings.chat.model or self.serving()

    async def _ready(self, route: Callable[[], str], purpose: Purpose) -> tuple[str, Backend]:
        before = self._models
        while True:
            changed = self._changed
            if self._stopping:
                raise ManagerUnavailable(STOPPING)
            name = route()
            slot = self._models.slot(name)
            if slot.state is ModelState.READY:
                self._note_role(name, purpose)
                return name, self._backends[name, slot.run]
            if slot.state is ModelState.FAILED:
                tried = slot.run != before.slot(name).run  # for this very request
                if tried or not slot.may_retry(time.monotonic()):
                    raise failure(name, slot)
            if slot.state in (ModelState.STOPPED, ModelState.FAILED):
                await self._want(name, purpose)
            else:
                await changed.wait()

    def _note_role(self, name: str, purpose: Purpose) -> None:
        """Tell `lifecycle` what a loaded model is used for, where it does not know."""
        holder = self._models.chatting if purpose is Purpose.CHAT else self._models.serving
        if purpose is not Purpose.LOOK and holder != name:
            self._apply(lifecycle.Wanted(name, False, time.monotonic(), purpose=purpose))

    async def _check_fim(self, name: str) -> None:
        """Raise NoFim where `name` cannot complete, as far as can be known without its weights."""
        model, backend = self.catalogue.get(name), self.backend(name)
        if backend is None and model.is_remote:
            _, backend = await self._ready(lambda: name, Purpose.LOOK)
        if backend is not None:
            fim, reason = backend.capabilities.fim, backend.capabilities.no_fim_reason
        else:
            facts = await asyncio.to_thread(catalogue.facts, model)
            fim, reason = facts.fim is not False, facts.no_fim_reason
        if not fim:
            raise NoFim(f"{name} can't fill in the middle: {reason}")

    def _check_chat(self, name: str) -> None:
        """Raise Unsupported where a model that is not loaded is known not to chat."""
        facts = catalogue.facts(self.catalogue.get(name))
        if facts.no_chat_reason:
            raise Unsupported(f"{name} can't chat: {facts.no_chat_reason}")

    async def select(self, name: str) -> None:
        """Make `name` the model that serves; returns when it does, and remembers it.

        At once if it is still loaded. Until then, and if it fails, the one before goes on serving,
        unless the machine cannot hold both. Raises MidspanError; NoFim where it cannot complete.
        """
        await self._check_fim(name)
        safe_mode, size = await asyncio.to_thread(self._prospects, name)
        if self._stopping:
            raise ManagerUnavailable(STOPPING)
        if self._outdated(name):
            self._apply(lifecycle.Stopped(name, time.monotonic()))
        self._apply(lifecycle.Selected(name, safe_mode, time.monotonic(), size))
        while not self._serves(name):
            changed = self._changed
            slot = self._models.slot(name)
            if slot.state is ModelState.FAILED:
                raise failure(name, slot)
            if name not in (self._models.target, self._models.current):
                raise Conflict(f"{name} was given up: another model was selected meanwhile.")
            if slot.state is ModelState.STOPPED:
                await self._want(name, Purpose.COMPLETION)
            else:
                await changed.wait()
        self._remembered.select(Selection(name, self._settings.completion.model))

    async def restart(self) -> str:
        """End the serving model's worker, after what is under way, and load it afresh."""
        name = self.serving()
        self._apply(lifecycle.Stopped(name, time.monotonic()))
        await self.ready()
        return name

    def remove(self, name: str) -> None:
        """Forget an added model. Raises UnknownModel, Conflict."""
        self.catalogue.get(name)
        self.check_unused(name)
        self.catalogue.remove(name)
        self.unload(name)

    def check_unused(self, name: str) -> None:
        """Raise Conflict where requests go to `name`, or it is just being loaded or unloaded."""
        idle = self._models.slot(name).state in (ModelState.STOPPED, ModelState.FAILED)
        if not idle and name not in self._models.standby:
            raise Conflict(f"{name} is in use; select another model first.")

    def unload(self, name: str) -> None:
        """Give back the memory of a model that is on standby."""
        if name in self._models.standby:
            self._apply(lifecycle.Stopped(name, time.monotonic()))

    async def drain(self) -> None:
        """Refuse new requests and let those under way finish, for a limited time."""
        self._stopping = True
        self._wake()
        drains = (backend.drain(self._workers.drain) for backend in self._backends.values())
        await asyncio.gather(*drains)

    def hurry(self) -> None:
        """Save nothing from now on."""
        self._files = None

    async def close(self) -> None:
        """End all workers; what they have cached is saved first, unless there is a hurry."""
        self._stopping = True
        self._wake()
        if self.downloading:
            await self.downloads.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._files is None:
            await asyncio.gather(*(backend.close() for backend in self._backends.values()))
        else:
            await self._save_all(self._files.cap)
        self._backends.clear()

    async def _save_all(self, limit: int) -> None:
        """End all workers and save up to `limit` bytes of each, the serving one's as the newest."""
        backends = sorted(self._backends.items(), key=lambda b: b[0][0] == self._models.current)
        cells = await asyncio.gather(*(_unloaded(backend, limit) for _, backend in backends))
        await self._save(self._handovers.take_all())
        for ((name, _), _), snapshots in zip(backends, cells, strict=True):
            if snapshots:
                await self._save({self._loaded_from[name]: snapshots})

    async def _save(self, cells: Kept) -> None:
        for made, snapshots in cells.items():
            if self._files is not None:
                await asyncio.to_thread(self._files.save, made, snapshots)

    # The one writer, and the effects.

    def _apply(self, event: lifecycle.Event) -> None:
        before = self._models
        self._models, effects = lifecycle.step(before, event)
        slot = self._models.slot(event.name)
        if slot.state is not before.slot(event.name).state:
            logger.info("model %s: %s %s", event.name, slot.state, slot.reason)
        for effect in effects:
            match effect:
                case lifecycle.Start():
                    task = self._spawn(self._start(effect))
                    self._starting[effect.name, effect.run] = task
                case lifecycle.Unload():
                    self._spawn(self._unload(effect))
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, effect: lifecycle.Start) -> None:
        """Start a worker; exactly one event comes of it, unless it is cancelled."""
        name, run = effect.name, effect.run
        try:
            await self._ended(effect.after)
            await asyncio.sleep(effect.delay)
            backend = await self._load(effect)
        except WorkerCrashed as exc:
            if exc.signal_number in CRASH_SIGNALS:
                self._crashed.add(name)
            self._apply(lifecycle.Died(name, run, str(exc), True, time.monotonic()))
        except MidspanError as exc:
            elsewhere = self._is_remote(name) and isinstance(exc, BackendError)
            passing = elsewhere or isinstance(exc, ModelFileError)  # a file may come back
            now = time.monotonic()
            self._apply(lifecycle.Refused(name, run, str(exc), exc.kind, now, passing))
        except OSError as exc:  # no process could be made now
            reason = f"The worker of {name} cannot be started: {exc}."
            now = time.monotonic()
            self._apply(lifecycle.Refused(name, run, reason, "load_failed", now, passing=True))
        else:
            self._backends[name, run] = backend
            self._apply(lifecycle.Loaded(name, run, time.monotonic(), backend.memory_bytes))
        finally:
            self._starting.pop((name, run), None)

    async def _ended(self, workers: Sequence[tuple[str, int]]) -> None:
        """Return when these workers, by name and run, are gone."""
        for name, run in workers:
            while (slot := self._models.slot(name)).run == run:
                if slot.state is not ModelState.STOPPING:
                    break
                await self._changed.wait()

    async def _load(self, effect: lifecycle.Start) -> Backend:
        model = self.catalogue.get(effect.name)
        wishes = Wishes(
            safe_mode=effect.safe_mode,
            cold_prefill_ms=self._settings.completion.cold_prefill_ms,
            backup_bytes=self._handovers.budget // BACKUP_SHARE,
            workers=self._workers,
            on_exit=functools.partial(self._died, effect.name, effect.run),
        )
        if model.is_remote:
            return await factory.make(model, wishes)
        made = await asyncio.to_thread(self._fingerprint, model, safe_mode=effect.safe_mode)
        self._loaded_from[effect.name] = made
        stored = self._read_stored(made)
        await asyncio.to_thread(chosen.log, model)
        backend = await factory.make(model, wishes)
        logger.debug("model %s: it is %s", effect.name, backend.description)
        if isinstance(backend, KeepsCells):
            await self._give(backend, made, stored)
        if effect.safe_mode and effect.name in self._crashed:
            self._remembered.use_safe_mode(made.engine)
        return backend

    async def _give(
        self,
        backend: KeepsCells,
        made: Fingerprint,
        stored: asyncio.Future[list[Snapshot]] | None,
    ) -> None:
        try:
            await backend.give(self._handovers.take(made))
        except asyncio.CancelledError:
            await backend.kill()
            raise
        if stored is not None:
            self._spawn(_give_stored(stored, backend))

    def _read_stored(self, made: Fingerprint) -> asyncio.Future[list[Snapshot]] | None:
        """Begin to read what a manager before this one saved, while the worker loads."""
        if self._files is None or self._handovers.holds(made):
            return None
        work = asyncio.to_thread(self._files.load, made, self._handovers.budget)
        return asyncio.ensure_future(work)

    def _died(self, name: str, run: int, error: WorkerDied) -> None:
        backend = self._backends.pop((name, run), None)
        if isinstance(backend, KeepsCells) and (backups := backend.backups):
            self._spawn(self._save(self._handovers.put(self._loaded_from[name], backups)))
        self._apply(lifecycle.Died(name, run, str(error), True, time.monotonic()))

    async def _unload(self, effect: lifecycle.Unload) -> None:
        key = effect.name, effect.run
        if (starting := self._starting.get(key)) is not None:
            starting.cancel()
            await asyncio.wait({starting})
        if (backend := self._backends.get(key)) is not None:
            await backend.drain(self._workers.drain)
            if cells := await _unloaded(backend, self._handovers.budget):
                dropped = self._handovers.put(self._loaded_from[effect.name], cells)
                self._spawn(self._save(dropped))
            self._backends.pop(key, None)
        self._apply(lifecycle.Unloaded(effect.name, effect.run, time.monotonic()))

    def _route(self, model: str | None) -> str:
        name = self.serving()
        if model is not None and self.catalogue.get(model).name != name:
            raise Conflict(f"{name} is serving, not {model}; select {model} first.")
        return name

    def _serves(self, name: str) -> bool:
        ready = self._models.slot(name).state is ModelState.READY
        return ready and self._models.current == name

    async def _want(self, name: str, purpose: Purpose) -> None:
        safe_mode, size = await asyncio.to_thread(self._prospects, name)
        if not self._stopping:
            self._apply(lifecycle.Wanted(name, safe_mode, time.monotonic(), size, purpose))

    def _prospects(self, name: str) -> tuple[bool, int]:
        """Return whether `name` needs safe mode, and the bytes it will take. Raises MidspanError.

        A file with no good header takes none: loading it says what is wrong. Nor does an endpoint.
        """
        model = self.catalogue.get(name)
        if model.is_remote:
            return False, 0
        engine = catalogue.engine_for(model)
        safe_mode = self._remembered.needs_safe_mode(catalogue.build_and_processor(engine.name))
        try:
            header = catalogue.read_header(model.path)
        except ModelFileError:
            return safe_mode, 0
        return safe_mode, memory.expected(header, model.settings, engine.name)

    def _fingerprint(self, model: Model, *, safe_mode: bool) -> Fingerprint:
        engine = catalogue.engine_for(model)
        return Fingerprint(
            path=model.path,
            version=catalogue.identity(model.path),
            engine=catalogue.build_and_processor(engine.name),
            safe_mode=safe_mode,
            gpu_layers=model.settings.gpu_layers,
            computed=computed(model.settings),
            sample=catalogue.sample(model.path),
        )

    def _outdated(self, name: str) -> bool:
        """Whether `name` is loaded, does not complete, and its file is no longer the same."""
        model = self.catalogue.get(name)
        loaded = self.backend(name) is not None and name != self._models.current
        if not loaded or model.is_remote:
            return False
        try:
            version = catalogue.identity(model.path)
        except ModelFileError:
            return False  # the file is gone; what is loaded still serves
        return version != self._loaded_from[name].version

    def _is_remote(self, name: str) -> bool:
        model = self.catalogue.models().get(name)
        return model is not None and model.is_remote


async def _unloaded(backend: Backend, limit: int) -> list[Snapshot]:
    """End a backend; return what it had cached, up to `limit` bytes."""
    if isinstance(backend, KeepsCells):
        return await backend.unload(limit)
    await backend.close()
    return []


async def _give_stored(stored: asyncio.Future[list[Snapshot]], backend: KeepsCells) -> None:
    """Give a loaded worker what was saved: the newest ahead of its first request if it is read.

    The first request waits for no more than that, and not for the disk.
    """
    snapshots = await stored
    await backend.give(snapshots[:1])
    await backend.give(snapshots[1:])


def check_chat(name: str, capabilities: Capabilities) -> None:
    """Raise Unsupported where a loaded model cannot chat."""
    if not capabilities.chat:
        raise Unsupported(f"{name} can't chat: {capabilities.no_chat_reason}")


def failure(name: str, slot: Slot) -> MidspanError:
    """Return the error of a model that has failed."""
    return from_wire(slot.kind, f"{name} is not available: {slot.reason}")
