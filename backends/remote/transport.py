"""The HTTP connection to one endpoint, and to nothing else.

Rule: every request of a backend goes through `_Guarded`, whoever makes it: it refuses any other
origin, sends no header that is not listed here, is the only one to know the key, and bounds what
comes back. Redirects are never followed, the environment's proxies never used. Failures become
errors of `backends.errors`. Must not know engines or prompts.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from backends.errors import (
    BadRequest,
    EngineMissing,
    RemoteError,
    RemoteFailed,
    RemoteProtocolError,
    RemoteRateLimited,
    RemoteRefused,
    RemoteTimeout,
    RemoteUnauthorized,
    RemoteUnreachable,
)
from backends.remote import overflow
from backends.remote.endpoint import Endpoint
from backends.remote.keys import Key
from backends.remote.overflow import ContextExceeded
from backends.remote.retry_after import seconds

try:
    import httpx2
except ImportError as missing:  # the core is installed without it
    raise EngineMissing(
        "Remote engines need the openai package: pip install 'midspan[remote]'."
    ) from missing

if TYPE_CHECKING:
    from httpx2 import Request, Response

MAX_LINE = 256 * 1024  # bytes; llama-server's last event, the longest there is, has a few KiB
MAX_ANSWER = 16 * 1024 * 1024  # bytes of one response
MAX_ERROR = 16 * 1024  # bytes of an error's body that are looked at
MAX_REASON = 200  # characters of it that are shown
IDLE = 2  # connections that are kept for the next requests
SENT_HEADERS = frozenset(
    ["host", "content-type", "content-length", "transfer-encoding", "accept", "connection"]
)
STREAM_TYPES = ("text/event-stream", "application/x-ndjson", "application/jsonlines")


@dataclass(frozen=True, slots=True)
class Options:
    """How the endpoint is reached. Times in seconds."""

    proxy: str = ""
    ca_file: str = ""
    connect: float = 5.0
    first_token: float = 20.0  # from a request to the first byte of its answer
    silence: float = 60.0  # between two bytes of an answer
    retries: int = 2
    pause: float = 0.25  # before the first repetition


class _Bounded(httpx2.AsyncByteStream):
    """A response's bytes, ended by an error where they are more than any answer has."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = line = 0
        async for data in self._stream:
            total += len(data)
            end = data.rfind(b"\n")
            line = line + len(data) if end < 0 else len(data) - end - 1
            if total > MAX_ANSWER or line > MAX_LINE:
                raise RemoteProtocolError(
                    f"The endpoint sent a line of more than {MAX_LINE // 1024} KiB, or no end at "
                    "all; that is no answer."
                )
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Guarded(httpx2.AsyncBaseTransport):
    """Lets requests to one origin through, with the key; see the module's rule."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, endpoint: Endpoint, key: Key) -> None:
        self._inner = inner
        self._origin = httpx2.Origin(endpoint.root)
        self._key = key
        self.headers = set(SENT_HEADERS)

    async def handle_async_request(self, request: Request) -> Response:
        if httpx2.Origin(request.url) != self._origin:
            raise RemoteRefused("A request to another host than the endpoint was stopped.")
        for name in list(request.headers):
            if name.lower() not in self.headers:
                del request.headers[name]
        request.headers["User-Agent"] = "midspan"
        request.headers["Accept-Encoding"] = "identity"  # nothing that grows when it is unpacked
        request.headers.update(self._key.header())
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Connection:
    """The endpoint's connections. `client` is for the openai package; it cannot do more."""

    def __init__(self, endpoint: Endpoint, key: Key, options: Options) -> None:
        """Raise BadRequest where the proxy or the authorities' file is none."""
        self.endpoint = endpoint
        self.options = options
        self._key = key
        try:
            inner = httpx2.AsyncHTTPTransport(
                verify=_authorities(endpoint, options),
                proxy=options.proxy or None,
                trust_env=False,
                # Each one that is kept holds a thread of llama-server, which has three or a few
                # more: with none left, the next request waits five seconds until it ends one.
                limits=httpx2.Limits(
                    max_connections=64, max_keepalive_connections=IDLE, keepalive_expiry=30.0
                ),
            )
        except (ValueError, httpx2.InvalidURL) as exc:
            raise BadRequest("The proxy is no URL such as http://127.0.0.1:3128.") from exc
        self._guarded = _Guarded(inner, endpoint, key)
        self.client = httpx2.AsyncClient(
            transport=self._guarded,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(
                options.silence, connect=options.connect, pool=options.first_token
            ),
        )

    def allow_header(self, name: str) -> None:
        """Let requests carry one more header."""
        self._guarded.headers.add(name.lower())

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON that `path` answers, and the answer's headers. Raises RemoteError."""
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        with self.failures(began=False):
            response = await self.client.request(
                method, self.endpoint.url(path), content=content, headers=headers
            )
            if response.status_code != 200:
                raise self.failure(response.status_code, response.headers, response.content)
            if not response.headers.get("Content-Type", "").startswith("application/json"):
                raise self.no_answer(response.headers)
            try:
                return msgspec.json.decode(response.content), response.headers
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise RemoteProtocolError("The endpoint sent something that is no JSON.") from exc

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Post `body`; return the response when its stream begins. Raises RemoteError.

        Closing the response cancels whatever the endpoint does for it.
        """
        request = self.client.build_request(
            "POST",
            self.endpoint.url(path),
            content=body,
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **headers},
        )
        with self.failures(began=False):
            response = await self.client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    text = await _beginning(response)
                    raise self.failure(response.status_code, response.headers, text)
                if not response.headers.get("Content-Type", "").startswith(STREAM_TYPES):
                    raise self.no_answer(response.headers)
            except BaseException:
                await response.aclose()
                raise
        return response

    async def read(self, response: Response) -> AsyncGenerator[bytes, None]:
        """Yield a response's bytes as they come, and close it. Raises RemoteError."""
        try:
            with self.failures():
                async for data in response.aiter_raw():
                    yield data
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()

    @contextlib.contextmanager
    def failures(self, *, began: bool = True) -> Iterator[None]:
        """Turn httpx2's errors into ours; `began`: a part of the answer is there."""
        try:
            yield
        except httpx2.ConnectTimeout as exc:
            raise RemoteUnreachable(
                f"{self.endpoint.root} cannot be reached within {self.options.connect:.0f} s."
            ) from exc
        except httpx2.TimeoutException as exc:
            raise RemoteTimeout(f"{self.endpoint.root} does not answer.") from exc
        except httpx2.ProxyError as exc:
            raise RemoteUnreachable(f"The proxy does not lead to {self.endpoint.root}.") from exc
        except httpx2.ConnectError as exc:
            raise RemoteUnreachable(self._unreachable(str(exc))) from exc
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as exc:
            if began:
                raise RemoteProtocolError(
                    f"{self.endpoint.root} ended the connection before its answer's end."
                ) from exc
            raise RemoteUnreachable(
                f"{self.endpoint.root} ended the connection without an answer."
            ) from exc
        except httpx2.HTTPError as exc:
            raise RemoteProtocolError(
                f"{self.endpoint.root} sent no HTTP that can be read."
            ) from exc

    def _unreachable(self, reason: str) -> str:
        through = " through the proxy that is set" if self.options.proxy else ""
        text = f"{self.endpoint.root} cannot be reached{through}: {self._clean(reason)}."
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            text += " If its certificate is of an authority of your own, set ca_file to that."
        return text

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> RemoteError:
        """Return the error for an HTTP status other than 200, which the user can act on."""
        root = self.endpoint.root
        if 300 <= status < 400:
            return RemoteRefused(
                f"{root} redirects ({status}); midspan follows no redirect. Set the endpoint to "
                "where it leads, if you trust that."
            )
        error = _decoded(headers, body)
        said = self._shown(_message(error))
        if status in (401, 403):
            what = "takes no request without a key" if not self._key.value else "refuses the key"
            return RemoteUnauthorized(
                f"{root} {what} ({status}); set api_key_env, api_key_file or api_key_keyring.{said}"
            )
        if status == 429:
            wait = seconds(headers.get("Retry-After", ""))
            when = "" if wait is None else f" It asks to wait {wait:.0f} s."
            return RemoteRateLimited(f"{root} has had too many requests (429).{when}{said}", wait)
        if status >= 500:
            return RemoteFailed(f"{root} failed ({status}).{said}")
        if status in overflow.STATUSES and (found := self._overflow(error)):
            return found
        return RemoteRefused(f"{root} refuses the request ({status}).{said}")

    def complaint(self, error: object) -> RemoteError:
        """Return the error for one that the endpoint sent in place of an answer."""
        if found := self._overflow(error):
            return found
        return RemoteFailed(f"{self.endpoint.root} failed.{self._shown(_message(error))}")

    def no_answer(self, headers: Mapping[str, str]) -> RemoteProtocolError:
        """Return the error for a body of another kind, such as a page for browsers."""
        kind = headers.get("Content-Type", "nothing").split(";")[0][:60]
        return RemoteProtocolError(
            f"{self.endpoint.root} sent {kind} in place of an answer; is the endpoint right?"
        )

    def _overflow(self, error: object) -> ContextExceeded | None:
        """Return the error for a request that was longer than the context, if it is that."""
        message = _message(error)
        if (found := overflow.read(error, message)) is None:
            return None
        length = f" of {found[0]} tokens" if found[0] else ""
        return ContextExceeded(
            f"The request is longer than the context{length} that the model has at "
            f"{self.endpoint.root}.{self._shown(message)}",
            *found,
        )

    def _shown(self, message: str) -> str:
        return f" It says: {self._clean(message)}" if message else ""

    def _clean(self, text: str) -> str:
        line = " ".join(self._key.struck_from(text).split())
        return line if len(line) <= MAX_REASON else line[:MAX_REASON] + "…"


def _decoded(headers: Mapping[str, str], body: bytes) -> object:
    """Return the JSON of an error's body; a page for browsers has nothing worth showing: None."""
    if "json" not in headers.get("Content-Type", ""):
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _message(value: object) -> str:
    """Return the text of an error object, in the spellings there are; "" where it has none.

    Lists (FastAPI's validation errors) are left out: they repeat the request.
    """
    while isinstance(value, dict):
        value = next(
            (value[name] for name in ("error", "message", "detail") if value.get(name)), None
        )
    return value if isinstance(value, str) else ""


def _authorities(endpoint: Endpoint, options: Options) -> ssl.SSLContext | bool:
    if not endpoint.encrypted:
        return False  # nothing to verify; making a context takes long
    if not options.ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as exc:
        reason = exc.strerror or "it is no PEM file"
        raise BadRequest(f"ca_file {options.ca_file} cannot be used: {reason}.") from exc


async def _beginning(response: Response) -> bytes:
    """Return the first bytes of a response's body."""
    data = b""
    async for piece in response.aiter_raw():
        data += piece
        if len(data) >= MAX_ERROR:
            break
    return data[:MAX_ERROR]
