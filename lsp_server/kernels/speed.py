"""Level 5: time on a GPU, against eager and compiled PyTorch. Never guessed at.

Rule: without a device it says so. Must not know whether a kernel is right: that was shown before.
"""

from __future__ import annotations

from lsp_server.kernels import sandbox
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import Candidate, Check, Language, Level, Result, Task
from lsp_server.kernels.toolchain import Toolchain

# What free sizes are timed at, by how many there are.
_SIZES = {0: (), 1: (2**24,), 2: (4096, 4096), 3: (2048, 2048, 2048)}


async def measure(task: Task, candidate: Candidate, chain: Toolchain, limits: Limits) -> Check:
    """Time it where a GPU is."""
    if task.language not in (Language.TRITON, Language.CUDA):
        return _not_run("only kernels for a GPU are timed")
    if not sandbox.has_device():
        return _not_run("no GPU on this machine")
    return _not_run("not measured")


def _not_run(reason: str) -> Check:
    return Check(Level.FAST, Result.NOT_RUN, reason=reason)
