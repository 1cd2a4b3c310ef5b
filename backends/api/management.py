"""Health, models and the manager itself over HTTP.

Rule: converters only. What a model is and what becomes of it is the manager's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import Response

from backends import __version__, catalogue
from backends.api.answers import error_body, json_response, read_object, text_field
from backends.backend import Backend, Capabilities
from backends.catalogue import Model
from backends.errors import BackendError, BadRequest, MidspanError
from backends.lifecycle import ModelState
from backends.local import LocalBackend
from backends.manager import Manager, failure

PONG_WITHIN = 1.0  # seconds; a worker that hangs must not hold up the status


async def health(request: Request) -> Response:
    """`GET /health`: 200 while a model can answer, else 503 with the reason."""
    manager = manager_of(request)
    name = manager.serving()
    slot = manager.models.slot(name)
    body: dict[str, object] = {"version": __version__, "model": name, "state": slot.state.value}
    if slot.state is ModelState.READY:
        return json_response({"status": "ok", **body})
    failed = slot.state is ModelState.FAILED
    error = failure(name, slot) if failed else BackendError(f"{name} is {slot.state.value}.")
    return json_response({"status": "unavailable", **body, **error_body(error)}, 503)


async def available(request: Request) -> Response:
    """`GET /api/models/available`: every model, with what is known of it unloaded."""
    manager = manager_of(request)
    models = manager.catalogue.models().values()
    rows = await asyncio.to_thread(lambda: [row_of(manager, model) for model in models])
    return json_response({"models": rows, "current": manager.serving()})


async def status(request: Request) -> Response:
    """`GET /api/models/status`: every model's state and its worker."""
    manager = manager_of(request)
    models = manager.catalogue.models()
    names = dict.fromkeys([*models, *manager.models.slots])
    holders = _holders(manager)
    states = (_state(manager, name, models.get(name), holders) for name in names)
    return json_response(
        {
            "models": await asyncio.gather(*states),
            "current": manager.models.current,
            "target": manager.models.target,
            "serving": holders["completion"],
            "chat": holders["chat"],
            "in_flight": manager.in_flight,
            "memory": {
                "taken": manager.models.taken,  # bytes, as those of the limits
                "kept_limit": manager.models.room.kept,
                "swap_limit": manager.models.room.most,
            },
        }
    )


async def current(request: Request) -> Response:
    """`GET /api/models/current`: the model that requests go to."""
    manager = manager_of(request)
    return json_response(await _state_of(manager, manager.serving()))


async def select(request: Request) -> Response:
    """`POST /api/models/select {"name"}`: answers when that model serves."""
    manager = manager_of(request)
    name = text_field(await read_object(request), "name")
    await manager.select(name)
    return json_response(await _state_of(manager, name))


async def add(request: Request) -> Response:
    """`POST /api/models/add {"path", "name"?}`: keeps a model file after checking it."""
    manager = manager_of(request)
    body = await read_object(request)
    name = body.get("name")
    if name is not None and not isinstance(name, str):
        raise BadRequest("'name' must be a string.")
    path = text_field(body, "path")
    model = await asyncio.to_thread(manager.catalogue.add, path, name)
    return json_response(row_of(manager, model))


async def remove(request: Request) -> Response:
    """`POST /api/models/remove {"name"}`: forgets an added model; its file stays."""
    name = text_field(await read_object(request), "name")
    manager_of(request).remove(name)
    return json_response({"removed": name})


async def restart_worker(request: Request) -> Response:
    """`POST /api/manager/restart-worker`: loads the serving model afresh."""
    manager = manager_of(request)
    return json_response(await _state_of(manager, await manager.restart()))


async def stop(request: Request) -> Response:
    """`POST /api/manager/stop {"drain"?}`: answers, then the manager ends."""
    drain = (await read_object(request)).get("drain", True)
    if not isinstance(drain, bool):
        raise BadRequest("'drain' must be true or false.")
    request.app.state.stop(drain)
    return json_response({"stopping": True, "drain": drain})


