"""`python -m backends.serve`: the manager process.

Rule: one per user and machine, by a lock that the kernel frees with the process; it publishes its
endpoint when it can answer and withdraws it when it ends. SIGTERM and SIGINT drain, a second one
does not wait. It also ends by itself when no client has been there for a while. Must not know
models or endpoints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import logging.handlers
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn
from filelock import Timeout

from backends import __version__, catalogue, config, memory, paths, state
from backends.api.app import Activity, create_app
from backends.api.guard import Address
from backends.config import Settings
from backends.errors import ManagerUnavailable, MidspanError, ModelFileError, Unsupported
from backends.manager import Manager
from backends.remembered import Remembered, Selection
from backends.snapshot_files import SnapshotFiles
from backends.state import Endpoint

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LOG_BYTES = 1024 * 1024
KEEP_ALIVE = 24 * 3600  # seconds; an open connection is how an editor window shows it is there
END_TIMEOUT = 5  # seconds for answers under way after draining
IDLE_CHECK = 5.0  # seconds


class Server(uvicorn.Server):
    """uvicorn, with the signals left to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield


def main(arguments: list[str] | None = None, *, foreground: bool = False) -> int:
    """Run the manager until it is told to stop; the exit status.

    `foreground`: somebody reads stderr, so the log goes there too.

    0: it stopped. 1: it could not start, and stderr says why. 3: another one is running.
    """
    parser = argparse.ArgumentParser(prog="midspan serve", description=__doc__)
    parser.add_argument("--log-level", default=os.environ.get("MIDSPAN_LOG_LEVEL", "info"))
    parser.add_argument("--model", default="")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    options = parser.parse_args(arguments)
    try:
        directory = paths.runtime_dir()
        _set_up_logging(options.log_level, foreground=foreground)
        with state.lock("manager", directory).acquire(timeout=0):
            settings, problems = config.load(assignments=options.assignments)
            for problem in problems:
                logger.warning("%s", problem)
            if options.model:
                settings = _with_model(settings, options.model)
            asyncio.run(_serve(settings, directory))
    except Timeout:
        running = state.read()
        where = f" at {running.host}:{running.port}, process {running.pid}" if running else ""
        sys.stderr.write(f"A backend manager is running already{where}.\n")
        return 3
    except (MidspanError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _with_model(settings: Settings, name: str) -> Settings:
    """Return `settings` where the model `name` has the roles that it can have.

    Raises MidspanError where there is no such model, or it can be nothing.
    """
    remembered = Remembered(paths.state_dir())
    facts = catalogue.facts(catalogue.Catalogue(settings, remembered).get(name))
    if facts.problem:
        raise ModelFileError(facts.problem)
    if facts.fim is False and facts.chat is False:
        raise Unsupported(f"{name} does neither: {facts.no_fim_reason} {facts.no_chat_reason}")
    if facts.chat is not False:
        settings = replace(settings, chat=replace(settings.chat, model=name))
    if facts.fim is not False:
        settings = replace(settings, completion=replace(settings.completion, model=name))
        chosen = remembered.selection
        if chosen is not None and chosen.configured == name:  # later, in an earlier such run
            remembered.select(Selection(name, name))
    return settings


async def _serve(settings: Settings, directory: Path) -> None:
    listener = _listen(settings.manager.port)
    port: int = listener.getsockname()[1]
    token = secrets.token_urlsafe(32)
    files = _snapshot_files(settings.manager.disk_snapshot_mb * memory.MIB)
    manager = Manager(settings, Remembered(paths.state_dir()), files=files)
    activity = Activity()
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []
    unpublished: list[OSError] = []

    def publish() -> None:
        pid = os.getpid()
        started = state.process_start(pid)
        assert started is not None
        endpoint = Endpoint(HOST, port, token, pid, started, __version__, time.time())
        try:
            state.write(endpoint, directory)
        except OSError as exc:
            unpublished.append(exc)
            raise
        logger.info("listening on %s:%d", HOST, port)

    def stop(drain: bool) -> None:
        if ending or not drain:  # a second signal does not wait
            manager.hurry()
            server.should_exit = True
        if not ending:
            ending.append(loop.create_task(_end(server, manager, drain)))

    app = create_app(
        manager, Address(HOST, port, token), activity=activity, on_ready=publish, on_stop=stop
    )
    server = Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=END_TIMEOUT,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, True)
    minutes = settings.manager.idle_minutes
    watcher = asyncio.create_task(_stop_when_idle(server, manager, activity, minutes))
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn's, where the application could not start
        if not unpublished:
            raise
        raise ManagerUnavailable(
            f"Nobody can be told where the backend manager is: {directory / state.FILE_NAME} "
            f"cannot be written ({unpublished[0].strerror}). Make room on its disk."
        ) from unpublished[0]
    finally:
        watcher.cancel()
        state.remove(os.getpid(), directory)
        logger.info("stopped")


async def _end(server: Server, manager: Manager, drain: bool) -> None:
    if drain:
        logger.info("stopping: %d requests under way", manager.in_flight)
        await manager.drain()
    server.should_exit = True


async def _stop_when_idle(
    server: Server, manager: Manager, activity: Activity, minutes: float
) -> None:
    """End the manager when nobody has asked anything, or stayed connected, for `minutes`.

    A download that goes on is somebody's wish too.
    """
    limit = minutes * 60
    last_client = time.monotonic()
    while True:
        await asyncio.sleep(min(IDLE_CHECK, limit / 4))
        if server.server_state.connections or manager.downloading:
            last_client = time.monotonic()
        if min(activity.idle_seconds, time.monotonic() - last_client) >= limit:
            logger.info("stopping: no client for %g minutes", minutes)
            server.should_exit = True
            return


def _snapshot_files(cap: int) -> SnapshotFiles | None:
    """Return where to save cells of up to `cap` bytes; None where there is none."""
    if cap <= 0:
        return None
    try:
        return SnapshotFiles(paths.cells_dir(), cap)
    except (MidspanError, OSError) as exc:
        logger.warning("cells are not saved across restarts: %s", exc)
        return None


def _listen(port: int) -> socket.socket:
    """Return a listening socket on `port`, or on any free one where it is in use."""
    for candidate in (port, 0):
        # asyncio sets TCP_NODELAY only where the protocol is named; without it a call takes 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)
        except (OSError, OverflowError) as exc:
            listener.close()
            logger.warning("port %d cannot be had (%s); another is taken", candidate, exc)
        else:
            return listener
    raise ManagerUnavailable(f"No port can be had on {HOST}.")


def _set_up_logging(level: str, *, foreground: bool) -> None:
    """Log to `manager.log` in the state folder, and in the foreground to stderr."""
    logging.raiseExceptions = False  # a log that cannot be written is lost, without a word of it
    handlers: list[logging.Handler] = [logging.StreamHandler()] if foreground else []
    problem = ""
    try:
        file = paths.state_dir() / "manager.log"
        handlers.append(
            logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1)
        )
    except OSError as exc:
        problem = str(exc)
        handlers = handlers or [logging.StreamHandler()]
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for every request
    if problem:
        logger.warning("there is no log file: %s", problem)


if __name__ == "__main__":
    sys.exit(main())
