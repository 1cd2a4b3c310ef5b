"""The HTTP API, put together: routes behind the guard.

Rule: the only list of endpoints. Must not know sockets or signals.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.api import anthropic, downloads, management, openai, page
from backends.api.answers import on_error
from backends.api.compare import compare
from backends.api.guard import Address, Guard
from backends.api.infill import infill
from backends.api.sessions import Sessions
from backends.errors import MidspanError
from backends.manager import Manager

ROUTES = (
    *(Route(path, page.file) for path in page.FILES),
    Route("/infill", infill, methods=["POST"]),
    Route("/v1/chat/completions", openai.chat_completions, methods=["POST"]),
    Route("/v1/completions", openai.completions, methods=["POST"]),
    Route("/v1/messages", anthropic.messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", anthropic.count_tokens, methods=["POST"]),
    Route("/v1/models", openai.models),
    Route("/v1/models/{name}", openai.model),
    Route("/health", management.health),
    Route("/api/models/available", management.available),
    Route("/api/models/status", management.status),
    Route("/api/models/current", management.current),
    Route("/api/models/select", management.select, methods=["POST"]),
    Route("/api/models/add", management.add, methods=["POST"]),
    Route("/api/models/remove", management.remove, methods=["POST"]),
    Route("/api/models/catalogue", downloads.catalogue),
    Route("/api/models/recommend", downloads.recommend),
    Route("/api/models/compare", compare),
    Route("/api/models/download", downloads.download, methods=["POST"]),
    Route("/api/models/download/cancel", downloads.cancel, methods=["POST"]),
    Route("/api/models/downloads", downloads.downloads),
    Route("/api/models/verify", downloads.verify, methods=["POST"]),
    Route("/api/models/delete", downloads.delete, methods=["POST"]),
    Route("/api/manager/stop", management.stop, methods=["POST"]),
    Route("/api/manager/restart-worker", management.restart_worker, methods=["POST"]),
)


class Activity:
    """ASGI middleware that knows how long nothing has been asked."""

    def __init__(self) -> None:
        self._active = 0
        self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request ended; 0 while one is under way."""
        return 0.0 if self._active else time.monotonic() - self._last

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, watched."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":  # the lifespan is as long as the manager's
                await app(scope, receive, send)
                return
            self._active += 1
            try:
                await app(scope, receive, send)
            finally:
                self._active -= 1
                self._last = time.monotonic()

        return watched


def create_app(
    manager: Manager,
    address: Address,
    *,
    activity: Activity,
    on_ready: Callable[[], None],
    on_stop: Callable[[bool], None],
) -> Starlette:
    """Return the application; it closes `manager` when it ends.

    `on_ready` is called when requests can come, `on_stop(drain)` when a client asks for the end.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        on_ready()
        try:
            yield
        finally:
            await manager.close()

    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(activity.around),
            Middleware(Guard, address=address, public=page.FILES),
        ],
        exception_handlers={MidspanError: on_error, HTTPException: on_error, Exception: on_error},
        lifespan=lifespan,
    )
    app.state.manager = manager
    app.state.sessions = Sessions()
    app.state.stop = on_stop
    return app
