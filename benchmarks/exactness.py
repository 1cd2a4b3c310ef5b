"""`midspan bench exactness`: the cached engine against a cold evaluation of the same prompts.

Random edit scripts (typing, deleting, jumping, pasting, other documents) are replayed through the
scheduler with all its caches, speculation and batching; each greedy text must be that of the
plainest possible decoding of the same prompt from nothing. Other batch sizes take other kernels,
which round differently, so a text may differ where the two best logits were nearer than the stated
tolerance; such near ties are counted, anything else is a failure.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends.backend import InfillRequest
from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import TokenModel
from benchmarks.inprocess import in_process, load
from benchmarks.keystrokes import default_source, model_file
from benchmarks.reference import greedy
from benchmarks.report import report

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
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(model, Path(folder), progress)
        warm, template = load(path)
        cold, _ = load(path)
        for number in range(scripts):
            rng = random.Random(f"{seed}/{number}")
            with in_process(warm, template) as engine:
                for request in script(source, steps, rng):
                    chunks = engine.infill(request)
                    text = "".join(chunk.text for chunk in chunks)
                    counts[_verdict(cold, engine.prompts[-1], text)] += 1
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
    return report("exactness", parameters, counts)


def _verdict(cold: TokenModel, prompt: TokenPrompt, text: str) -> str:
    margins: list[float] = []
    if greedy(cold, prompt, MAX_TOKENS, margins=margins) == text:
        return "identical"
    return "near_ties" if min(margins) < TOLERANCE else "failures"


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
