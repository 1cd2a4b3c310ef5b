"""`midspan bench speculation`: decoding with drafts against decoding without, same keys.

Replayed typing, where much of each suggestion was in the one before: what the model said then is
picked from again, and what came after a divergence is a draft for one batch. Tokens per second
count the generated tokens over the time from a request's first token to its last, and beside it
over the whole request. The texts must be the same but for near ties: a draft is checked in a wider
batch, whose kernels round differently. A text that differs where no two logits were nearer than
`benchmarks.exactness.TOLERANCE` is a failure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.backend import InfillRequest
from backends.decoding.copying import Copier, CopyWeights, weights_for
from backends.decoding.prompting import TokenPrompt
from backends.decoding.token_model import TokenModel
from benchmarks import traces
from benchmarks.exactness import TOLERANCE
from benchmarks.inprocess import in_process, load
from benchmarks.keystrokes import MAX_AFTER, MAX_BEFORE, default_source, model_file
from benchmarks.reference import Trace, greedy
from benchmarks.report import report

SCENARIOS = ("linear", "typos", "accept")


def run(
    *, model: str, keys: int, seed: int, tokens: int, rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run the benchmark: `keys` keys of each scenario, on and off by turns, `rounds` times."""
    source = default_source().read_text(encoding="utf-8")
    typed = traces.generate(source, keys, seed, SCENARIOS)
    requests = [
        InfillRequest(
            key.prefix[-MAX_BEFORE:], key.suffix[:MAX_AFTER], key.document, max_tokens=tokens
        )
        for key in typed
    ]
    texts: dict[bool, list[str]] = {}
    verdicts = {"identical": 0, "near_ties": 0, "failures": 0}
    generated = {True: 0, False: 0}
    decoding = {True: 0.0, False: 0.0}  # milliseconds
    whole = {True: 0.0, False: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        loaded, template = load(model_file(model, Path(folder), progress))
        copying = weights_for(loaded.model_bytes)
        for number in range(rounds):
            for speculate in (False, True):
                progress(f"round {number + 1}: speculation {'on' if speculate else 'off'}")
                with in_process(loaded, template, speculate=speculate, copying=copying) as engine:
                    texts[speculate] = []
                    for request in requests:
                        chunks = engine.infill(request)
                        texts[speculate].append("".join(chunk.text for chunk in chunks))
                        last = chunks[-1]
                        if last.usage and last.timings:
                            generated[speculate] += last.usage.completion_tokens
                            decoding[speculate] += last.timings.predicted_ms
                            whole[speculate] += last.timings.prompt_ms + last.timings.predicted_ms
                    prompts = engine.prompts
        for number, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            pair = texts[True][number], texts[False][number]
            verdicts[_verdict(loaded, request, prompt, pair, copying)] += 1
    results = {
        **_rates("", generated, decoding),
        **_rates("whole_request_", generated, whole),
        "texts": verdicts,
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


def _verdict(
    model: TokenModel,
    request: InfillRequest,
    prompt: TokenPrompt,
    pair: tuple[str, str],
    copying: CopyWeights | None,
) -> str:
    if pair[0] == pair[1]:
        return "identical"
    copier = Copier(request.prefix, request.suffix, copying) if copying else None
    trace = Trace()
    greedy(model, prompt, request.max_tokens, copier=copier, trace=trace)
    return "near_ties" if min(trace.margins) < TOLERANCE else "failures"


def _rates(
    name: str, generated: dict[bool, int], milliseconds: dict[bool, float]
) -> dict[str, Any]:
    rate = {way: 1000 * generated[way] / milliseconds[way] for way in generated}
    return {
        f"{name}tokens_per_second": {
            "with": round(rate[True], 1),
            "without": round(rate[False], 1),
        },
        f"{name}ratio": round(rate[True] / rate[False], 3),
    }