def manager_of(request: Request) -> Manager:
    """Return the manager that serves `request`."""
    manager: Manager = request.app.state.manager
    return manager


def row_of(manager: Manager, model: Model) -> Mapping[str, Any]:
    """Return a model as `GET /api/models/available` has it."""
    slot = manager.models.slot(model.name)
    row: dict[str, Any] = {
        "name": model.name,
        "path": "" if model.is_remote else str(model.path),
        "source": model.source.value,
        "state": slot.state.value,
        "reason": slot.reason,
        **asdict(catalogue.facts(model)),
    }
    backend = manager.backend(model.name)
    return row if backend is None else row | _abilities(backend.capabilities)


def _abilities(can: Capabilities) -> dict[str, Any]:
    """Return what a loaded model turned out to do; of an endpoint's nothing else is known."""
    return {
        "family": can.family,
        "context_length": can.context_length,
        "fim": can.fim,
        "no_fim_reason": can.no_fim_reason,
        "chat": can.chat,
        "no_chat_reason": can.no_chat_reason,
        "tools": can.tools,
        "steering": can.steering,
    }


async def _state_of(manager: Manager, name: str) -> Mapping[str, Any]:
    return await _state(manager, name, manager.catalogue.models().get(name), _holders(manager))


async def _state(
    manager: Manager, name: str, model: Model | None, holders: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return a model's state; `model` is None where it was removed and is not yet unloaded."""
    slot = manager.models.slot(name)
    backend = manager.backend(name)
    row: dict[str, Any] = {
        "name": name,
        **await asyncio.to_thread(_origin, model),
        "state": slot.state.value,
        "since": time.time() - (time.monotonic() - slot.since) if slot.since else None,
        "reason": slot.reason,
        "restarts": slot.restarts,
        "safe_mode": slot.safe_mode,
        "roles": _roles(backend, name, holders),
        "standby": name in manager.models.standby,
        "memory_bytes": slot.size if backend else 0,
        "in_flight": backend.in_flight if backend else 0,
        "pid": backend.pid if backend else None,
        "rss": _rss(backend.pid) if backend else None,
    }
    if backend is not None:
        row |= {"description": backend.description, **_abilities(backend.capabilities)}
    if isinstance(backend, LocalBackend):
        row |= await _worker(backend)
    return row


def _origin(model: Model | None) -> Mapping[str, str]:
    """Return what runs a model and where that is; of an endpoint never its key."""
    if model is None:
        return {"engine": "", "endpoint": ""}
    if model.is_remote:
        return {"engine": model.settings.profile, "endpoint": model.place}
    try:
        return {"engine": catalogue.engine_for(model).name, "endpoint": ""}
    except MidspanError:
        return {"engine": "", "endpoint": ""}


def _holders(manager: Manager) -> Mapping[str, str]:
    """Return by role the model that requests go to which name none."""
    return {"completion": manager.serving(), "chat": manager.chats()}


def _roles(backend: Backend | None, name: str, holders: Mapping[str, str]) -> list[str]:
    """Return the roles that `name` has, as far as it can do what they are."""
    able = {"completion": True, "chat": backend is None or backend.capabilities.chat}
    return [role for role, holder in holders.items() if holder == name and able[role]]


async def _worker(backend: LocalBackend) -> Mapping[str, Any]:
    loaded = backend.loaded
    row: dict[str, Any] = {
        "model_bytes": loaded.model_bytes,
        "cache_bytes": loaded.cache_bytes,
        "load_ms": loaded.load_ms,
    }
    with contextlib.suppress(MidspanError):  # it died just now, or hangs
        pong = await backend.ping(PONG_WITHIN)
        row |= {
            "active": pong.active,
            "generating": pong.generating,
            "evaluated_tokens": pong.evaluated_tokens,
        }
    return row


def _rss(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
