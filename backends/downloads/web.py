"""HTTPS to a hub: the only place of this package that opens a connection.

Rule: https alone, but to this machine; the key goes to the endpoint's own origin and to no other,
so a redirect to where the files lie goes without it; the environment's proxies are never used.
Failures become errors of `backends.errors`. Blocking, for threads: `Cancel` ends a wait at once.
Must not know what is fetched.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

import msgspec

from backends import __version__
from backends.errors import (
    BadRequest,
    RemoteError,
    RemoteFailed,
    RemoteProtocolError,
    RemoteRateLimited,
    RemoteRefused,
    RemoteTimeout,
    RemoteUnauthorized,
    RemoteUnreachable,
    UnknownModel,
)
from backends.remote import endpoint as endpoints
from backends.remote.keys import Key
from backends.remote.retry_after import seconds

logger = logging.getLogger(__name__)

MOST_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
CONNECT_S: Final = 10.0
MAX_BODY: Final = 16 * 1024 * 1024  # bytes of an answer that is read whole
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port


class Cancelled(Exception):  # noqa: N818 - no error: somebody wished it
    """The user, or the manager's end, stopped it."""


class Cancel:
    """Stops a thread's waiting, for bytes or for time."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._socket: socket.socket | None = None

    def set(self) -> None:
        """Stop whatever is being waited for, and all that would come."""
        self._event.set()
        if (connected := self._socket) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise Cancelled if it was stopped."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Return after `seconds`. Raises Cancelled."""
        if self._event.wait(seconds):
            raise Cancelled

    def watch(self, connected: socket.socket | None) -> None:
        """Take the socket that is waited at."""
        self._socket = connected
        self.check()


@dataclass(frozen=True, slots=True)
class Options:
    """How hubs are reached. Times in seconds."""

    proxy: str = ""
    ca_file: str = ""
    silence: float = 30.0  # between two bytes
    connect: float = CONNECT_S


@dataclass(slots=True)
class Answer:
    """An answer whose body is still to be read; `said` are the headers of all hops, last wins."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    said: Mapping[str, str]
    url: str  # that answered, after redirects
    _response: http.client.HTTPResponse = field(repr=False)
    _connection: http.client.HTTPConnection = field(repr=False)
    _where: str = ""

    @property
    def origin(self) -> Origin:
        """Where the answer came from."""
        return origin(self.url)

    def read(self, most: int) -> bytes:
        """Return the next bytes as soon as there are any, b"" at the end. Raises RemoteError."""
        with failures(self._where, began=True):
            return self._response.read1(most)

    def whole(self) -> bytes:
        """Return the body. Raises RemoteError."""
        data = bytearray()
        while piece := self.read(65536):
            data += piece
            if len(data) > MAX_BODY:
                raise RemoteProtocolError(f"{self._where} sent more than any answer has.")
        return bytes(data)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Web:
    """Connections to one hub and to where it sends for its files."""

    def __init__(self, endpoint: str, key: Key, options: Options) -> None:
        """Raise BadRequest where the endpoint or the proxy is no URL that may be used."""
        place = endpoints.parse(endpoint)
        if not (place.encrypted or place.loopback):
            raise BadRequest(f"{place.root} is not encrypted: a hub needs https://.")
        self.root = place.root
        self._loopback = place.loopback
        self._origin = origin(place.root)
        self._key = key
        self._options = options
        self._proxy = _proxy(options.proxy)

    def get(
        self,
        path: str,
        cancel: Cancel,
        headers: Callable[[Origin], Mapping[str, str]] = lambda _: {},
    ) -> Answer:
        """Return the answer to GET `path`, redirects followed; `headers` are asked for by origin.

        `path` begins with a slash, or is a whole URL of this hub. Raises RemoteError, UnknownModel
        for 404, Cancelled.
        """
        url = path if "://" in path else self.root + path
        said: dict[str, str] = {}
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._exchange(url, headers(origin(url)), cancel)
            said |= answer.headers
            answer.said = said
            if answer.status not in REDIRECTS:
                return self._checked(answer)
            answer.close()
            url = self._allowed(urljoin(url, answer.headers.get("location", "")))
        raise RemoteProtocolError(f"{self.root} redirects without end.")

    def _exchange(self, url: str, headers: Mapping[str, str], cancel: Cancel) -> Answer:
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.netloc}"
        connection = self._connection(parts)
        sent = {
            "User-Agent": f"midspan/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **headers,
        }
        if origin(url) == self._origin:
            sent |= self._key.header()
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        try:
            with failures(where, began=False):
                connection.connect()
                connection.sock.settimeout(self._options.silence)
                cancel.watch(connection.sock)
                proxied = self._proxy is not None and parts.scheme == "http"
                connection.request("GET", url if proxied else target, headers=sent)
                response = connection.getresponse()
        except BaseException:
            connection.close()
            cancel.check()  # a socket that was shut down fails in many ways
            raise
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, found, url, response, connection, where)

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        first, first_port, credentials = self._proxy or (host, port, {})
        wait = self._options.connect
        if parts.scheme == "http":
            return http.client.HTTPConnection(first, first_port, timeout=wait)
        secure = http.client.HTTPSConnection(
            first, first_port, timeout=wait, context=self._authorities
        )
        if self._proxy is not None:
            secure.set_tunnel(host, port, headers=credentials)
        return secure

    @cached_property
    def _authorities(self) -> ssl.SSLContext:
        path = self._options.ca_file
        try:
            return ssl.create_default_context(cafile=path or None)
        except (OSError, ssl.SSLError) as exc:
            reason = getattr(exc, "strerror", "") or "it is no PEM file"
            raise BadRequest(f"ca_file {path} cannot be used: {reason}.") from exc

    def _allowed(self, url: str) -> str:
        """Return where a redirect leads, if it may. Raises RemoteRefused."""
        try:
            place = endpoints.parse(urlunsplit((*urlsplit(url)[:3], "", "")))
        except (BadRequest, ValueError):
            place = None
        if place is not None and (self._loopback if place.loopback else place.encrypted):
            return url
        raise RemoteRefused(
            f"{self.root} redirects to {place.root if place else 'what is no URL'}, which is not "
            "encrypted, or not where a hub may send: that was refused."
        )

    def _checked(self, answer: Answer) -> Answer:
        if answer.status in (200, 206, 416):
            return answer
        try:
            body = answer.read(4096) if "json" in answer.headers.get("content-type", "") else b""
        except RemoteError:
            body = b""
        answer.close()
        logger.info("%s answered %d", answer.origin[1], answer.status)
        said = answer.headers.get("x-error-message") or _message(body)
        shown = f" It says: {self._key.struck_from(' '.join(said.split()))[:200]}" if said else ""
        raise _failure(self.root, answer, bool(self._key.value), shown)


def origin(url: str) -> Origin:
    """Return scheme, host and port of `url`."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS[parts.scheme]


