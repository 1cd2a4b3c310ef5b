"""The wire to the editor: bytes on stdin and stdout, messages inside.

Rule: nothing but this module touches the two file descriptors, and nothing that another part does
(a print, a native library's message, a full pipe) can corrupt the stream or stop the event loop.
Standard library only, and little of it: it is imported before everything else. Knows no JSON.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)

MAX_MESSAGE = 256 * 1024 * 1024  # bytes; far above any document that is completed
MAX_HEADER = 8 * 1024
MAX_UNSENT = 64 * 1024 * 1024  # bytes a client may leave unread before it is given up
_READ_SIZE = 64 * 1024
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?$", re.I | re.M)
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_RESYNC = re.compile(rb"content-length[ \t]*:", re.I)


@dataclass(frozen=True, slots=True)
class Body:
    """One message's content."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes that are no message were skipped; `reason` is for the log and holds none of them."""

    reason: str


class MessageParser:
    """Cuts the incoming bytes into messages. Pure: `feed` bytes, get what is complete.

    A wrong length cannot be seen as such, but is survived: what is no header is skipped up to the
    next `Content-Length:`.
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._max = max_message
        self._buffer = bytearray()
        self._missing: int | None = None  # length of the body being read; None: in a header
        self._skip = 0  # bytes of a refused body still to come

    def feed(self, data: bytes) -> Iterator[Body | Garbage]:
        """Take bytes; give the messages, and the mishaps, that they complete."""
        self._buffer += data
        while True:
            if self._skip:
                dropped = min(self._skip, len(self._buffer))
                del self._buffer[:dropped]
                self._skip -= dropped
                if self._skip:
                    return
            if self._missing is None:
                event = self._header()
                if event is not None:
                    yield event
                    continue
                if self._missing is None:
                    return
            if len(self._buffer) < self._missing:
                return
            body = bytes(self._buffer[: self._missing])
            del self._buffer[: self._missing]
            self._missing = None
            yield Body(body)

    def _header(self) -> Garbage | None:
        """Read a header if there is a whole one: sets the length, or says what is wrong."""
        blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
        del self._buffer[:blank]
        end = _HEADER_END.search(self._buffer)
        if end is None:
            if len(self._buffer) > MAX_HEADER:
                return self._resynchronise(f"no header in {len(self._buffer)} bytes")
            return None
        found = _LENGTH.search(self._buffer, 0, end.start())
        if found is None:
            return self._resynchronise("a header without a Content-Length", end.end())
        length = int(found.group(1))
        if found.start() and self._buffer[0] in b"{[":
            # The rest of a body whose length was too short, with the next header behind it.
            del self._buffer[: found.start()]
            return Garbage("the content was longer than its Content-Length")
        del self._buffer[: end.end()]
        if length > self._max:
            self._skip = length
            return Garbage(f"a message of {length} bytes is over the limit of {self._max}")
        self._missing = length
        return None

    def _resynchronise(self, reason: str, skip: int = 1) -> Garbage:
        """Drop what comes before the next header, and at least `skip` bytes if there is none."""
        following = _RESYNC.search(self._buffer, 1)
        if following is not None:
            del self._buffer[: following.start()]
        else:  # keep what may be the beginning of the next header
            del self._buffer[: max(skip, len(self._buffer) - 32)]
        return Garbage(reason)


def claim() -> tuple[int, int]:
    """Take stdin and stdout for the protocol; return their new descriptors (reading, writing).

    From here on file descriptor 1 is stderr, so that a stray print lands in the editor's log, and
    descriptor 0 is empty, so that no child process eats the editor's messages.
    """
    sys.stdout.flush()
    reading, writing = os.dup(0), os.dup(1)
    for descriptor in (reading, writing):
        os.set_inheritable(descriptor, False)
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return reading, writing


class Reader:
    """Reads messages on a thread of its own and hands each to `deliver`, in that thread.

    `deliver(None)` is the end of the input.
    """

    def __init__(self, descriptor: int, deliver: Callable[[Body | Garbage | None], None]) -> None:
        self._descriptor = descriptor
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name="lsp-reader", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def _run(self) -> None:
        parser = MessageParser()
        try:
            while data := os.read(self._descriptor, _READ_SIZE):
                for event in parser.feed(data):
                    self._deliver(event)
        except OSError as exc:
            logger.warning("reading from the client failed: %s", exc)
        self._deliver(None)


class Writer:
    """Writes on a thread of its own: `write` never waits for the client.

    A client that leaves `max_unsent` bytes unread, or is gone, is lost: `on_lost(reason)` is
    called once, in the thread that noticed, and everything further is dropped.
    """

    def __init__(
        self, descriptor: int, on_lost: Callable[[str], None], max_unsent: int = MAX_UNSENT
    ) -> None:
        self._descriptor = descriptor
        self._on_lost = on_lost
        self._max = max_unsent
        self._queue: deque[bytes] = deque()
        self._unsent = 0
        self._closing = False
        self._lost = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lsp-writer", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""
        with self._changed:
            if self._closing or self._lost:
                return
            self._queue.append(data)
            self._unsent += len(data)
            overflow = self._unsent > self._max
            self._changed.notify()
        if overflow:
            self._lose(f"the client left {self._max} bytes unread")

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, for `timeout` seconds at most, and take nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                data = self._queue.popleft()
            try:
                self._write_all(data)
            except OSError as exc:
                self._lose(f"writing to the client failed: {exc}")
                return
            with self._changed:
                self._unsent -= len(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _lose(self, reason: str) -> None:
        with self._changed:
            if self._lost:
                return
            self._lost = True
            self._queue.clear()
            self._changed.notify()
        self._on_lost(reason)
