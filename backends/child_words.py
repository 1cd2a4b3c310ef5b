"""What a child process says on stderr, and what is told of its end.

Rule: each line goes to the log, and the last ones are kept for the reason of a failure. Must not
know what the child is for.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque

from backends.errors import BackendError, LoadFailed, WorkerDied, WorkerTimeout

logger = logging.getLogger(__name__)

KEPT_LINES = 20
MAX_LINE = 4096  # bytes


class WorkerCrashed(WorkerDied):
    """The process was killed by a signal before it had loaded its model."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class ChildWords:
    """Reads a child's stderr until its end. `who` names it in the log and in errors."""

    def __init__(self, process: asyncio.subprocess.Process, who: str) -> None:
        self._process = process
        self._who = who
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self.reading = asyncio.create_task(self._read())

    def end(self, *, hung: bool) -> BackendError:
        """Return the error that tells how the process has ended; `hung`: it was killed for that."""
        if hung:
            return WorkerTimeout(f"The {self._who} did not answer and was killed.")
        status = self._process.returncode or 0
        if status < 0:
            return WorkerDied(f"The {self._who} was killed by {_signal_name(-status)}.")
        said = f" Its last words: {self._said[-1]}" if self._said else ""
        return WorkerDied(f"The {self._who} ended ({status}).{said}")

    def end_of_load(self, error: BackendError) -> LoadFailed | WorkerCrashed:
        """Return what `error`, an `end`, is while the model was still being loaded."""
        status = self._process.returncode or 0
        reason = f"{error} It was still loading."
        if status == -signal.SIGKILL:  # as the kernel does where memory runs out
            reason += " If memory ran out, close other programs or choose a smaller model."
        return WorkerCrashed(reason, -status) if status < 0 else LoadFailed(reason)

    async def _read(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while data := await self._process.stderr.read(MAX_LINE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._note(line)
            if len(rest) >= MAX_LINE:
                self._note(rest)
                rest = b""
        self._note(rest)

    def _note(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode(errors="replace").strip()
        if text:
            self._said.append(text)
            logger.info("%s [%d]: %s", self._who, self._process.pid, text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