def _message(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    error = said.get("error") if isinstance(said, dict) else None
    return error if isinstance(error, str) else ""


def _failure(root: str, answer: Answer, has_key: bool, said: str) -> Exception:
    status, code = answer.status, answer.headers.get("x-error-code", "")
    if code == "GatedRepo":
        return RemoteUnauthorized(
            f"{root} gives this model only to those who accepted its terms: do that on its page, "
            f"then put your key into HF_TOKEN, or name it in [downloads].{said}"
        )
    # Without a key the hub does not say whether there is such a repository.
    if status == 404 or code == "RepoNotFound":
        private = "" if has_key else " A private one needs your key in HF_TOKEN."
        return UnknownModel(f"{root} has no such repository, revision or file.{private}{said}")
    if status in (401, 403):
        what = "refuses the key" if has_key else "wants a key: put yours into HF_TOKEN"
        return RemoteUnauthorized(f"{root} {what} ({status}).{said}")
    if status == 429:
        wait = seconds(answer.headers.get("retry-after", ""))
        return RemoteRateLimited(f"{root} has had too many requests (429).{said}", wait)
    if status >= 500:
        return RemoteFailed(f"{root} failed ({status}).{said}")
    return RemoteRefused(f"{root} refuses the request ({status}).{said}")


@contextlib.contextmanager
def failures(where: str, *, began: bool) -> Iterator[None]:
    """Turn the standard library's errors into ours; `began`: a part of the answer is there."""
    try:
        yield
    except TimeoutError as exc:
        raise RemoteTimeout(f"{where} does not answer.") from exc
    except ssl.SSLCertVerificationError as exc:
        raise RemoteRefused(
            f"{where} has a certificate that is not trusted: {exc.verify_message}. If it is your "
            "own, name its authority in [downloads] ca_file."
        ) from exc
    except (http.client.HTTPException, ValueError) as exc:
        # ValueError: the file was closed by a cancel.
        raise RemoteProtocolError(f"{where} sent no HTTP that can be read.") from exc
    except OSError as exc:
        if began:
            raise RemoteProtocolError(f"{where} ended the connection in mid-answer.") from exc
        reason = exc.strerror or type(exc).__name__
        raise RemoteUnreachable(f"{where} cannot be reached: {reason}.") from exc


def _proxy(url: str) -> tuple[str, int, dict[str, str]] | None:
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if not host:
        raise BadRequest("[downloads] proxy is no URL such as http://127.0.0.1:3128.")
    if not parts.username:
        return host, port, {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return host, port, {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}
