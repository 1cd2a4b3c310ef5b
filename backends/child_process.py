"""What every process that the manager starts does first: it dies with it, and keeps stdout clean.

Must not know what such a process is for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import BinaryIO


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent; elsewhere the end of input has to do."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def claim_stdout() -> BinaryIO:
    """Return the real stdout, and point descriptor 1 at stderr: native code prints there."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink
