"""`midspan bench clients`: eight people typing at once, in eight documents, on one model.

The same keys, weights and threads for midspan and for a llama-server with a slot for each. Every
client types at a fixed pace and sends the next key when the last was answered; what counts is how
many completions come per second, and how late.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import traces
from benchmarks.keystrokes import (
    Body,
    cores,
    default_source,
    figures,
    model_file,
    start_midspan,
    start_peer,
)
from benchmarks.report import report
from benchmarks.streaming import Engine, Sample
from benchmarks.traces import Key


def run(
    *,
    model: str,
    clients: int,
    keys: int,
    seed: int,
    tokens: int,
    interval_ms: float,
    against: str | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the benchmark; parameters as in `benchmarks.keystrokes.run`, `keys` for each client."""
    source = default_source().read_text(encoding="utf-8")
    typed = [document(source, number, keys, seed) for number in range(clients)]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(model, Path(folder), progress)
        with ExitStack() as stack:
            progress(f"{clients} clients on midspan")
            results["midspan"] = together(*start_midspan(stack, path, tokens), typed, interval_ms)
        if against:
            with ExitStack() as stack:
                progress(f"{clients} clients on llama-server")
                peer = start_peer(stack, path, tokens, against, model, slots=clients)
                results["llama-server"] = together(*peer, typed, interval_ms)
    if against:
        ours, theirs = (results[name]["completions_per_second"] for name in results)
        results["ratio_completions_per_second"] = round(ours / theirs, 2)
    parameters = {
        "model": model,
        "clients": clients,
        "keys_per_client": keys,
        "seed": seed,
        "tokens_per_suggestion": tokens,
        "interval_ms": interval_ms,
        "threads": cores(),
        "against": against,
    }
    return report("clients", parameters, results)


def document(source: str, number: int, keys: int, seed: int) -> list[Key]:
    """Return the keys of one client: linear typing in a document of its own."""
    text = source[number * 2000 :]
    rng = random.Random(seed + number)
    return [replace(key, document=str(number)) for key in traces.linear(text, keys, rng)]


def together(
    engine: Engine, body: Body, typed: Sequence[Sequence[Key]], interval_ms: float
) -> dict[str, Any]:
    """Let all clients type at once; opening their documents is not counted."""
    for keys in typed:
        engine.infill(body(keys[0]))

    def client(keys: Sequence[Key]) -> list[Sample]:
        samples = []
        for key in keys:
            samples.append(engine.infill(body(key)))
            time.sleep(interval_ms / 1000)
        return samples

    started = time.perf_counter()
    with ThreadPoolExecutor(len(typed)) as pool:
        samples = [sample for own in pool.map(client, typed) for sample in own]
    seconds = time.perf_counter() - started
    return {
        "completions_per_second": round(len(samples) / seconds, 2),
        "seconds": round(seconds, 1),
        **figures(samples),
    }
