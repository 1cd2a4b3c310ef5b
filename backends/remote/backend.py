"""`RemoteBackend`: an engine elsewhere, behind the same seam as a local worker.

Rule: made by `connect`, which finds out what the endpoint is; from then on requests go to that one
endpoint alone. Whatever it does, each request ends, with an error of `backends.errors` where it
failed. Must not know which models exist, nor what is done about an endpoint that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.backend import (
    Capabilities,
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Usage,
)
from backends.config import ModelSettings
from backends.errors import (
    BackendError,
    BadRequest,
    NoFim,
    RemoteError,
    RemoteRateLimited,
    RemoteTimeout,
    RemoteUnauthorized,
    Unsupported,
)
from backends.remote import counting, keys
from backends.remote import endpoint as endpoints
from backends.remote.flights import Flights
from backends.remote.profiles import PROFILES
from backends.remote.prompting import Prompter

if TYPE_CHECKING:
    from backends.remote.probe import Probed
    from backends.remote.transport import Connection, Options

logger = logging.getLogger(__name__)

WINDOWS = (256, 512, 1024, 2048, 4096)  # tokens of the document that are shown
COLD_PREFILL_MS = 1000.0
HEALTH_TIMEOUT = 5.0  # seconds
REFUSED_FOR = 60.0  # seconds that a refused key is not tried again
LIMITED_FOR = 2.0  # seconds without requests at the cursor, where a rate limit names none


class RemoteBackend:
    """A model at an endpoint. Made by `connect`; ended by `close`."""

    def __init__(self, connection: Connection, probed: Probed, settings: ModelSettings) -> None:
        # They need httpx2, which the core is installed without.
        from backends.remote.chatting import Chatting
        from backends.remote.completing import Completing

        prompter = Prompter(
            probed.template,
            probed.capabilities.context_length,
            probed.profile.healing,
            probed.tokenizer,
        )
        self._connection = connection
        self._probed = probed
        self._completing = Completing(connection, probed, prompter)
        self._chatting = Chatting(connection, probed, settings.reasoning_effort)
        self._flights = Flights()
        # What tells sessions apart out there must not tell what they are.
        self._salt = secrets.token_urlsafe(24)
        self._refused: RemoteError | None = None
        self._refused_until = 0.0

    @classmethod
    async def connect(
        cls,
        name: str,
        settings: ModelSettings,
        *,
        token: str = "",
        http: Options | None = None,
    ) -> RemoteBackend:
        """Find out what serves `name` at `settings.endpoint`, and return when it answered.

        `token` is its key where the settings name none. Raises MidspanError: BadRequest for wrong
        settings, EngineMissing, UnknownModel, or a RemoteError.
        """
        from backends.remote.probe import probe
        from backends.remote.transport import Connection, Options

        if settings.profile and settings.profile not in PROFILES:
            raise BadRequest(
                f"There is no profile {settings.profile!r}; there are {', '.join(PROFILES)}."
            )
        row = PROFILES.get(settings.profile)
        address = settings.endpoint or (row.endpoint if row else "")
        if not address:
            raise BadRequest(f"The model {name} has no endpoint.")
        where = endpoints.parse(address)
        # A key in a well-known variable is for that one provider, wherever else a profile is used.
        own = row is not None and bool(row.endpoint) and where == endpoints.parse(row.endpoint)
        key_env = row.key_env if row is not None and own else ""
        key = keys.checked(token)
        if not key.value:
            key = await asyncio.to_thread(keys.find, settings, key_env, os.environ)
        if key.value and not (where.encrypted or where.loopback):
            logger.warning("the key for %s goes over the network unencrypted", where.root)
        http = http or Options()
        http = replace(
            http,
            proxy=settings.proxy,
            ca_file=settings.ca_file,
            first_token=settings.timeout_s,
            retries=settings.retries,
        )
        connection = Connection(where, key, http)
        try:
            probed = await probe(connection, name, settings)
        except BaseException:
            await connection.close()
            raise
        connection.allow_header(probed.profile.session_header)
        logger.info("%s: %s", name, probed.description)
        return cls(connection, probed, settings)

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do there."""
        return self._probed.capabilities

    @property
    def description(self) -> str:
        """The model, the engine and where it is."""
        return self._probed.description

    @property
    def pid(self) -> int | None:
        """None: it runs elsewhere, or is somebody else's."""
        return None

    @property
    def memory_bytes(self) -> int:
        """None of this machine's that midspan counts."""
        return 0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._flights)

    async def infill(self, request: InfillRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the completion. A newer request for the same document cancels this one.

        A cancelled one still ends with a chunk, unless its iterator was closed.
        """
        profile = self._probed.profile
        if not self.capabilities.fim:
            raise NoFim(self.capabilities.no_fim_reason)
        if request.steering:
            raise Unsupported("Steering vectors work on local models alone.")
        if profile.hosted and request.ahead:
            raise Unsupported("Nothing is asked for ahead of its time where it is billed.")
        self._raise_if_refused()
        if profile.hosted and request.max_tokens == 0:
            yield Chunk("", finish_reason=FinishReason.LENGTH, usage=Usage())
            return

        fields, headers = self._session(request.document)
        window = self._window(request)
        chunks = self._flights.run(
            request.document,
            request.deadline_ms,
            lambda flight: self._completing.stream(flight, request, window, fields, headers),
        )
        async with aclosing(chunks):
            with self._remembering_refusals():
                async for chunk in chunks:
                    yield chunk

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the answer. A newer request of the same session cancels this one."""
        if request.steering:
            raise Unsupported("Steering vectors work on local models alone.")
        self._raise_if_refused(RemoteUnauthorized)
        fields, headers = self._session(request.session)
        identity = None if request.session is None else f"chat {request.session}"
        chunks = self._flights.run(
            identity,
            request.deadline_ms,
            lambda flight: (
                self._counted(request)
                if request.count_only
                else self._chatting.stream(flight, request, fields, headers)
            ),
        )
        async with aclosing(chunks):
            with self._remembering_refusals():
                async for chunk in chunks:
                    yield chunk

    async def _counted(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        number = await counting.count(self._connection, self._probed, request)
        yield Chunk("", finish_reason=FinishReason.LENGTH, usage=Usage(number))

    async def health(self) -> None:
        """Return if the endpoint answers. Raises BackendError."""
        self._flights.raise_if_closed()
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self._connection.json("GET", self._probed.profile.models)
        except TimeoutError as exc:
            raise RemoteTimeout(
                f"{self._connection.endpoint.root} did not answer within {HEALTH_TIMEOUT:.0f} s."
            ) from exc

    async def drain(self, limit: float) -> None:
        """Let requests finish for `limit` seconds, then cancel them."""
        await self._flights.drain(limit)

    async def close(self) -> None:
        """Close the connections. Requests under way fail."""
        self._flights.close(BackendError("The model was unloaded."))
        await self._connection.close()

    def _window(self, request: InfillRequest) -> int:
        """Return how many tokens of the document to show, as fast as the engine turned out."""
        rate = self._completing.rate.value
        if not rate:
            return self._probed.profile.window
        affordable = rate * (request.prompt_ms or COLD_PREFILL_MS) / 1000
        return max((size for size in WINDOWS if size <= affordable), default=WINDOWS[0])

    def _session(self, identity: str | None) -> tuple[dict[str, str], dict[str, str]]:
        """Return the fields and headers that keep requests of a document together."""
        profile = self._probed.profile
        fields = {profile.salt_field: self._salt} if profile.salt_field else {}
        if identity is None:
            return fields, {}
        name = hashlib.sha256(f"{self._salt}\0{identity}".encode()).hexdigest()[:32]
        if profile.session_field:
            fields[profile.session_field] = name
        return fields, {profile.session_header: name} if profile.session_header else {}

    def _raise_if_refused(self, kind: type[RemoteError] = RemoteError) -> None:
        """Raise again what the endpoint said that is still true, without asking it."""
        if isinstance(self._refused, kind) and time.monotonic() < self._refused_until:
            raise type(self._refused)(str(self._refused))

    @contextlib.contextmanager
    def _remembering_refusals(self) -> Iterator[None]:
        try:
            yield
        except RemoteUnauthorized as exc:
            logger.warning("%s", exc)
            self._refused, self._refused_until = exc, time.monotonic() + REFUSED_FOR
            raise
        except RemoteRateLimited as exc:
            wait = LIMITED_FOR if exc.retry_after is None else exc.retry_after
            self._refused, self._refused_until = exc, time.monotonic() + wait
            raise
