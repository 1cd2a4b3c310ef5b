"""What every process that the manager starts does first: it dies with it, and keeps stdout clean.

Must not know what such a process is for.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from typing import BinaryIO


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent; elsewhere the end of input has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # The parent may have died before: then nobody holds the other end of stdin.
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        os._exit(1)


def claim_stdout() -> BinaryIO:
    """Return the real stdout, and point descriptor 1 at stderr: native code prints there."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink
