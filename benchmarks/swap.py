"""`midspan bench swap`: what it costs to change the model, to one used before and to a new one.

Warm: one document is typed in, a key after each swap between two models that are both loaded; each
must find the document's cells as it left them. Cold: loading a model through the manager beside
loading the same file in a bare worker process, by turns in one run, the file in the page cache.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import catalogue
from backends.catalogue import Model, Source
from backends.client import ManagerClient
from backends.config import ModelSettings
from backends.local import LocalBackend
from benchmarks import holdout
from benchmarks.infill import read
from benchmarks.keystrokes import model_file
from benchmarks.private import private_manager
from benchmarks.report import quantile, report

BEFORE_CHARS, AFTER_CHARS = 3000, 1000
MAX_TOKENS = 8
COLD = "bench-cold"
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap to a model loaded before, and the key after it; times in milliseconds."""

    select_ms: float
    key_ms: float
    evaluated_tokens: int


def warm_summary(swaps: Sequence[Swap]) -> dict[str, Any]:
    """Return the report's part on going back to a model; `swaps` must not be empty."""
    return {
        "swaps": len(swaps),
        "select_ms": _spread([swap.select_ms for swap in swaps]),
        "next_key_evaluated_tokens": _spread([swap.evaluated_tokens for swap in swaps]),
        "next_key_ms": _spread([swap.key_ms for swap in swaps]),
    }


def cold_summary(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the report's part on loading, from (through the manager, bare) milliseconds."""
    return {
        "loads": len(pairs),
        "through_manager_ms": _spread([managed for managed, _ in pairs]),
        "bare_worker_ms": _spread([bare for _, bare in pairs]),
        # Of neighbours: what else the machine does touches both.
        "ratio": round(statistics.median(managed / bare for managed, bare in pairs), 3),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(quantile(values, 0.5), 1),
        "p95": round(quantile(values, 0.95), 1),
        "max": round(max(values), 1),
    }


async def _warm(
    client: ManagerClient, names: Sequence[str], swaps: int, progress: Callable[[str], None]
) -> list[Swap]:
    """Type in one document, changing the model before each key."""
    source = max((text for _, text in read(holdout.held_out_files())), key=len)
    start = cursor = source.index("\n", BEFORE_CHARS) + 1
    suffix = source[start + swaps :][:AFTER_CHARS]
    done: list[Swap] = []
    for number in range(-len(names), swaps):
        started = time.perf_counter()
        await client.post("/api/models/select", {"name": names[number % len(names)]})
        select_ms = _ms_since(started)
        cursor += 1  # the key
        started = time.perf_counter()
        answer = await client.infill(
            {
                "input_prefix": source[:cursor],
                "input_suffix": suffix,
                "n_predict": MAX_TOKENS,
                "temperature": 0,
                "document": "file:///bench/swap.py",
                "path": "swap.py",
            }
        )
        usage = answer["usage"]
        if number >= 0:  # the first of each loads it, and evaluates the document
            evaluated = usage["prompt_tokens"] - usage["cached_tokens"]
            done.append(Swap(select_ms, _ms_since(started), evaluated))
            progress(f"swap {number + 1} of {swaps}: {select_ms:.1f} ms, {evaluated} tokens")
        await _until(client, lambda rows: all(not row.get("active") for row in rows))
    return done


async def _cold(
    client: ManagerClient, path: Path, first: str, loads: int, progress: Callable[[str], None]
) -> list[tuple[float, float]]:
    """Load `path` through the manager and in a bare worker, by turns; drop the first pair."""
    pairs = []
    for number in range(loads + 1):
        managed, safe_mode = await _load_managed(client, path, first)
        pairs.append((managed, await _load_bare(path, safe_mode)))
        progress(f"load {number} of {loads}: {managed:.0f} ms, bare {pairs[-1][1]:.0f} ms")
    return pairs[1:]


async def _load_managed(client: ManagerClient, path: Path, first: str) -> tuple[float, bool]:
    """Return the milliseconds of selecting a model that is not loaded, and if in safe mode."""
    await client.post("/api/models/add", {"name": COLD, "path": str(path)})
    started = time.perf_counter()
    row = await client.post("/api/models/select", {"name": COLD})
    elapsed = _ms_since(started)
    await client.post("/api/models/select", {"name": first})
    await _until(client, lambda rows: not any(_loading(row) for row in rows))
    await client.post("/api/models/remove", {"name": COLD})
    await _until(client, lambda rows: not any(row["name"] == COLD and row["pid"] for row in rows))
    return elapsed, row["safe_mode"]


def _loading(row: dict[str, Any]) -> bool:
    return row["state"] in ("starting", "stopping")


async def _load_bare(path: Path, safe_mode: bool) -> float:
    message = catalogue.load_message(
        Model("bare", path, Source.ADDED, ModelSettings()), safe_mode=safe_mode
    )
    started = time.perf_counter()
    backend = await LocalBackend.start(message, lambda _: None)
    elapsed = _ms_since(started)
    await backend.close()
    return elapsed


async def _until(client: ManagerClient, true: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Wait until `true` of all models' rows."""
    async with asyncio.timeout(PATIENCE_S):
        rows = await _rows(client)
        while not true(rows):
            await asyncio.sleep(0.01)
            rows = await _rows(client)


async def _rows(client: ManagerClient) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await client.get("/api/models/status"))["models"]
    return rows


def _ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


async def _measure(
    names: Sequence[str], cold: Path, swaps: int, loads: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    client = ManagerClient(client_name="midspan-bench")
    try:
        return {
            "warm": warm_summary(await _warm(client, names, swaps, progress)),
            "cold": cold_summary(await _cold(client, cold, names[0], loads, progress)),
        }
    finally:
        await client.close()


def run(
    *,
    swaps: int = 20,
    loads: int = 5,
    models: tuple[str, str] = ("starter", "0.5b"),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object.

    `models`: "starter", presets of `random_gguf`, or GGUF files; the second is also loaded cold.
    """
    with tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder:
        files = [model_file(model, Path(folder), progress) for model in models]
        names = [f"bench-{number}" for number in range(len(files))]
        with private_manager(dict(zip(names, files, strict=True))):
            results = asyncio.run(_measure(names, files[1], swaps, loads, progress))
    parameters = {
        "models": list(models),
        "swaps": swaps,
        "loads": loads,
        "cold_model": models[1],
        "bare": "a worker process with nothing around it: start, load, warm-up",
    }
    return report("swap", parameters, results)
