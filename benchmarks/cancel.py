"""`midspan bench cancel`: from `$/cancelRequest` to an idle worker, and what is kept of its work.

A real language server, manager and worker. Each run opens a document of its own, asks for a
suggestion in it, cancels that at a random part of the time its prefill takes, and polls the worker
until it has nothing to do, so that the figures include a poll. Then the same place is asked for
again: what was evaluated before the cancellation must not be evaluated twice. Whether a request
was in mid-prefill is seen just before it is cancelled, never judged by how it ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from backends.client import ManagerClient
from benchmarks import holdout
from benchmarks.infill import read
from benchmarks.keystrokes import model_file
from benchmarks.private import private_manager
from benchmarks.report import quantile, report
from lsp_server.cli.editor import Editor
from lsp_server.documents import Document
from lsp_server.snapshot import Snapshot, take

MODELS = ("starter", "0.5b")
PROMPT_TOKENS = 2000  # or as many as the model's context holds
FIRST_CHARS = 1500  # of the document that measures characters per token
BEFORE_CURSOR = 0.75
EARLIEST, LATEST = 0.1, 0.7  # parts of the prefill's time
ATTEMPTS = 3  # for each run: an answer may come before its cancellation
POLL_S = 0.001
PATIENCE_S = 30.0
ENOUGH_MS = 500.0  # to see what the place's next request finds cached; it need not be answered
# Longer than any prefill here: the language server gives its prompts no time of their own.
UNLIMITED_MS = 600_000.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One cancelled request; times in milliseconds."""

    asked_for_ms: float  # from the request to its cancellation
    to_idle_ms: float
    poll_ms: float  # what the last poll took
    evaluated_before: int  # tokens at the cancellation, in whole steps
    evaluated: int  # tokens when the worker was idle
    prompt_tokens: int
    cached_tokens: int  # of the next request for the same place

    @property
    def in_prefill(self) -> bool:
        """Whether the prompt was not evaluated to its end when the request was cancelled."""
        return self.evaluated_before < self.prompt_tokens


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return a model's part of the report, from one sample in mid-prefill at least."""
    later = [sample.to_idle_ms for sample in samples if not sample.in_prefill]
    samples = [sample for sample in samples if sample.in_prefill]
    # The worker may be stopped before its first micro-batch is done: then nothing can be kept.
    some = [sample for sample in samples if sample.evaluated]
    return {
        "cancel_to_idle_ms": _spread([sample.to_idle_ms for sample in samples]),
        "of_that_the_last_poll_ms": _spread([sample.poll_ms for sample in samples]),
        "requests_in_mid_prefill": len(samples),
        "requests_after_prefill": {"count": len(later)}
        | ({"cancel_to_idle_ms": _spread(later)} if later else {}),
        "prompt_tokens": round(quantile([sample.prompt_tokens for sample in samples], 0.5)),
        "evaluated_tokens_when_idle": _spread([sample.evaluated for sample in samples]),
        "next_request": {
            "after_some_tokens": len(some),
            "found_some_cached": sum(sample.cached_tokens > 0 for sample in some),
            "cached_tokens": _spread([sample.cached_tokens for sample in samples]),
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(quantile(values, 0.5), 1),
        "p95": round(quantile(values, 0.95), 1),
        "max": round(max(values), 1),
    }


def document(source: str, chars: int, number: int) -> Document:
    """Return the first characters of `source`, numbered at each line.

    So wherever a prompt begins, it shares no more than a line with another document's.
    """
    text = "".join(f"{line}  # {number:04}\n" for line in source[:chars].split("\n"))
    return Document(f"file:///bench/{number}.py", text, 1, "python")


class Bench:
    """One model, one language server, one manager."""

    def __init__(self, editor: Editor, client: ManagerClient) -> None:
        self._editor = editor
        self._client = client

    async def poll(self) -> tuple[int, int]:
        """Return how many requests the worker has, and the tokens it has evaluated so far."""
        row = await self._client.get("/api/models/current")
        return row["active"], row["evaluated_tokens"]

    async def idle(self) -> tuple[int, float]:
        """Wait until the worker has nothing to do.

        Return the tokens it has evaluated so far, and the last poll's milliseconds.
        """
        async with asyncio.timeout(PATIENCE_S):
            while True:
                asked = time.perf_counter()
                active, evaluated = await self.poll()
                if not active:
                    return evaluated, _ms_since(asked)
                await asyncio.sleep(POLL_S)

    async def complete(self, snapshot: Snapshot, deadline_ms: float = 0) -> dict[str, Any]:
        """Ask for one token at `snapshot`, as the language server would; return the answer."""
        return await self._client.infill(
            {
                "input_prefix": snapshot.before,
                "input_suffix": snapshot.after,
                "n_predict": 1,
                "temperature": 0,
                "deadline_ms": deadline_ms,
                "document": snapshot.uri,
                "path": snapshot.path.rpartition("/")[2],
            }
        )

    async def cancelled(self, doc: Document, tokens: int, wait_ms: float) -> Sample | None:
        """Ask in `doc`, a prompt of `tokens`, and cancel after `wait_ms`.

        None where the answer came sooner.
        """
        offset = int(len(doc.text) * BEFORE_CURSOR)
        await self._open(doc)
        before, _ = await self.idle()
        line = doc.text.count("\n", 0, offset)
        column = offset - (doc.text.rfind("\n", 0, offset) + 1)
        params = {
            "textDocument": {"uri": doc.uri},
            "position": {"line": line, "character": column},
            "context": {"triggerKind": 1},  # invoked: no debounce, no short deadline
        }
        asked = time.perf_counter()
        task = asyncio.create_task(self._editor.request("textDocument/inlineCompletion", params))
        await asyncio.wait({task}, timeout=wait_ms / 1000)
        active, so_far = await self.poll()
        if task.done() or not active:
            await task
            return None
        asked_for = _ms_since(asked)
        started = time.perf_counter()
        task.cancel()
        await asyncio.wait({task})  # `$/cancelRequest` has been written
        after, poll = await self.idle()
        to_idle = _ms_since(started)
        answer = await self.complete(_middle(doc), ENOUGH_MS)
        await self._editor.notify("textDocument/didClose", {"textDocument": {"uri": doc.uri}})
        return Sample(
            asked_for,
            to_idle,
            poll,
            so_far - before,
            after - before,
            tokens,
            answer["usage"]["cached_tokens"],
        )

    async def _open(self, doc: Document) -> None:
        item = {"uri": doc.uri, "languageId": "python", "version": 1, "text": doc.text}
        await self._editor.notify("textDocument/didOpen", {"textDocument": item})


def _ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


async def _measure(
    runs: int, prompt_tokens: int, seed: int, progress: Callable[[str], None]
) -> list[Sample]:
    rng = random.Random(seed)
    source = "\n".join(text for _, text in read(holdout.held_out_files()))
    source = source[rng.randrange(len(source) // 2) :]
    client = ManagerClient(client_name="midspan-bench")
    try:
        async with await Editor.start() as editor:
            # What is prepared while the user rests would leave no prefill to cancel.
            await editor.initialize({"prefetch": False})
            await editor.notify("initialized", {})
            bench = Bench(editor, client)
            chars, size, prefill_ms = await _calibrate(bench, source, prompt_tokens)
            samples: list[Sample] = []
            for number in range(ATTEMPTS * runs):
                wait = rng.uniform(EARLIEST, LATEST) * prefill_ms
                sample = await bench.cancelled(document(source, chars, number), size, wait)
                if sample is not None:
                    samples.append(sample)
                done = sum(sample.in_prefill for sample in samples)
                progress(f"{done} of {runs} requests cancelled in mid-prefill")
                if done == runs:
                    break
            return samples
    finally:
        await client.close()


async def _calibrate(bench: Bench, source: str, prompt_tokens: int) -> tuple[int, int, float]:
    """Return the characters of a document with about so many tokens, or as many as are shown.

    And the tokens of its prompt, and the milliseconds of its prefill.
    """
    first = await bench.complete(_middle(document(source, FIRST_CHARS, 9000)))
    chars = int(FIRST_CHARS * prompt_tokens / first["usage"]["prompt_tokens"])
    await bench.idle()
    full = await bench.complete(_middle(document(source, chars, 9001)))
    await bench.idle()
    return chars, full["usage"]["prompt_tokens"], full["timings"]["prompt_ms"]


def _middle(doc: Document) -> Snapshot:
    return take(doc, int(len(doc.text) * BEFORE_CURSOR))


def run(
    *,
    runs: int = 20,
    models: Sequence[str] = MODELS,
    prompt_tokens: int = PROMPT_TOKENS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object.

    `models`: "starter", presets of `random_gguf`, or GGUF files.
    """
    results: dict[str, Any] = {}
    wide = {"MIDSPAN_COMPLETION_COLD_PREFILL_MS": str(UNLIMITED_MS)}
    with (
        tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder,
        patch.dict(os.environ, wide),
    ):
        for model in models:
            path = model_file(model, Path(folder), progress)
            progress(f"model: {model}")
            with private_manager({f"bench-{path.stem}": path}):
                results[model] = summary(asyncio.run(_measure(runs, prompt_tokens, seed, progress)))
    parameters = {
        "runs": runs,
        "models": list(models),
        "prompt_tokens": prompt_tokens,
        "seed": seed,
        "cancelled_after": f"{EARLIEST:g} to {LATEST:g} of the prefill's time",
        "measured": "from $/cancelRequest at the editor until a poll finds the worker idle",
    }
    return report("cancel", parameters, results)
