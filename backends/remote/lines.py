"""From a response's bytes to the JSON objects in it: server-sent events, or one object per line.

Rule: strict. What is no UTF-8 or no JSON object raises RemoteProtocolError; nothing is guessed or
replaced. Lengths are bounded by `transport`. Must not know what the objects mean.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.errors import RemoteProtocolError


class Lines:
    """Cuts a stream of bytes into lines, however it arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.removesuffix(b"\r") for line in lines]


class Events:
    """Decodes a stream's objects; `done` once the stream said that it is over."""

    def __init__(self, *, plain: bool = False) -> None:
        """`plain`: an object per line, in place of server-sent events."""
        self.done = False
        self._plain = plain
        self._lines = Lines()
        self._data: list[bytes] = []

    def push(self, data: bytes) -> list[dict[str, Any]]:
        """Return the objects that `data` completes. Raises RemoteProtocolError."""
        found = []
        for line in self._lines.push(data):
            event = self._event(line)
            if event == b"[DONE]":
                self.done = True
            elif event:
                found.append(decoded(event))
        return found

    def _event(self, line: bytes) -> bytes:
        """Return the event that `line` ends, b"" while there is none."""
        if self._plain:
            return line.strip()
        if not line:
            event, self._data = b"\n".join(self._data), []
            return event
        name, _, value = line.partition(b":")
        # llama-server and others have sent failures in mid-stream under a name of their own.
        if name in (b"data", b"error"):
            self._data.append(value.removeprefix(b" "))
        return b""


def decoded(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises RemoteProtocolError."""
    try:
        value = msgspec.json.decode(data)
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError("The endpoint sent bytes that are no UTF-8.") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RemoteProtocolError("The endpoint sent something that is no JSON.") from exc
    if not isinstance(value, dict):
        raise RemoteProtocolError("The endpoint sent JSON that is no object.")
    return value
