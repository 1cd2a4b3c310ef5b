"""`midspan bench exactness`: the cached engine against a cold evaluation of the same prompts.

Random edit scripts (typing, deleting, jumping, pasting, other documents) are replayed through the
scheduler with all its caches, speculation and batching; each greedy text must be that of the
plainest possible decoding of the same prompt from nothing, and so must be the logits after the
prompt. Other batch sizes take other kernels, which round differently, so logits may differ by the
stated tolerance, and a text where the two best were nearer than that; such near ties are counted,
anything else is a failure.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backends.backend import InfillRequest
from backends.decoding.copying import Copier, weights_for
from benchmarks.inprocess import in_process, load
from benchmarks.keystrokes import default_source, model_file
from benchmarks.reference import Trace, greedy
from benchmarks.report import quantile, report

TOLERANCE = 0.5  # logits; Q8_0 rounds activations to 8 bits, the KV cache to 16
MAX_TOKENS = 10


def run(
    *,
    model: str,
    scripts: int,
    steps: int,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the benchmark: `scripts` scripts of `steps` requests each."""
    source = default_source().read_text(encoding="utf-8")
    counts = {"requests": 0, "identical": 0, "near_ties": 0, "failures": 0}
    differences: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(model, Path(folder), progress)
        warm, template = load(path)
        cold, _ = load(path)
        copying = weights_for(warm.model_bytes)
        for number in range(scripts):
            rng = random.Random(f"{seed}/{number}")
            with in_process(warm, template, copying=copying) as engine:
                for request in script(source, steps, rng):
                    chunks = engine.infill(request)
                    text = "".join(chunk.text for chunk in chunks)
                    copier = Copier(request.prefix, request.suffix, copying) if copying else None
                    trace = Trace()
                    expected = greedy(
                        cold, engine.prompts[-1], MAX_TOKENS, copier=copier, trace=trace
                    )
                    logits = engine.logits()
                    if logits is not None and trace.first is not None:
                        differences.append(float(np.abs(logits - trace.first).max()))
                    counts[_verdict(text, expected, trace)] += 1
                    counts["requests"] += 1
            if number % 50 == 49:
                progress(f"{number + 1} of {scripts} scripts: {counts}")
    parameters = {
        "model": model,
        "scripts": scripts,
        "steps": steps,
        "seed": seed,
        "max_tokens": MAX_TOKENS,
        "tolerance_logits": TOLERANCE,
    }
    compared = {
        "compared": len(differences),
        "over_tolerance": sum(difference > TOLERANCE for difference in differences),
        "difference": {
            "p50": round(quantile(differences, 0.5), 4),
            "p99": round(quantile(differences, 0.99), 4),
            "max": round(max(differences), 4),
        }
        if differences
        else None,
    }
    return report("exactness", parameters, {**counts, "logits": compared})


def _verdict(text: str, expected: str, trace: Trace) -> str:
    if text == expected:
        return "identical"
    return "near_ties" if min(trace.margins) < TOLERANCE else "failures"


def script(source: str, steps: int, rng: random.Random) -> Iterator[InfillRequest]:
    """Yield the requests of one random edit script."""
    texts = {name: source[rng.randrange(len(source) // 2) :][:6000] for name in ("a", "b")}
    cursors = {name: len(text) // 2 for name, text in texts.items()}
    name = "a"
    for _ in range(steps):
        text, cursor = texts[name], cursors[name]
        match rng.choice(("type", "type", "type", "type", "delete", "jump", "paste", "other")):
            case "type":
                typed = source[rng.randrange(len(source) - 4) :][: rng.randint(1, 4)]
                text, cursor = text[:cursor] + typed + text[cursor:], cursor + len(typed)
            case "delete":
                gone = min(cursor, rng.randint(1, 6))
                text, cursor = text[: cursor - gone] + text[cursor:], cursor - gone
            case "jump":
                cursor = rng.randrange(len(text) + 1)
            case "paste":
                pasted = source[rng.randrange(len(source) - 300) :][:300]
                text, cursor = text[:cursor] + pasted + text[cursor:], cursor + len(pasted)
            case "other":
                name = "b" if name == "a" else "a"
                text, cursor = texts[name], cursors[name]
        texts[name], cursors[name] = text, cursor
        yield InfillRequest(
            text[:cursor], text[cursor:], f"file:///{name}.py", max_tokens=MAX_TOKENS
        )
