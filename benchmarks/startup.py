"""`midspan bench startup`: `initialize` from spawn, and idle memory, beside bare pygls.

The two servers take turns in one run, started the same way by the same client, so that what else
the machine does touches both. Memory is the resident set size of the language server alone, one
second after `initialized`; the manager is another process.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from backends import launcher, state
from benchmarks.report import quantile, report
from lsp_server.cli.editor import MIDSPAN_LSP, Editor

BARE_PYGLS = (sys.executable, "-P", "-m", "benchmarks.bare_pygls")
MEMORY_RUNS = 5  # each waits a second
SETTLE_S = 1.0


async def _measure(
    command: Sequence[str], env: dict[str, str], *, memory: bool
) -> tuple[float, float | None]:
    """Return milliseconds to the answer of `initialize` and, if asked, idle MiB."""
    started = time.perf_counter()
    async with await Editor.start(command, env) as editor:
        await editor.initialize()
        elapsed = 1000 * (time.perf_counter() - started)
        if not memory:
            return elapsed, None
        await editor.notify("initialized", {})
        await asyncio.sleep(SETTLE_S)
        return elapsed, psutil.Process(editor.process.pid).memory_info().rss / 2**20


async def _measure_all(
    runs: int, env: dict[str, str], progress: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    commands = {"midspan": MIDSPAN_LSP, "bare_pygls": BARE_PYGLS}
    times: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():  # a first start reads from disk and compiles
        await _measure(command, env, memory=False)
    for number in range(runs):
        for name, command in commands.items():
            elapsed, rss = await _measure(command, env, memory=number < MEMORY_RUNS)
            times[name].append(elapsed)
            if rss is not None:
                memory[name].append(rss)
        progress(f"run {number + 1} of {runs}")
    return {
        name: {
            "initialize_ms": {
                "median": round(statistics.median(times[name]), 1),
                "p95": round(quantile(times[name], 0.95), 1),
                "min": round(min(times[name]), 1),
            },
            "idle_rss_mib": {
                "median": round(statistics.median(memory[name]), 1),
                "max": round(max(memory[name]), 1),
                "runs": len(memory[name]),
            },
        }
        for name in commands
    }


def run(*, runs: int = 20, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return its JSON object.

    A manager that the language server may start is private to the run, and stopped at its end.
    """
    with tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder:
        env = {"MIDSPAN_RUNTIME_DIR": f"{folder}/run", "MIDSPAN_STATE_DIR": f"{folder}/state"}
        try:
            results: dict[str, Any] = asyncio.run(_measure_all(runs, env, progress))
        finally:
            _stop_private_manager(Path(folder, "run"))
    ours, bare = results["midspan"], results["bare_pygls"]
    results["ratio_to_bare_pygls"] = {
        what: round(ours[what]["median"] / bare[what]["median"], 2)
        for what in ("initialize_ms", "idle_rss_mib")
    }
    return report("startup", {"runs": runs, "settle_s": SETTLE_S}, results)


def _stop_private_manager(runtime: Path) -> None:
    endpoint = state.read(runtime)
    if endpoint is not None:
        launcher.stop(endpoint)
