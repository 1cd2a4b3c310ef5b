"""Frames between the language server and a child in the sandbox: a JSON header and bytes.

Rule: standard library only; both sides use it; a header and a payload over the limit are refused
before they are read. Never a pickle. Must not know what the frames say.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, BinaryIO

SIZES = struct.Struct("<IQ")
MAX_HEADER = 8 * 2**20

Header = dict[str, Any]


def encode(header: Header, payload: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(header).encode()
    return SIZES.pack(len(text), len(payload)) + text + payload


def sizes(head: bytes, limit: int) -> tuple[int, int]:
    """Read the lengths of header and payload; ValueError when they are over the limit (bytes)."""
    header, payload = SIZES.unpack(head)
    if header > MAX_HEADER or payload > limit:
        raise ValueError("a frame is larger than allowed")
    return header, payload


def decode(text: bytes) -> Header:
    """A frame's header; ValueError when it is no JSON object."""
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("a frame's header is no object")
    return header


class Pipe:
    """A child's side: frames on stdin and stdout, while prints go to stderr."""

    def __init__(self) -> None:
        self._input: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._output: BinaryIO = os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)

    def read(self) -> tuple[Header, bytes]:
        """Wait for a frame. EOFError when there are no more."""
        head = self._exactly(SIZES.size)
        header, payload = sizes(head, 2**32)
        return decode(self._exactly(header)), self._exactly(payload)

    def write(self, header: Header, payload: bytes = b"") -> None:
        """Send a frame."""
        self._output.write(encode(header, payload))
        self._output.flush()

    def _exactly(self, count: int) -> bytes:
        data = self._input.read(count)
        if len(data) < count:
            raise EOFError
        return data
