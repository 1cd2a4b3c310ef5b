"""The gate in front of every HTTP request.

Rule: a request passes only with a Host header that is exactly ours (a web page that rebinds its
name to 127.0.0.1 has another), no Origin or ours, the token (as bearer or, as Anthropic's API has
it, in `x-api-key`) but for the fixed files of a page, and for a POST a JSON body of limited size.
No CORS header is ever sent. Pure ASGI; must not know what lies behind it.
"""

from __future__ import annotations

import hmac
from collections.abc import Container
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.api.answers import Refusal, error_response

MAX_BODY = 16 * 1024 * 1024  # bytes

_HOST = Refusal(403, "forbidden", "The Host header is not this server's address.")
_ORIGIN = Refusal(403, "forbidden", "Requests from web pages of other origins are refused.")
_TOKEN = Refusal(401, "unauthorized", "The bearer token is missing or wrong.")
_TYPE = Refusal(415, "content_type", "The body must be application/json.")
_SIZE = Refusal(413, "too_large", f"The body is over the limit of {MAX_BODY} bytes.")


@dataclass(frozen=True, slots=True)
class Address:
    """What this server is called, and the token it asks for."""

    host: str
    port: int
    token: str

    @property
    def hosts(self) -> frozenset[bytes]:
        """The Host headers that mean this server."""
        return frozenset(f"{name}:{self.port}".encode() for name in (self.host, "localhost"))


class Guard:
    """ASGI middleware that refuses what must not come in."""

    def __init__(self, app: ASGIApp, address: Address, public: Container[str] = ()) -> None:
        self._app = app
        self._public = public  # paths that may be read without the token
        self._hosts = address.hosts
        self._origins = frozenset(b"http://" + host for host in address.hosts)
        token = address.token.encode()
        self._secrets = {b"authorization": b"Bearer " + token, b"x-api-key": token}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with a body that is cut off at the limit."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")  # closes the connection
        if (refusal := self._refusal(scope)) is not None:
            await error_response(refusal, scope["path"])(scope, receive, send)
            return
        await self._app(scope, _limited(receive), send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _HOST
        if not self._origins.issuperset(headers.get(b"origin", [])):
            return _ORIGIN
        fixed = scope["method"] in ("GET", "HEAD") and scope["path"] in self._public
        if not fixed and not self._has_token(headers):
            return _TOKEN
        if scope["method"] == "POST":
            media = b",".join(headers.get(b"content-type", [])).split(b";")[0].strip().lower()
            if media != b"application/json":
                return _TYPE
        length = headers.get(b"content-length", [b"0"])[0]
        if not length.isdigit() or int(length) > MAX_BODY:
            return _SIZE
        return None

    def _has_token(self, headers: dict[bytes, list[bytes]]) -> bool:
        """Whether the token is given at least once, and nothing else in its place."""
        given = [(name, value) for name in self._secrets for value in headers.get(name, [])]
        right = [hmac.compare_digest(value, self._secrets[name]) for name, value in given]
        return len({name for name, _ in given}) == len(given) > 0 and all(right)


def _limited(receive: Receive) -> Receive:
    """Count the body as it comes: a chunked one announces no length."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise _SIZE
        return message

    return limited
