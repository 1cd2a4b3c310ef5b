"""`midspan bench engines`: every local engine that is installed, on the same weights in float32.

A worker process for each, one after the other, given the same keys: the first in a document finds
nothing evaluated, the others follow it. Time to the first token is from the request to the first
piece of text (or to the end of a suggestion without any), tokens per second are of the first
suggestions alone: later ones may go on with what was generated before. Memory is the worker's own,
as the system counts it. Rule: measures `LocalBackend`; must not know any engine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from backends import engines
from backends.backend import InfillRequest, Usage
from backends.errors import MidspanError, WorkerDied
from backends.frames import Load
from backends.local import LocalBackend
from benchmarks import holdout, infill
from benchmarks.keystrokes import model_file
from benchmarks.report import quantile, report, share

BEFORE, AFTER = 600, 200  # characters of a document around the cursor
FILES = 60  # held-out ones that documents are taken from
# No engine is asked for less because it is slow.
UNLIMITED_MS = 600_000.0


@dataclass(frozen=True, slots=True)
class Document:
    """Where something is typed: `typed` goes between `prefix` and `suffix`."""

    prefix: str
    typed: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One key's suggestion; times in milliseconds."""

    key: int  # 0: the first in its document
    first_text_ms: float
    predicted_ms: float  # in the worker, without the prompt
    usage: Usage
    text: str


def documents(count: int, keys: int, seed: int) -> list[Document]:
    """Return places in held-out files where at least `keys` more characters stand in the line."""
    files = infill.read(random.Random(seed).sample(holdout.held_out_files(), FILES))
    places = infill.cuts(files, 20 * count, seed)
    fitting = [cut for cut in places if len(cut.truth) >= keys]
    return [
        Document(cut.prefix[-BEFORE:], cut.truth[:keys], cut.suffix[:AFTER])
        for cut in fitting[:count]
    ]


def installed() -> list[str]:
    """Return the engines of the same weights' formats whose runtime is there."""
    names = ("llama-cpp", "transformers", "mlx")
    rows = [engines.ENGINES[name] for name in names]
    return [row.name for row in rows if importlib.util.find_spec(row.runtime) is not None]


async def measure(
    engine: str, path: Path, places: Sequence[Document], tokens: int
) -> tuple[dict[str, Any], list[Sample]]:
    """Type at all places with one engine; return what its worker took, and the samples.

    Raises MidspanError where it can't be loaded or fails.
    """
    started = time.perf_counter()
    load = Load(engine=engine, path=str(path), name=path.stem)
    backend = await LocalBackend.start(load, _ended)
    try:
        ready_ms = _ms_since(started)
        worker = psutil.Process(backend.pid)
        loaded_mib = worker.memory_info().rss / 2**20
        samples = [
            await _ask(backend, place, number, key, tokens)
            for number, place in enumerate(places)
            for key in range(len(place.typed) + 1)
        ]
        used = {
            "description": backend.loaded.description,
            "start_ms": round(ready_ms, 1),
            "load_ms": round(backend.loaded.load_ms, 1),
            "rss_mib": {
                "loaded": round(loaded_mib, 1),
                "after": round(worker.memory_info().rss / 2**20, 1),
            },
        }
    finally:
        await backend.close()
    return used, samples


def _ended(_why: WorkerDied) -> None:
    """Do nothing: the request under way says it too."""


def _ms_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)


async def _ask(
    backend: LocalBackend, place: Document, number: int, key: int, tokens: int
) -> Sample:
    request = InfillRequest(
        place.prefix + place.typed[:key],
        place.suffix,
        f"file:///bench/{number}.py",
        max_tokens=tokens,
        prompt_ms=UNLIMITED_MS,
    )
    started = time.perf_counter()
    first_ms, text = 0.0, ""
    async for chunk in backend.infill(request):
        first_ms = first_ms or _ms_since(started)
        text += chunk.text
    assert chunk.usage is not None
    assert chunk.timings is not None
    return Sample(key, first_ms, chunk.timings.predicted_ms, chunk.usage, text)


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return an engine's part of the report."""
    cold = [sample for sample in samples if sample.key == 0]
    later = [sample for sample in samples if sample.key > 0]
    seconds = sum(sample.predicted_ms for sample in cold) / 1000
    produced = sum(sample.usage.completion_tokens for sample in cold)
    return {
        "first_token_ms": {"cold": _spread(cold), "per_key": _spread(later)},
        "evaluated_tokens": {"cold": _evaluated(cold), "per_key": _evaluated(later)},
        "tokens_per_second": round(produced / seconds, 1) if seconds else None,
    }


def _spread(samples: Sequence[Sample]) -> dict[str, float] | None:
    times = [sample.first_text_ms for sample in samples]
    if not times:
        return None
    return {"p50": round(quantile(times, 0.5), 1), "p95": round(quantile(times, 0.95), 1)}


def _evaluated(samples: Sequence[Sample]) -> dict[str, float] | None:
    counts = [sample.usage.prompt_tokens - sample.usage.cached_tokens for sample in samples]
    return {"p50": quantile(counts, 0.5), "max": max(counts)} if counts else None


def run(
    *,
    names: Sequence[str] = (),
    model: str = "starter",
    places: int = 12,
    keys: int = 8,
    tokens: int = 16,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object; `names` of engines, none for all there are.

    Raises MidspanError where no engine could be measured, ValueError for a model that can't be
    written in all formats.
    """
    from benchmarks import same_weights

    typed = documents(places, keys, seed)
    results: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    failure: MidspanError | None = None
    with tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder:
        progress(f"writing {model} in float32 for every engine")
        source = model_file(model, Path(folder), progress)
        paths = same_weights.write(Path(folder) / "same", source).by_engine()
        for name in names or installed():
            progress(f"{name}: {len(typed)} documents, {keys + 1} keys in each")
            try:
                used, samples = asyncio.run(measure(name, paths[name], typed, tokens))
            except MidspanError as exc:
                results[name] = {"error": str(exc)}
                failure = exc
                continue
            texts[name] = [sample.text for sample in samples]
            results[name] = used | summary(samples)
            results[name]["version"] = metadata.version(engines.ENGINES[name].distribution)
    if not texts:
        raise failure or MidspanError("No engine is installed that runs a model on this machine.")
    first = next(iter(texts))
    for name, own in texts.items():
        same = sum(a == b for a, b in zip(own, texts[first], strict=True))
        results[name][f"same_text_as_{first}"] = share(same, len(own))
    parameters = {
        "model": model,
        "weights": "the same, in float32",
        "documents": len(typed),
        "keys": keys,
        "max_tokens": tokens,
        "seed": seed,
        "characters": {"before": BEFORE, "after": AFTER},
    }
    return report("engines", parameters, results)
