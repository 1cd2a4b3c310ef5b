"""What happens to the models: decided here, done elsewhere.

    stopped ──▶ starting ──▶ ready ──▶ stopping ──▶ stopped
                   │           │
                   ▼           ▼ (worker died: back to stopped; too often: failed)
                 failed      failed

A model that no longer serves stays READY ("standby") as long as all loaded ones fit `Room.kept`,
so that going back to it only changes a name. What was used longest ago goes first. The model that
chats is another role beside the one that completes: neither goes for the other while both fit
`Room.most`.

Rule: `step(state, event)` is pure and returns the new state and the effects to carry out; the
manager is the one writer that applies it. Time comes in with the events. Must not know processes,
files or HTTP.

Each start of a worker has a `run` number, and its events carry it, so that news of a worker that
has been given up changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

CRASH_WINDOW = 60.0  # seconds
MAX_CRASHES = 3  # in that window, then the model has failed
DIED = "worker_died"  # the kind of the failure of a model whose worker keeps dying
RETRY_AFTER = 5.0  # seconds, then a failure that may have passed by itself is tried again
BACK_OFF = (0.0, 1.0)  # seconds before the restart after the first and the second crash


class ModelState(StrEnum):
    """Where a model stands."""

    STOPPED = "stopped"  # not in memory; the next request for it starts it
    STARTING = "starting"  # its worker is loading it and warming up
    READY = "ready"  # serving, or on standby
    STOPPING = "stopping"  # finishing what is in flight, then unloaded
    FAILED = "failed"  # not started until it is selected again, or the reason may have passed


class Purpose(StrEnum):
    """What a model is wanted for."""

    COMPLETION = "completion"
    CHAT = "chat"
    LOOK = "look"  # to see what it can do


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
    size: int = 0  # bytes in memory: estimated, then as its worker reported
    used: float = 0.0  # when it last began or ceased to serve
    passing: bool = False  # it failed for a reason that may pass by itself: a network's

    def may_retry(self, at: float) -> bool:
        """Whether its failure has had time to pass."""
        return self.passing and at - self.since >= RETRY_AFTER


_IN_MEMORY = frozenset({ModelState.STARTING, ModelState.READY})


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes for models: `kept` for all that stay loaded, `most` while one takes over."""

    kept: int = sys.maxsize
    most: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Models:
    """All models' states, and the roles: what completes, what will once it is ready, what chats."""

    slots: Mapping[str, Slot] = field(default_factory=dict)
    current: str | None = None
    target: str | None = None
    chatting: str | None = None  # the model that was last wanted for chat
    room: Room = field(default_factory=Room)

    def slot(self, name: str) -> Slot:
        """Return the slot of `name`; a model never heard of is stopped."""
        return self.slots.get(name, Slot())

    @property
    def serving(self) -> str | None:
        """The model that requests go to: the current one, unless it failed and another comes.

        Or unless it had to leave before that other one could be loaded.
        """
        if self.target is None or self.current is None:
            return self.target or self.current
        slot = self.slot(self.current)
        left = slot.state not in _IN_MEMORY and self.taken + slot.size > self.room.most
        return self.target if left or slot.state is ModelState.FAILED else self.current

    @property
    def taken(self) -> int:
        """Bytes of the models that are loaded or loading, those on their way out left aside."""
        return sum(slot.size for slot in self.slots.values() if slot.state in _IN_MEMORY)

    @property
    def standby(self) -> list[str]:
        """The models that are loaded and have no role, least recently used first."""
        ready = (name for name, slot in self.slots.items() if slot.state is ModelState.READY)
        roles = (self.current, self.target, self.chatting)
        idle = (name for name in ready if name not in roles)
        return sorted(idle, key=lambda name: self.slots[name].used)

    def leaving(self) -> Iterator[tuple[str, int]]:
        """Yield name and run of each model whose memory is not free yet."""
        for name, slot in self.slots.items():
            if slot.state is ModelState.STOPPING:
                yield name, slot.run


