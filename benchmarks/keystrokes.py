"""`midspan bench keystrokes`: what each key costs, replayed on midspan and on llama-server.

The same keys, weights and threads in one run, by turns scenario by scenario; both are asked over
HTTP and streamed, midspan as its language server asks, llama-server as llama.vim asks. The first
request of each document opens it and is not counted: it is the same cold prompt for both.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends import starter
from benchmarks import holdout, traces
from benchmarks.peer import llama_server, llama_vim_body
from benchmarks.private import private_manager
from benchmarks.report import quantile, report
from benchmarks.streaming import Engine, Sample
from benchmarks.traces import Key

# Tokens of the peer's batch, to which it cuts its prompts: the starter's context is 512.
PEER_BATCH, PEER_BATCH_STARTER = 1024, 384
# An editor's windows, see lsp_server/snapshot.py.
MAX_BEFORE, MAX_AFTER = 64 * 1024, 16 * 1024

Body = Callable[[Key], dict[str, Any]]


def run(
    *,
    model: str,
    keys: int,
    seed: int,
    tokens: int,
    interval_ms: float,
    scenarios: tuple[str, ...],
    against: str | None,
    source: Path | None,
    trace: Path | None,
    plot: Path | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the benchmark. `model`: "starter", a preset of `random_gguf`, or a GGUF file.

    `against`: None, "llama-server" (the embedded one) or a path of a llama-server binary.
    """
    chosen = source or default_source()
    typed = (
        traces.read(trace)
        if trace
        else traces.generate(chosen.read_text(encoding="utf-8"), keys, seed, scenarios)
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = model_file(model, folder, progress)
        engines: list[tuple[Engine, Body]] = [start_midspan(stack, path, tokens)]
        if against:
            engines.append(start_peer(stack, path, tokens, against, model))
        samples = replay(engines, typed, interval_ms / 1000, progress)
    results: dict[str, Any] = {name: summary(own) for name, own in samples.items()}
    if against:
        results["ratios"] = ratios(results["midspan"], results["llama-server"])
    if plot:
        from benchmarks.plots import plot_keystrokes

        plot_keystrokes(samples, plot)
    parameters = {
        "model": model,
        "source": chosen.name,
        "keys": len(typed),
        "seed": seed,
        "tokens_per_suggestion": tokens,
        "interval_ms": interval_ms,
        "threads": cores(),
        "against": against,
    }
    return report("keystrokes", parameters, results)


def cores() -> int:
    """Return how many cores both engines may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_source() -> Path:
    """Return a held-out file of some length."""
    return max(holdout.held_out_files(), key=lambda path: (path.name == "tarfile.py", path.name))


def model_file(model: str, folder: Path, progress: Callable[[str], None]) -> Path:
    """Return the GGUF that `model` names, writing a preset's into `folder`."""
    if model == "starter":
        return starter.path()
    from benchmarks import random_gguf

    if model in random_gguf.PRESETS:
        progress(f"writing random weights of the {model} shape")
        return random_gguf.write(folder / f"qwen2.5-coder-{model}-random.gguf", model)
    return Path(model)


def start_midspan(stack: ExitStack, path: Path, tokens: int) -> tuple[Engine, Body]:
    """Start a manager with the model; return it with what its language server would ask."""
    endpoint = stack.enter_context(private_manager({"bench": path}))
    address = f"{endpoint.host}:{endpoint.port}"
    engine = Engine("midspan", address, {"Authorization": f"Bearer {endpoint.token}"})

    def body(key: Key) -> dict[str, Any]:
        return {
            "input_prefix": key.prefix[-MAX_BEFORE:],
            "input_suffix": key.suffix[:MAX_AFTER],
            "document": key.document,
            "n_predict": tokens,
            "limit_scope": True,
        }

    return engine, body


def start_peer(
    stack: ExitStack, path: Path, tokens: int, against: str, model: str, slots: int = 1
) -> tuple[Engine, Body]:
    """Start a llama-server with the model; return it with what llama.vim would ask.

    With `slots`, documents named "0", "1" and so on have one each.
    """
    address = stack.enter_context(
        llama_server(
            str(path),
            threads=cores(),
            slots=slots,
            batch=PEER_BATCH_STARTER if model == "starter" else PEER_BATCH,
            binary=None if against == "llama-server" else against,
        )
    )
    engine = Engine("llama-server", address, {})

    def body(key: Key) -> dict[str, Any]:
        slot = int(key.document) if slots > 1 else 0
        return llama_vim_body(key.prefix, key.suffix, tokens, slot)

    return engine, body


def replay(
    engines: Sequence[tuple[Engine, Body]],
    keys: Sequence[Key],
    interval: float,
    progress: Callable[[str], None],
) -> dict[str, list[tuple[Key, Sample]]]:
    """Replay each scenario on one engine, then on the next, so that the machine's moods are shared.

    `interval`: seconds between an answer and the next key, the time a fast typist leaves.
    """
    samples: dict[str, list[tuple[Key, Sample]]] = {engine.name: [] for engine, _ in engines}
    for scenario in dict.fromkeys(key.scenario for key in keys):
        mine = [key for key in keys if key.scenario == scenario]
        for engine, body in engines:
            progress(f"{scenario} on {engine.name}: {len(mine)} keys")
            opened: set[str] = set()
            for key in mine:
                if key.document not in opened:
                    opened.add(key.document)
                    engine.infill(body(key))
                samples[engine.name].append((key, engine.infill(body(key))))
                time.sleep(interval)
    return samples


def summary(samples: Sequence[tuple[Key, Sample]]) -> dict[str, Any]:
    """Return the figures over all keys and by scenario."""
    by_scenario: dict[str, list[Sample]] = defaultdict(list)
    for key, sample in samples:
        by_scenario[key.scenario].append(sample)
    return {
        "all": figures([sample for _, sample in samples]),
        "by_scenario": {name: figures(own) for name, own in by_scenario.items()},
    }


def figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return tokens evaluated per key, times, and the share of prompt tokens that was cached."""
    evaluated = [sample.evaluated for sample in samples]
    prompt = sum(sample.evaluated + sample.cached for sample in samples)
    return {
        "keys": len(samples),
        "evaluated_tokens_per_key": _spread([float(n) for n in evaluated], mean=True),
        "first_token_ms": _spread([sample.first_ms for sample in samples]),
        "whole_suggestion_ms": _spread([sample.whole_ms for sample in samples]),
        "cached_share": round(1 - sum(evaluated) / prompt, 4) if prompt else None,
        "generated_tokens": sum(sample.generated for sample in samples),
    }


def _spread(values: Sequence[float], *, mean: bool = False) -> dict[str, float]:
    spread = {"p50": round(quantile(values, 0.5), 2), "p95": round(quantile(values, 0.95), 2)}
    return {"mean": round(sum(values) / len(values), 2), **spread} if mean else spread


def ratios(midspan: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Return midspan's figures as parts of the peer's, in the same run."""
    own, other = midspan["all"], peer["all"]
    return {
        name: {at: round(own[name][at] / other[name][at], 4) for at in own[name] if other[name][at]}
        for name in ("evaluated_tokens_per_key", "first_token_ms", "whole_suggestion_ms")
    }
