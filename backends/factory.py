"""From a model of the catalogue to the backend that serves it.

Rule: the one place that knows which kinds of backends there are. Must not know what a backend is
wanted for, nor what becomes of one that ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backends import catalogue, engines
from backends.backend import Backend
from backends.catalogue import Model
from backends.errors import WorkerDied
from backends.local import LOAD_TIMEOUT, WORKER_COMMAND, Liveness, LocalBackend


@dataclass(frozen=True, slots=True)
class Workers:
    """How workers are run; tests put their own here."""

    command: Sequence[str] = WORKER_COMMAND
    liveness: Liveness = field(default_factory=Liveness)
    load_timeout: float = LOAD_TIMEOUT  # seconds
    drain: float = 10.0  # seconds for requests under way when their model is unloaded


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a model is to be started, beside its own settings."""

    on_exit: Callable[[WorkerDied], None]  # called if it ends later on, unasked
    safe_mode: bool = False
    cold_prefill_ms: float = 0.0
    backup_bytes: int = 0
    workers: Workers = field(default_factory=Workers)


async def make(model: Model, wishes: Wishes) -> Backend:
    """Start the backend of `model`; return when it is ready. Cancelling ends it.

    Raises MidspanError; WorkerCrashed where a signal ended its process.
    """
    if model.is_remote:
        from backends.remote.backend import RemoteBackend

        return await RemoteBackend.connect(model.name, model.settings)
    message = await asyncio.to_thread(catalogue.load_message, model, safe_mode=wishes.safe_mode)
    if engines.ENGINES[message.engine].is_server:
        from backends.llama_server import LlamaServer

        return await LlamaServer.start(
            message, wishes.on_exit, load_timeout=wishes.workers.load_timeout
        )
    message.cold_prefill_ms = wishes.cold_prefill_ms
    message.backup_bytes = wishes.backup_bytes
    return await LocalBackend.start(
        message,
        wishes.on_exit,
        command=wishes.workers.command,
        liveness=wishes.workers.liveness,
        load_timeout=wishes.workers.load_timeout,
    )