# Events: what has happened, and when.


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request needs model `name`."""

    name: str
    safe_mode: bool  # as remembered for this build and processor
    at: float
    size: int = 0  # bytes it is expected to take
    purpose: Purpose = Purpose.COMPLETION


@dataclass(frozen=True, slots=True)
class Selected:
    """The user chose model `name`; past failures are forgiven."""

    name: str
    safe_mode: bool
    at: float
    size: int = 0  # bytes it is expected to take


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker of `run` is loaded and warm."""

    name: str
    run: int
    at: float
    size: int = 0  # bytes it takes


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker of `run` said that it cannot load the model."""

    name: str
    run: int
    reason: str
    kind: str  # of the error, as in backends/errors.py
    at: float
    passing: bool = False  # the reason may pass by itself


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
    """Start a worker for `name` after `delay` seconds, and once those of `after` have ended."""

    name: str
    run: int
    safe_mode: bool
    delay: float = 0.0
    after: tuple[tuple[str, int], ...] = ()  # name and run: their memory is needed


@dataclass(frozen=True, slots=True)
class Unload:
    """Let what is in flight on `name` finish, then end its worker of `run`."""

    name: str
    run: int


Effect = Start | Unload
Step = tuple[Models, tuple[Effect, ...]]


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
    if event.purpose is Purpose.CHAT:
        models = _chat_with(models, event.name, event.at)
    elif event.purpose is Purpose.COMPLETION and models.current is None and models.target is None:
        if slot.state is ModelState.READY:  # it chats already
            return _switch(models, event.name, event.at), ()
        models = replace(models, target=event.name)
    slot = models.slot(event.name)
    if slot.state is ModelState.FAILED and slot.may_retry(event.at):
        slot = replace(slot, reason="", kind="", passing=False)
    elif slot.state is not ModelState.STOPPED:
        return models, ()
    crashes = _recent(slot.crashes, event.at)
    delay = 0.0
    if crashes:
        pause = BACK_OFF[min(len(crashes), len(BACK_OFF)) - 1]
        delay = max(0.0, crashes[-1] + pause - event.at)
    slot = replace(slot, size=max(slot.size, event.size))
    return _start(models, event.name, slot, slot.safe_mode or event.safe_mode, event.at, delay)


def _on_selected(models: Models, slot: Slot, event: Selected) -> Step:
    # 1. A selection that is still loading gives way to this one.
    effects: tuple[Effect, ...] = ()
    pending = models.target
    if pending is not None and pending not in (event.name, models.current):
        models, effects = _on_stopped(models, models.slot(pending), Stopped(pending, event.at))
    # 2. It is loaded: it serves from here on, and nothing is pending any more.
    if slot.state is ModelState.READY:
        return _switch(models, event.name, event.at), effects
    models = replace(models, target=event.name)
    # 3. It is on its way in or out: what comes of that is waited for.
    if slot.state in (ModelState.STARTING, ModelState.STOPPING):
        return models, effects
    # 4. Start it with a clean record.
    size = max(slot.size, event.size)
    fresh = replace(_forgiven(slot), size=size)
    models, started = _start(models, event.name, fresh, event.safe_mode, event.at)
    return models, effects + started


def _on_stopped(models: Models, slot: Slot, event: Stopped) -> Step:
    forgiven = _forgiven(slot)
    if slot.state is ModelState.FAILED:
        return _set(models, event.name, forgiven, ModelState.STOPPED, event.at), ()
    if slot.state not in _IN_MEMORY:
        return models, ()
    models = _set(models, event.name, forgiven, slot.state, slot.since)
    return _unload(models, event.name, event.at)


def _on_loaded(models: Models, slot: Slot, event: Loaded) -> Step:
    if slot.state is not ModelState.STARTING:
        return models, ()
    slot = replace(slot, size=event.size or slot.size)
    models = _set(models, event.name, slot, ModelState.READY, event.at)
    if models.target == event.name:
        # The swap: the new one serves from here on, and only then the old one goes, if it must.
        models = _switch(models, event.name, event.at)
    return _shrink(models, event.at)


def _switch(models: Models, name: str, at: float) -> Models:
    models = _used(models, (models.current, name), at)
    return replace(models, current=name, target=None)


def _chat_with(models: Models, name: str, at: float) -> Models:
    models = _used(models, (models.chatting, name), at)
    return replace(models, chatting=name)


def _used(models: Models, names: Iterable[str | None], at: float) -> Models:
    moved = {
        name: replace(models.slots[name], used=at)
        for name in names
        if name is not None and name in models.slots
    }
    return replace(models, slots={**models.slots, **moved})


def _forgiven(slot: Slot) -> Slot:
    return replace(slot, crashes=(), restarts=0, reason="", kind="", passing=False)


def _shrink(models: Models, at: float) -> Step:
    """Unload models on standby until the loaded ones fit."""
    effects: tuple[Effect, ...] = ()
    for name in models.standby:
        if models.taken <= models.room.kept:
            break
        if models.slot(name).size == 0:
            continue  # an engine elsewhere: nothing would be gained
        models, unload = _unload(models, name, at)
        effects += unload
    return models, effects


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
    models, effects = _shrink(models, at)
    # One with a role goes only where both cannot be in memory at all. The one that completes is
    # the first: the new one takes its place, or else both chat and the new one would have to go.
    for other in (models.current, models.chatting):
        if other in (None, name) or models.taken <= models.room.most:
            continue
        if models.slot(other).state in _IN_MEMORY:
            models, unload = _unload(models, other, at)
            effects += unload
    leaving = tuple(models.leaving())
    there = models.taken + sum(models.slot(other).size for other, _ in leaving)
    after = leaving if there > models.room.most else ()
    return models, (*effects, Start(name, slot.run, safe_mode, delay, after))


def _unload(models: Models, name: str, at: float) -> Step:
    slot = models.slot(name)
    return _set(models, name, slot, ModelState.STOPPING, at), (Unload(name, slot.run),)


def _failed(models: Models, slot: Slot, event: Refused | Died, reason: str, kind: str) -> Step:
    passing = isinstance(event, Refused) and event.passing
    failed = replace(slot, reason=reason, kind=kind, passing=passing)
    models = _set(models, event.name, failed, ModelState.FAILED, event.at)
    # The model that served before goes on serving.
    return (replace(models, target=None) if models.target == event.name else models), ()


def _set(models: Models, name: str, slot: Slot, state: ModelState, at: float) -> Models:
    return replace(models, slots={**models.slots, name: replace(slot, state=state, since=at)})


def _recent(crashes: tuple[float, ...], at: float) -> tuple[float, ...]:
    return tuple(crash for crash in crashes if at - crash < CRASH_WINDOW)
