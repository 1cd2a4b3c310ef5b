"""Level 2: the real compiler, for just what the host code launches, with no device needed.

Rule: compilers run in the sandbox like everything else. Must not know whether a kernel is right.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from lsp_server.kernels import allowlist, c_source, sandbox, toolchain
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.numerics import Launch, Library
from lsp_server.kernels.task import Candidate, Check, Language, Level, Result
from lsp_server.kernels.toolchain import Toolchain

_MOST = 6  # different launches of a candidate that are compiled


def different(launches: Sequence[Launch]) -> list[Launch]:
    """The launches that the compiler would see as different, the first few."""
    found = {json.dumps(launch, sort_keys=True): launch for launch in launches}
    return list(found.values())[:_MOST]


async def triton(
    candidate: Candidate, launches: Sequence[Launch], chain: Toolchain, limits: Limits
) -> Check:
    """Compile the launched kernels for every target."""
    if not launches:
        return Check(Level.COMPILES, Result.NOT_RUN, reason="no launch was seen")
    request = {
        "do": "compile",
        "source": candidate.code,
        "launches": different(launches),
        "targets": list(limits.targets),
    }
    try:
        async with sandbox.start(
            sandbox.Program("compile_triton", chain), limits.compiler
        ) as child:
            await child.write(request)
            answer, _ = await child.read()
    except sandbox.Died as died:
        return Check(Level.COMPILES, Result.FAILED, reason=f"the compiler: {died}")
    failure = answer["failure"]
    if failure is None:
        return Check(
            Level.COMPILES,
            Result.PASSED,
            summary=", ".join(limits.targets),
            cases=answer["count"],
        )
    place = f"{failure['kernel']} for {failure['target']}: " if failure["kernel"] else ""
    return Check(
        Level.COMPILES,
        Result.FAILED,
        reason=place + failure["reason"],
        line=failure["line"],
        column=failure["column"],
    )


async def native(
    tree: ast.Module,
    source: tuple[str, int],
    language: Language,
    chain: Toolchain,
    limits: Limits,
    *,
    device: bool,
) -> tuple[Check, Library | None]:
    """Build C with warnings as errors and again with sanitisers; CUDA for the NVIDIA targets."""
    compiler = toolchain.COMPILERS[language]
    if await toolchain.compiler_version(language) is None:
        reason = f"there is no {compiler} on this machine"
        return Check(Level.COMPILES, Result.NOT_RUN, reason=reason), None
    text, line = source
    request = {
        "do": "build",
        "source": text,
        "language": language.value,
        "targets": [target for target in limits.targets if target.startswith("sm_")],
        "device": device,
    }
    try:
        async with sandbox.start(
            sandbox.Program("build_native", chain, devices=device), limits.compiler
        ) as child:
            await child.write(request)
            answer, library = await child.read()
    except sandbox.Died as died:
        return Check(Level.COMPILES, Result.FAILED, reason=f"{compiler}: {died}"), None
    failure = answer["failure"]
    if failure is not None:
        return Check(
            Level.COMPILES,
            Result.FAILED,
            reason=failure["reason"],
            line=line + failure["line"] - 1 if failure["line"] else 0,
            column=failure["column"],
        ), None
    foreign = c_source.foreign(answer["undefined"])
    if foreign:
        reason = f"the kernel calls {', '.join(foreign)}: only mathematics and memory are allowed"
        return Check(Level.COMPILES, Result.FAILED, reason=reason, line=line), None
    missing = allowlist.called(tree) - set(answer["defined"] or allowlist.called(tree))
    if missing:
        reason = f"the source defines no {', '.join(sorted(missing))}"
        return Check(Level.COMPILES, Result.FAILED, reason=reason, line=line), None
    built = Check(Level.COMPILES, Result.PASSED, summary=answer["summary"], cases=1)
    return built, Library(library, answer["preload"], line) if library else None
