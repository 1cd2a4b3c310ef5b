"""Is the editor still there? It may die without closing our stdin.

Rule: looks at one process id; decides nothing. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has such a number
        return False
    except OSError:  # another user's
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # no /proc on this system
        return True
    return stat.rpartition(b")")[2].split()[:1] != [b"Z"]
