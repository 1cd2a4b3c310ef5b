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
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends import catalogue, lifecycle, memory
from backends.catalogue import Catalogue, Model
from backends.config import Settings
from backends.errors import (
    Conflict,
    ManagerUnavailable,
    MidspanError,
    ModelFileError,
    WorkerDied,
    from_wire,
)
from backends.frames import Snapshot
from backends.handover import Fingerprint, Handovers, Kept
from backends.lifecycle import Models, ModelState, Slot
from backends.local import LOAD_TIMEOUT, WORKER_COMMAND, Liveness, LocalBackend, WorkerCrashed
from backends.remembered import Remembered, Selection
from backends.snapshot_files import SnapshotFiles

logger = logging.getLogger(__name__)

# Deaths that point at the build and the processor; others may be somebody's kill or the OOM killer.
CRASH_SIGNALS = frozenset(
    {signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT}
)

# Of the bytes for cells in the manager's memory, what each loaded model's backups may take: 1/n.
BACKUP_SHARE = 2

STOPPING = "The backend manager is stopping."


@dataclass(frozen=True, slots=True)
class Workers:
    """How workers are run; tests put their own here."""

    command: Sequence[str] = WORKER_COMMAND
    liveness: Liveness = field(default_factory=Liveness)
    load_timeout: float = LOAD_TIMEOUT  # seconds
    drain: float = 10.0  # seconds for requests under way when their model is unloaded


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
        self._backends: dict[tuple[str, int], LocalBackend] = {}  # by name and run
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

    def serving(self) -> str:
        """Return the name of the model that requests go to, loaded or not."""
        return self._models.serving or self.catalogue.default()

    def backend(self, name: str) -> LocalBackend | None:
        """Return the backend of `name` if its worker is loaded."""
        return self._backends.get((name, self._models.slot(name).run))

    async def ready(self, model: str | None = None) -> tuple[str, LocalBackend]:
        """Return the name and backend to complete with, loading it and waiting if need be.

        `model`, if given, must be the one that serves. Raises MidspanError.
        """
        while True:
            changed = self._changed
            if self._stopping:
                raise ManagerUnavailable(STOPPING)
            name = self._route(model)
            slot = self._models.slot(name)
            if slot.state is ModelState.READY:
                return name, self._backends[name, slot.run]
            if slot.state is ModelState.FAILED:
                raise failure(name, slot)
            if slot.state is ModelState.STOPPED:
                await self._want(name)
            else:
                await changed.wait()

    async def select(self, name: str) -> None:
        """Make `name` the model that serves; returns when it does, and remembers it.

        At once if it is still loaded. Until then, and if it fails, the one before goes on serving,
        unless the machine cannot hold both. Raises MidspanError.
        """
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
                await self._want(name)
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
        if name in self._models.standby:
            self.catalogue.remove(name)
            self._apply(lifecycle.Stopped(name, time.monotonic()))
            return
        if self._models.slot(name).state not in (ModelState.STOPPED, ModelState.FAILED):
            raise Conflict(f"{name} is in use; select another model first.")
        self.catalogue.remove(name)

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
        cells = await asyncio.gather(*(backend.unload(limit) for _, backend in backends))
        await self._save(self._handovers.take_all())
        for ((name, _), _), snapshots in zip(backends, cells, strict=True):
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
            self._apply(lifecycle.Refused(name, run, str(exc), exc.kind, time.monotonic()))
        except OSError as exc:  # no process could be made
            reason = f"The worker of {name} cannot be started: {exc}."
            self._apply(lifecycle.Refused(name, run, reason, "load_failed", time.monotonic()))
        else:
            self._backends[name, run] = backend
            size = backend.loaded.model_bytes + backend.loaded.cache_bytes
            self._apply(lifecycle.Loaded(name, run, time.monotonic(), size))
        finally:
            self._starting.pop((name, run), None)

    async def _ended(self, workers: Sequence[tuple[str, int]]) -> None:
        """Return when these workers, by name and run, are gone."""
        for name, run in workers:
            while (slot := self._models.slot(name)).run == run:
                if slot.state is not ModelState.STOPPING:
                    break
                await self._changed.wait()

    async def _load(self, effect: lifecycle.Start) -> LocalBackend:
        model = self.catalogue.get(effect.name)
        made = await asyncio.to_thread(self._fingerprint, model, safe_mode=effect.safe_mode)
        self._loaded_from[effect.name] = made
        stored = self._read_stored(made)
        message = await asyncio.to_thread(catalogue.load_message, model, safe_mode=effect.safe_mode)
        message.cold_prefill_ms = self._settings.completion.cold_prefill_ms
        message.backup_bytes = self._handovers.budget // BACKUP_SHARE
        backend = await LocalBackend.start(
            message,
            functools.partial(self._died, effect.name, effect.run),
            command=self._workers.command,
            liveness=self._workers.liveness,
            load_timeout=self._workers.load_timeout,
        )
        try:
            await backend.give(self._handovers.take(made))
        except asyncio.CancelledError:
            await backend.kill()
            raise
        if stored is not None:
            self._spawn(_give_stored(stored, backend))
        if effect.safe_mode and effect.name in self._crashed:
            self._remembered.use_safe_mode(catalogue.build_and_processor(message.engine))
        return backend

    def _read_stored(self, made: Fingerprint) -> asyncio.Future[list[Snapshot]] | None:
        """Begin to read what a manager before this one saved, while the worker loads."""
        if self._files is None or self._handovers.holds(made):
            return None
        work = asyncio.to_thread(self._files.load, made, self._handovers.budget)
        return asyncio.ensure_future(work)

    def _died(self, name: str, run: int, error: WorkerDied) -> None:
        backend = self._backends.pop((name, run), None)
        if backend is not None and (backups := backend.backups):
            self._spawn(self._save(self._handovers.put(self._loaded_from[name], backups)))
        self._apply(lifecycle.Died(name, run, str(error), True, time.monotonic()))

    async def _unload(self, effect: lifecycle.Unload) -> None:
        key = effect.name, effect.run
        if (starting := self._starting.get(key)) is not None:
            starting.cancel()
            await asyncio.wait({starting})
        if (backend := self._backends.get(key)) is not None:
            await backend.drain(self._workers.drain)
            cells = await backend.unload(self._handovers.budget)
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

    async def _want(self, name: str) -> None:
        safe_mode, size = await asyncio.to_thread(self._prospects, name)
        if not self._stopping:
            self._apply(lifecycle.Wanted(name, safe_mode, time.monotonic(), size))

    def _prospects(self, name: str) -> tuple[bool, int]:
        """Return whether `name` needs safe mode, and the bytes it will take. Raises MidspanError.

        A file with no good header takes none: loading it says what is wrong.
        """
        model = self.catalogue.get(name)
        engine = catalogue.engine_for(model.path)
        safe_mode = self._remembered.needs_safe_mode(catalogue.build_and_processor(engine.name))
        try:
            header = catalogue.read_header(model.path)
        except ModelFileError:
            return safe_mode, 0
        return safe_mode, memory.expected(header, model.settings.context_length)

    def _fingerprint(self, model: Model, *, safe_mode: bool) -> Fingerprint:
        engine = catalogue.engine_for(model.path)
        return Fingerprint(
            path=model.path,
            version=catalogue.identity(model.path),
            engine=catalogue.build_and_processor(engine.name),
            safe_mode=safe_mode,
            gpu_layers=model.settings.gpu_layers,
        )

    def _outdated(self, name: str) -> bool:
        """Whether `name` is loaded on standby from a file that is no longer the same."""
        if name not in self._models.standby:
            return False
        try:
            version = catalogue.identity(self.catalogue.get(name).path)
        except ModelFileError:
            return False  # the file is gone; what is loaded still serves
        return version != self._loaded_from[name].version


async def _give_stored(stored: asyncio.Future[list[Snapshot]], backend: LocalBackend) -> None:
    """Give a loaded worker what was saved: the newest ahead of its first request if it is read.

    The first request waits for no more than that, and not for the disk.
    """
    snapshots = await stored
    await backend.give(snapshots[:1])
    await backend.give(snapshots[1:])


def failure(name: str, slot: Slot) -> MidspanError:
    """Return the error of a model that has failed."""
    return from_wire(slot.kind, f"{name} is not available: {slot.reason}")
