"""What happens to the models: decided here, done elsewhere.

    stopped ──▶ starting ──▶ ready ──▶ stopping ──▶ stopped
                   │           │
                   ▼           ▼ (worker died: back to stopped; too often: failed)
                 failed      failed

Rule: `step(state, event)` is pure and returns the new state and the effects to carry out; the
manager is the one writer that applies it. Time comes in with the events. Must not know processes,
files or HTTP.

Each start of a worker has a `run` number, and its events carry it, so that news of a worker that
has been given up changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

CRASH_WINDOW = 60.0  # seconds
MAX_CRASHES = 3  # in that window, then the model has failed
DIED = "worker_died"  # the kind of the failure of a model whose worker keeps dying
BACK_OFF = (0.0, 1.0)  # seconds before the restart after the first and the second crash


class ModelState(StrEnum):
    """Where a model stands."""

    STOPPED = "stopped"  # not in memory; the next request for it starts it
    STARTING = "starting"  # its worker is loading it and warming up
    READY = "ready"  # serving
    STOPPING = "stopping"  # finishing what is in flight, then unloaded
    FAILED = "failed"  # not started again until it is selected again; the reason is kept


@dataclass(frozen=True, slots=True)
class Slot:
    """One model's state."""

    state: ModelState = ModelState.STOPPED
    since: float = 0.0  # when it got there, on the events' clock
    reason: str = ""  # why it failed or last died
    kind: str = ""  # that error's kind (see backends/errors.py)
    run: int = 0  # which start of its worker this is
    safe_mode: bool = False
    restarts: int = 0  # after crashes, since it was selected
    crashes: tuple[float, ...] = ()  # when, inside the window


@dataclass(frozen=True, slots=True)
class Models:
    """All models' states, which one serves, and which one is to serve once it is ready."""

    slots: Mapping[str, Slot] = field(default_factory=dict)
    current: str | None = None
    target: str | None = None

    def slot(self, name: str) -> Slot:
        """Return the slot of `name`; a model never heard of is stopped."""
        return self.slots.get(name, Slot())

    @property
    def serving(self) -> str | None:
        """The model that requests go to: the current one, unless it failed and another comes."""
        if self.current is None or self.slot(self.current).state is ModelState.FAILED:
            return self.target or self.current
        return self.current


# Events: what has happened, and when.


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request needs model `name`."""

    name: str
    safe_mode: bool  # as remembered for this build and processor
    at: float


@dataclass(frozen=True, slots=True)
class Selected:
    """The user chose model `name`; past failures are forgiven."""

    name: str
    safe_mode: bool
    at: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker of `run` is loaded and warm."""

    name: str
    run: int
    at: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker of `run` said that it cannot load the model."""

    name: str
    run: int
    reason: str
    kind: str  # of the error, as in backends/errors.py
    at: float


@dataclass(frozen=True, slots=True)
class Died:
    """The worker of `run` ended, or was killed for not answering."""

    name: str
    run: int
    reason: str
    by_signal: bool
    at: float


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The worker of `run` has ended because it was asked to."""

    name: str
    run: int
    at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """Model `name` is to be unloaded: it was removed, or is to start afresh."""

    name: str
    at: float


Event = Wanted | Selected | Loaded | Refused | Died | Unloaded | Stopped

