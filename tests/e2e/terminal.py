"""A program in a real terminal: keys go in, and what stands on the screen can be read."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pexpect
import pyte

# What pyte prints instead of leaving out: device control strings, and CSI with a prefix or
# intermediate that it does not know.
_UNKNOWN = re.compile(
    rb"\x1bP.*?\x1b\\|\x1b\[[>=<][0-9;:]*[ -/]*[@-~]|\x1b\[\??[0-9;]*\$[@-~]|\x1b\[\?[0-9;]*[nmcu]",
    re.S,
)
_UNFINISHED = re.compile(rb"\x1b(P[^\x1b]*|\[[^@-~]*)?\x1b?\Z", re.S)


class Terminal:
    """A pseudo-terminal with a program in it."""

    size = (100, 30)  # columns, lines

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
    ) -> None:
        columns, lines = self.size
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._kept = b""
        self._child = pexpect.spawn(
            argv[0],
            list(argv[1:]),
            env={**env, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
            cwd=str(cwd),
            dimensions=(lines, columns),
            echo=False,
        )

    def pump(self, seconds: float = 0.05) -> None:
        """Take in what the program writes, for this long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                data = self._child.read_nonblocking(65536, timeout=min(left, 0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        data = _UNKNOWN.sub(b"", self._kept + data)
        unfinished = _UNFINISHED.search(data)
        cut = unfinished.start() if unfinished else len(data)
        self._kept = data[cut:]
        self._stream.feed(data[:cut])

    @property
    def pid(self) -> int:
        """The program's process id."""
        return int(self._child.pid)

    @property
    def rows(self) -> list[str]:
        """The screen, line by line, without blanks at the end."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.rows).rstrip()

    def send(self, keys: str) -> None:
        """Type keys."""
        self._child.send(keys.encode())

    def wait(self, what: str | Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until a text is on the screen, or something holds. Raises AssertionError."""
        holds = what if callable(what) else lambda: what in self.text
        end = time.monotonic() + seconds
        while True:
            self.pump()
            if holds():
                return
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {what!r}; the screen:\n{self.text}")

    def find(self, text: str) -> tuple[int, int]:
        """The line and column at which a text stands."""
        for row, line in enumerate(self.screen.display):
            if (column := line.find(text)) >= 0:
                return row, column
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text}")

    def close(self) -> None:
        """End the program and what it started."""
        if self._child.isalive():
            try:
                os.killpg(self._child.pid, signal.SIGHUP)
            except ProcessLookupError:
                return
            self._child.close(force=True)
