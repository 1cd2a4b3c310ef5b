"""JSON in, JSON out, and every error in the shape of the API that was asked.

Rule: answers are compact JSON (llama.vim looks for `"content":` with no space), errors are
`{"error": {"code", "kind", "type", "message"}}`, where `kind` is the class of `backends.errors`;
under `/v1` they are OpenAI's or Anthropic's, with that `kind` in them. Must not know any endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backends.errors import BadRequest, MidspanError

# HTTP status → llama-server's name for that sort of error.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    503: "unavailable_error",
}

_ANTHROPIC_TYPES = _TYPES | {413: "request_too_large", 503: "overloaded_error"}

_encode = msgspec.json.Encoder().encode


class Refusal(MidspanError):  # noqa: N818 - named for what it does
    """A request that is refused for its form, with the status to say so."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.http_status = status
        self.kind = kind


def json_response(value: object, status: int = 200) -> Response:
    """Return `value` as compact JSON."""
    return Response(_encode(value), status, media_type="application/json")


def error_body(error: MidspanError) -> dict[str, object]:
    """Return `error` as it goes over the wire."""
    return {
        "error": {
            "code": error.http_status,
            "kind": error.kind,
            "type": _TYPES.get(error.http_status, "server_error"),
            "message": str(error),
        }
    }


def openai_error(error: MidspanError) -> dict[str, object]:
    """Return `error` as OpenAI's API has it; its `code` is our kind."""
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(error.http_status, "server_error"),
            "param": None,
            "code": error.kind,
            "kind": error.kind,
        }
    }


def anthropic_error(error: MidspanError) -> dict[str, object]:
    """Return `error` as Anthropic's API has it, with our kind."""
    kind = _ANTHROPIC_TYPES.get(error.http_status, "api_error")
    said = {"type": kind, "message": str(error), "kind": error.kind}
    return {"type": "error", "error": said, "request_id": None}


# Path → shape; the first row that begins it counts.
_SHAPES: tuple[tuple[str, Callable[[MidspanError], dict[str, object]]], ...] = (
    ("/v1/messages", anthropic_error),
    ("/v1/", openai_error),
    ("", error_body),
)


def error_response(error: MidspanError, path: str) -> Response:
    """Return the answer for `error` of a request for `path`."""
    shape = next(shape for prefix, shape in _SHAPES if path.startswith(prefix))
    response = json_response(shape(error), error.http_status)
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.http_status < 500:
        # The official clients repeat a 409 otherwise, and wait in between.
        response.headers["X-Should-Retry"] = "false"
    return response


async def on_error(request: Request, error: Exception) -> Response:
    """Turn whatever an endpoint raised into an answer."""
    path = request.url.path
    if isinstance(error, MidspanError):
        return error_response(error, path)
    if isinstance(error, HTTPException):
        kind = {404: "not_found", 405: "method"}.get(error.status_code, "error")
        message = f"{error.detail}: {request.method} {path}"
        return error_response(Refusal(error.status_code, kind, message), path)
    return error_response(MidspanError("The backend manager failed; its log says more."), path)


async def read_object(request: Request) -> dict[str, Any]:
    """Return the request's body, a JSON object. Raises Refusal or BadRequest."""
    body = await request.body()
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Refusal(400, "bad_request", f"The body is not JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def text_field(body: dict[str, Any], name: str) -> str:
    """Return the field `name` of `body`, a string that must be there. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name!r} must be a string, and is needed.")
    return value
