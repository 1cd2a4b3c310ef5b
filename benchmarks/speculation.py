"""`midspan bench speculation`: decoding with drafts against decoding without, same keys.

Replayed typing, where much of each suggestion was in the one before. Tokens per second count the
generated tokens over the time from a request's first token to its last. The texts must be the same
but for near ties, whose number is reported: a draft is checked in a wider batch, whose kernels
round differently.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.backend import InfillRequest
from benchmarks import traces
from benchmarks.inprocess import in_process, load
from benchmarks.keystrokes import MAX_AFTER, MAX_BEFORE, default_source, model_file
from benchmarks.report import report

SCENARIOS = ("linear", "typos", "accept")


def run(
    *, model: str, keys: int, seed: int, tokens: int, rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run the benchmark: `keys` keys of each scenario, on and off by turns, `rounds` times."""
    source = default_source().read_text(encoding="utf-8")
    typed = traces.generate(source, keys, seed, SCENARIOS)
    texts: dict[bool, list[str]] = {}
    generated = {True: 0, False: 0}
    milliseconds = {True: 0.0, False: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        loaded, template = load(model_file(model, Path(folder), progress))
        for number in range(rounds):
            for speculate in (False, True):
                progress(f"round {number + 1}: speculation {'on' if speculate else 'off'}")
                with in_process(loaded, template, speculate=speculate) as engine:
                    texts[speculate] = []
                    for key in typed:
                        before, after = key.prefix[-MAX_BEFORE:], key.suffix[:MAX_AFTER]
                        chunks = engine.infill(
                            InfillRequest(before, after, key.document, max_tokens=tokens)
                        )
                        texts[speculate].append("".join(chunk.text for chunk in chunks))
                        last = chunks[-1]
                        if last.usage and last.timings:
                            generated[speculate] += last.usage.completion_tokens
                            milliseconds[speculate] += last.timings.predicted_ms
    rates = {way: 1000 * generated[way] / milliseconds[way] for way in generated}
    same = sum(a == b for a, b in zip(texts[True], texts[False], strict=True))
    results = {
        "tokens_per_second": {"with": round(rates[True], 1), "without": round(rates[False], 1)},
        "ratio": round(rates[True] / rates[False], 3),
        "texts": {"identical": same, "of": len(typed)},
    }
    parameters = {
        "model": model,
        "keys": len(typed),
        "scenarios": list(SCENARIOS),
        "seed": seed,
        "tokens": tokens,
        "rounds": rounds,
    }
    return report("speculation", parameters, results)
