"""How strongly the starter model should copy from the document: exact match by weights.

Measured on idlelib and turtledemo, which are neither in the corpus nor held out for the benchmark,
so that what is chosen here is not chosen on what is reported. Prints a line for each setting; the
best one is written into `backends.decoding.copying.CopyWeights` by hand.

    python -m training.tune_copying MODEL.gguf
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from backends import engines
from backends.backend import Chunk, InfillRequest
from backends.decoding.copying import CopyWeights
from backends.decoding.scheduler import Scheduler
from backends.decoding.token_model import TokenModel
from backends.errors import MidspanError
from backends.frames import Load
from benchmarks import holdout
from benchmarks.infill import MAX_TOKENS, Cut, cuts, first_line
from fim import templates

PACKAGES = ("idlelib", "turtledemo")
CUTS = 200
SEED = 1
BEFORE, AFTER = 64 * 1024, 16 * 1024  # characters, as the language server sends
SETTINGS = [
    None,
    *(CopyWeights(slope, 3, most) for slope in (0.7, 1.5, 3.0) for most in (8.0, 16.0)),
]


def places() -> list[Cut]:
    """Return the places to complete."""
    root = holdout.stdlib_root()
    files = [path for name in PACKAGES for path in sorted((root / name).glob("*.py"))]
    return cuts([(path.name, path.read_text(encoding="utf-8")) for path in files], CUTS, SEED)


def exact(
    model: TokenModel, template: templates.Template, chosen: list[Cut], weights: CopyWeights | None
) -> int:
    """Return how many of the cuts are completed exactly."""
    texts = [""] * len(chosen)
    left = threading.Semaphore(0)

    def emit(id: int, outcome: Chunk | MidspanError) -> None:
        if isinstance(outcome, MidspanError):
            raise outcome
        texts[id] += outcome.text
        if outcome.finish_reason is not None:
            left.release()

    scheduler = Scheduler(model, template, emit, copying=weights)
    scheduler.warm_up()
    loop = threading.Thread(target=scheduler.run)
    loop.start()
    for id, cut in enumerate(chosen):
        before, after = cut.prefix[-BEFORE:], cut.suffix[:AFTER]
        request = InfillRequest(before, after, max_tokens=MAX_TOKENS, single_line=True)
        scheduler.submit(id, request)
        left.acquire()
    scheduler.stop()
    loop.join()
    return sum(first_line(text) == cut.truth for text, cut in zip(texts, chosen, strict=True))


def main() -> None:
    """Command line."""
    path = Path(sys.argv[1])
    model = engines.load(Load(engine="llama-cpp", path=str(path), name=path.stem))
    template = templates.detect(
        model.vocab.control_tokens,
        architecture=model.vocab.architecture,
        name=templates.called(model.vocab.name, path),
    )
    if isinstance(template, templates.NoFim):
        sys.exit(template.reason)
    chosen = places()
    for weights in SETTINGS:
        hits = exact(model, template, chosen, weights)
        print(f"{weights}: {hits} of {len(chosen)}, {100 * hits / len(chosen):.1f} %", flush=True)
    model.close()


if __name__ == "__main__":
    main()
