"""A client of raw bytes: what is said on the wire is exactly what the test writes.

Ships no LSP knowledge beyond framing. Every wait is bounded, so that a hang fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.conftest import MIDSPAN

PATIENCE = 30.0  # seconds; only a hang takes that long


def frame(content: object) -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


class Wire:
    """The real `midspan lsp`, as a child process."""

    def __init__(self, folder: Path, **environment: str) -> None:
        private = {
            "MIDSPAN_RUNTIME_DIR": str(folder / "run"),
            "MIDSPAN_STATE_DIR": str(folder / "state"),
        }
        self.log = folder / "stderr.log"
        self.process = subprocess.Popen(
            [*MIDSPAN, "lsp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            env={**os.environ, **private, **environment},
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._buffer = b""
        self._next_id = 0

    def raw(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._in, view) :]

    def send(self, *messages: dict[str, Any]) -> None:
        """Send messages in one write, so that the server may read them at once."""
        self.raw(b"".join(frame({"jsonrpc": "2.0", **message}) for message in messages))

    def notify(self, method: str, params: object = None) -> None:
        self.send({"method": method, "params": params})

    def request(self, method: str, params: object = None) -> int:
        self._next_id += 1
        self.send({"id": self._next_id, "method": method, "params": params})
        return self._next_id

    def call(self, method: str, params: object = None) -> Any:
        """Send a request and return its answer (the whole message)."""
        return self.answer(self.request(method, params))

    def answer(self, msg_id: int | str) -> Any:
        """The answer to a request; what comes before it is dropped."""
        while True:
            message = self.receive()
            if message.get("id") == msg_id and "method" not in message:
                return message

    def notification(self, method: str) -> Any:
        """The parameters of the next notification of that name; others are dropped."""
        while True:
            message = self.receive()
            if message.get("method") == method and "id" not in message:
                return message["params"]

    def receive(self, patience: float = PATIENCE) -> Any:
        """The next message. Raises TimeoutError, EOFError."""
        end = time.monotonic() + patience
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if found:
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                if len(rest) >= length:
                    self._buffer = rest[length:]
                    return json.loads(rest[:length])
            ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no message within {patience} s")
            data = os.read(self._out, 65536)
            if not data:
                raise EOFError("the server closed its stdout")
            self._buffer += data

    def silence(self, seconds: float = 0.5) -> list[Any]:
        """Everything received in that time."""
        got, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                got.append(self.receive(left))
            except TimeoutError:
                break
        return got

    def initialize(
        self, capabilities: object = None, options: object = None, **more: object
    ) -> Any:
        """Do the handshake; return the result of `initialize`."""
        params = {
            "processId": None,
            "rootUri": None,
            "capabilities": capabilities or {},
            # Tests of the wire need no model, and must not start one.
            "initializationOptions": {"autostart": False} if options is None else options,
            **more,
        }
        result = self.call("initialize", params)["result"]
        self.notify("initialized", {})
        return result

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code."""
        return self.process.wait(patience)

    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
