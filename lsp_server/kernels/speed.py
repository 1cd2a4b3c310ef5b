"""Level 5: time on a GPU, against eager and compiled PyTorch. Never guessed at.

Rule: without a device it says so; slower is said, not failed. What counts as fast (fast_p: right,
and more than p times as fast) is for the reader of the two ratios. Must not know how it is timed.
"""

from __future__ import annotations

from dataclasses import replace

from lsp_server.kernels import cases, loaders, sandbox
from lsp_server.kernels.cases import Case
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.numerics import Library
from lsp_server.kernels.task import Candidate, Check, Language, Level, Result, Task
from lsp_server.kernels.toolchain import Toolchain

# What each free size is timed at, by how many there are.
_SIZES: dict[int, int] = {0: 1, 1: 2**24, 2: 4096, 3: 2048}
_FEWEST = 256  # with more free sizes than that table knows


async def measure(
    task: Task,
    candidate: Candidate,
    chain: Toolchain,
    limits: Limits,
    library: Library | None = None,
    *,
    device: str = "cuda",
) -> Check:
    """Time it where a GPU is; `library` is the CUDA source as built for this machine."""
    if task.language not in (Language.TRITON, Language.CUDA):
        return _not_run("only kernels for a GPU are timed")
    if device == "cuda" and not sandbox.has_device():
        return _not_run("no GPU on this machine")
    case = _case(task)
    request = {
        "do": "time",
        "reference": task.source,
        "candidate": candidate.code,
        "name": task.name,
        "language": task.language.value,
        "loader": loaders.NAME,
        "device": device,
        "case": {**case.to_json(), "given": cases.numbers(task.parameters, case)},
        **cases.described(task),
    }
    environment = {} if device == "cuda" else {"TRITON_INTERPRET": "1"}
    program = sandbox.Program("timing", chain, environment, devices=device == "cuda")
    # Compilers run as it goes, and a device's memory is mapped as a whole.
    bounds = sandbox.without_address_limit(
        replace(limits.compiler, memory_mb=16 * 1024, wall_s=300, cpu_s=600, tasks=512)
    )
    try:
        async with sandbox.start(program, bounds) as child:
            await child.write(request, library.data if library else b"")
            answer, _ = await child.read()
    except sandbox.Died as died:
        return _not_run(f"it could not be measured: {died}")
    if "absent" in answer:
        return _not_run(answer["absent"])
    where = case.describe()
    if answer.get("failure"):
        return Check(Level.FAST, Result.FAILED, reason=answer["failure"], counterexample=where)
    seconds = answer["seconds"]
    eager, compiled = (seconds[name] / seconds["kernel"] for name in ("eager", "compiled"))
    summary = f"{eager:.2f} times as fast as eager and {compiled:.2f} times as compiled PyTorch"
    return Check(Level.FAST, Result.PASSED, summary=f"{summary} on {answer['device']}", cases=1)


def _case(task: Task) -> Case:
    free = cases.names(task.parameters)
    size = _SIZES.get(len(free), _FEWEST)
    sizes = tuple((name, size) for name in free)
    return Case(0, Level.FAST, sizes, "", "contiguous", "normal", seed=0)


def _not_run(reason: str) -> Check:
    return Check(Level.FAST, Result.NOT_RUN, reason=reason)