# Effects: what the manager has to do.


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker for `name` after `delay` seconds."""

    name: str
    run: int
    safe_mode: bool
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Unload:
    """Let what is in flight on `name` finish, then end its worker of `run`."""

    name: str
    run: int


Effect = Start | Unload
Step = tuple[Models, tuple[Effect, ...]]

_IN_MEMORY = frozenset({ModelState.STARTING, ModelState.READY})


def step(models: Models, event: Event) -> Step:
    """Return what `event` makes of `models`, and what is to be done about it."""
    slot = models.slot(event.name)
    match event:
        case Wanted():
            return _on_wanted(models, slot, event)
        case Selected():
            return _on_selected(models, slot, event)
        case Stopped():
            return _on_stopped(models, slot, event)
    if event.run != slot.run:
        return models, ()
    match event:
        case Loaded():
            return _on_loaded(models, slot, event)
        case Refused():
            return _failed(models, slot, event, event.reason, event.kind)
        case Died():
            return _on_died(models, slot, event)
        case Unloaded():
            return _set(models, event.name, slot, ModelState.STOPPED, event.at), ()


def _on_wanted(models: Models, slot: Slot, event: Wanted) -> Step:
    if models.current is None and models.target is None:
        models = replace(models, target=event.name)
    if slot.state is not ModelState.STOPPED:
        return models, ()
    crashes = _recent(slot.crashes, event.at)
    delay = 0.0
    if crashes:
        pause = BACK_OFF[min(len(crashes), len(BACK_OFF)) - 1]
        delay = max(0.0, crashes[-1] + pause - event.at)
    return _start(models, event.name, slot, slot.safe_mode or event.safe_mode, event.at, delay)


def _on_selected(models: Models, slot: Slot, event: Selected) -> Step:
    # 1. A selection that is still loading gives way to this one.
    effects: tuple[Effect, ...] = ()
    pending = models.target
    if pending is not None and pending not in (event.name, models.current):
        models, effects = _on_stopped(models, models.slot(pending), Stopped(pending, event.at))
    # 2. It is serving already: nothing is pending any more.
    if slot.state is ModelState.READY and models.current == event.name:
        return replace(models, target=None), effects
    models = replace(models, target=event.name)
    # 3. It is on its way in or out: what comes of that is waited for.
    if slot.state in (ModelState.STARTING, ModelState.STOPPING):
        return models, effects
    # 4. Start it with a clean record.
    fresh = replace(slot, crashes=(), restarts=0, reason="", kind="")
    models, started = _start(models, event.name, fresh, event.safe_mode, event.at)
    return models, effects + started


def _on_stopped(models: Models, slot: Slot, event: Stopped) -> Step:
    forgiven = replace(slot, crashes=(), restarts=0, reason="", kind="")
    if slot.state is ModelState.FAILED:
        return _set(models, event.name, forgiven, ModelState.STOPPED, event.at), ()
    if slot.state not in _IN_MEMORY:
        return models, ()
    models = _set(models, event.name, forgiven, slot.state, slot.since)
    return _unload(models, event.name, event.at)


def _on_loaded(models: Models, slot: Slot, event: Loaded) -> Step:
    if slot.state is not ModelState.STARTING:
        return models, ()
    models = _set(models, event.name, slot, ModelState.READY, event.at)
    if models.target != event.name:
        return models, ()
    # The swap: the new one serves from here on, and only then the old one goes.
    old = models.current
    models = replace(models, current=event.name, target=None)
    if old is not None and old != event.name and models.slot(old).state in _IN_MEMORY:
        return _unload(models, old, event.at)
    return models, ()


def _on_died(models: Models, slot: Slot, event: Died) -> Step:
    match slot.state:
        case ModelState.STARTING if event.by_signal and not slot.safe_mode:
            # Some builds crash in warm-up on some processors (see engines/llama_cpp.py).
            return _start(models, event.name, slot, safe_mode=True, at=event.at)
        case ModelState.STARTING:
            reason = event.reason + (" Safe mode did not help." if slot.safe_mode else "")
            return _failed(models, slot, event, reason, DIED)
        case ModelState.STOPPING:
            return _set(models, event.name, slot, ModelState.STOPPED, event.at), ()
        case ModelState.READY:
            crashes = (*_recent(slot.crashes, event.at), event.at)
            slot = replace(slot, crashes=crashes, reason=event.reason, restarts=slot.restarts + 1)
            if len(crashes) < MAX_CRASHES:
                return _set(models, event.name, slot, ModelState.STOPPED, event.at), ()
            reason = f"It crashed {len(crashes)} times in {CRASH_WINDOW:.0f} s: {event.reason}"
            return _failed(models, slot, event, reason, DIED)
        case _:
            return models, ()


def _start(
    models: Models, name: str, slot: Slot, safe_mode: bool, at: float, delay: float = 0.0
) -> Step:
    slot = replace(slot, run=slot.run + 1, safe_mode=safe_mode)
    models = _set(models, name, slot, ModelState.STARTING, at)
    return models, (Start(name, slot.run, safe_mode, delay),)


def _unload(models: Models, name: str, at: float) -> Step:
    slot = models.slot(name)
    return _set(models, name, slot, ModelState.STOPPING, at), (Unload(name, slot.run),)


def _failed(models: Models, slot: Slot, event: Refused | Died, reason: str, kind: str) -> Step:
    failed = replace(slot, reason=reason, kind=kind)
    models = _set(models, event.name, failed, ModelState.FAILED, event.at)
    # The model that served before goes on serving.
    return (replace(models, target=None) if models.target == event.name else models), ()


def _set(models: Models, name: str, slot: Slot, state: ModelState, at: float) -> Models:
    return replace(models, slots={**models.slots, name: replace(slot, state=state, since=at)})


def _recent(crashes: tuple[float, ...], at: float) -> tuple[float, ...]:
    return tuple(crash for crash in crashes if at - crash < CRASH_WINDOW)
