"""An endpoint's address, as the user wrote it and as requests need it.

Rule: pure. The root ends before any `/v1`, which paths of profiles bring. Must not know HTTP.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from backends.errors import BadRequest

_API_PATH = re.compile(r"/(?:v1|beta)(?:/(?:chat/)?completions)?/*$|/+$")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`root` is scheme, host, port and what the user's path has before `/v1`; no slash ends it."""

    root: str
    host: str
    loopback: bool
    encrypted: bool

    def url(self, path: str) -> str:
        """Return the address of `path`, which begins with a slash."""
        return self.root + path


def parse(address: str) -> Endpoint:
    """Return the endpoint at `address`. Raises BadRequest."""
    try:
        parts = urlsplit(address.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise BadRequest("The endpoint is no URL such as http://127.0.0.1:8080.") from exc
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest(f"The endpoint {_shown(address)} is no URL such as http://127.0.0.1:8080.")
    if "@" in parts.netloc:
        raise BadRequest("The endpoint has a user or key in it; use api_key_file or api_key_env.")
    if parts.query or parts.fragment:
        raise BadRequest("The endpoint has a query or fragment; only its base URL is wanted.")
    shown = f"[{host}]" if ":" in host else host
    where = f"{shown}:{port}" if port is not None else shown
    root = f"{parts.scheme}://{where}{_API_PATH.sub('', parts.path)}"
    return Endpoint(root, host, _is_loopback(host), parts.scheme == "https")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(address: str) -> str:
    """Return an address for a message; what may be a password in it is left out."""
    return repr(address.split("@")[-1][:100])
