"""Every failure a user can meet, as one tree.

    MidspanError
    ├── BadRequest            the caller's fault: a field is wrong (HTTP 422)
    ├── UnknownModel          no model has that name (404)
    ├── Conflict              it does not fit what the manager is doing (409)
    ├── NoFim                 the model was not trained to fill in the middle (409)
    ├── Unsupported           the model or its engine has no such thing (409)
    ├── ModelFileError        missing, truncated or corrupt file, refused before native code (409)
    ├── EngineMissing         the extra that runs this model is not installed (409)
    ├── ManagerUnavailable    the backend manager cannot be reached or started (503)
    └── BackendError          the backend failed (503)
        ├── LoadFailed        the model could not be loaded
        ├── WorkerDied        the worker process ended while it was needed
        ├── WorkerTimeout     the worker does not answer
        └── RemoteError       the engine at an endpoint failed
            ├── RemoteUnreachable    no connection
            ├── RemoteTimeout        a connection, but no answer in time
            ├── RemoteUnauthorized   the key is missing or wrong
            ├── RemoteRateLimited    too many requests; it says when to come back
            ├── RemoteRefused        it refuses this request, or sends elsewhere
            ├── RemoteFailed         it failed, by its own account
            └── RemoteProtocolError  what it sent is no answer

Rule: vendor errors become one of these at the boundary (`raise X from exc`); cancellation is never
wrapped. Each class has a stable `kind`, which travels over the wire and becomes a class again.
"""

from __future__ import annotations


class MidspanError(Exception):
    """The root. `str(error)` is a sentence for the user: what is wrong and what to do."""

    kind = "error"
    http_status = 500


class BadRequest(MidspanError):
    """A field of the request is wrong."""

    kind = "bad_request"
    http_status = 422


class UnknownModel(MidspanError):
    """No model has that name."""

    kind = "unknown_model"
    http_status = 404


class Conflict(MidspanError):
    """The request does not fit what the manager is doing or what it holds."""

    kind = "conflict"
    http_status = 409


class NoFim(MidspanError):
    """The model was not trained to fill in the middle."""

    kind = "no_fim"
    http_status = 409


class Unsupported(MidspanError):
    """The model, or the engine that runs it, has no such thing."""

    kind = "unsupported"
    http_status = 409


class ModelFileError(MidspanError):
    """The model's file is missing, truncated or corrupt."""

    kind = "model_file"
    http_status = 409


class EngineMissing(MidspanError):
    """The extra that runs this model is not installed."""

    kind = "engine_missing"
    http_status = 409


class ManagerUnavailable(MidspanError):
    """The backend manager cannot be reached or started."""

    kind = "manager_unavailable"
    http_status = 503


class BackendError(MidspanError):
    """The backend failed."""

    kind = "backend"
    http_status = 503


class LoadFailed(BackendError):
    """The model could not be loaded."""

    kind = "load_failed"


class WorkerDied(BackendError):
    """The worker process ended while it was needed."""

    kind = "worker_died"


class WorkerTimeout(BackendError):
    """The worker does not answer."""

    kind = "worker_timeout"


class RemoteError(BackendError):
    """The engine at an endpoint failed."""

    kind = "remote"


class RemoteUnreachable(RemoteError):
    """There is no connection to the endpoint."""

    kind = "remote_unreachable"


class RemoteTimeout(RemoteError):
    """The endpoint was reached and did not answer in time."""

    kind = "remote_timeout"


class RemoteUnauthorized(RemoteError):
    """The endpoint wants a key, or another one. Not to be repeated."""

    kind = "remote_unauthorized"


class RemoteRateLimited(RemoteError):
    """The endpoint has had too many requests; `retry_after` is in seconds, None if it says none."""

    kind = "remote_rate_limited"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RemoteRefused(RemoteError):
    """The endpoint refuses this request, or sends it elsewhere. Not to be repeated."""

    kind = "remote_refused"


class RemoteFailed(RemoteError):
    """The endpoint failed, by its own account."""

    kind = "remote_failed"


class RemoteProtocolError(RemoteError):
    """What the endpoint sent is no answer: cut short, not text, or something else altogether."""

    kind = "remote_protocol"


def _tree(root: type[MidspanError]) -> dict[str, type[MidspanError]]:
    found = {root.kind: root}
    for child in root.__subclasses__():
        if child.__module__ == __name__:  # others are refinements that stay on their side
            found |= _tree(child)
    return found


def from_wire(kind: str, message: str) -> MidspanError:
    """Make the error that `kind` names; an unknown kind becomes a plain MidspanError."""
    return _tree(MidspanError).get(kind, MidspanError)(message)
