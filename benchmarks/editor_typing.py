"""`midspan bench typing`: whole keystrokes, through the real language server, manager and worker.

Linear typing that waits for each answer: how many keys needed no evaluation (typed through,
prefetched), the round trip at the client, and what of it is not the engine. Then as fast as keys
can come, without waiting: never more than one generation at a time for a document, and the last
suggestion is for the last text.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.client import ManagerClient
from benchmarks import traces
from benchmarks.keystrokes import default_source, model_file
from benchmarks.private import private_manager
from benchmarks.report import quantile, report
from lsp_server.cli.editor import Editor

URI = "file:///bench/typing.py"
KNOWN = ("typedThrough", "deletedBack", "repeated", "prefetched")
SHOWN_S = 0.35  # how long a suggestion is looked at before the next key, now and then
LOOK_EVERY = 8  # keys
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class KeyCost:
    """What one key cost at the client; `engine_ms` is 0 where nothing was evaluated."""

    ms: float
    engine_ms: float
    known: bool


def run(
    *,
    model: str,
    keys: int,
    pace_ms: float,
    rapid_keys: int,
    rapid_ms: float,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the benchmark: `keys` waited for, `pace_ms` between them, then `rapid_keys` not."""
    source = default_source().read_text(encoding="utf-8")
    rng = random.Random(seed)
    typed = list(traces.linear(source, max(keys, rapid_keys), rng))
    with tempfile.TemporaryDirectory() as folder:
        path = model_file(model, Path(folder), progress)
        with private_manager({"bench": path}):
            results = asyncio.run(_both(typed, keys, pace_ms, rapid_keys, rapid_ms, progress))
    parameters = {
        "model": model,
        "keys": keys,
        "pace_ms": pace_ms,
        "rapid_keys": rapid_keys,
        "rapid_ms": rapid_ms,
        "seed": seed,
    }
    return report("typing", parameters, results)


async def _both(
    typed: Sequence[traces.Key],
    keys: int,
    pace_ms: float,
    rapid_keys: int,
    rapid_ms: float,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    async with await Editor.start() as editor:
        await editor.initialize()
        await editor.notify("initialized", {})
        session = Session(editor)
        await session.open(typed[0])
        progress(f"{keys} keys, each waited for")
        costs = [await session.key(key, number, pace_ms) for number, key in enumerate(typed[:keys])]
        progress(f"{rapid_keys} keys, one every {rapid_ms:g} ms, not waited for")
        rapid = await session.rapid(typed[:rapid_keys], rapid_ms)
    return {"waited_for": summary(costs), "rapid": rapid}


class Session:
    """One document in an editor, typed into."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._version = 0
        self._last: traces.Key | None = None

    async def open(self, key: traces.Key) -> None:
        """Open the document and wait until the model has answered once."""
        document = {"uri": URI, "languageId": "python", "version": 0, "text": ""}
        await self._editor.notify("textDocument/didOpen", {"textDocument": document})
        await self._change(key)
        await self._ask(key, invoked=True)

    async def key(self, key: traces.Key, number: int, pace_ms: float) -> KeyCost:
        """Press a key, wait for the answer, and go on after a moment."""
        before = await self._stats()
        started = time.perf_counter()
        await self._change(key)
        await self._ask(key)
        ms = (time.perf_counter() - started) * 1000
        after = await self._stats()
        await asyncio.sleep(SHOWN_S if number % LOOK_EVERY == 0 else pace_ms / 1000)
        return KeyCost(
            ms=ms,
            engine_ms=(after["evaluatedEngineUs"] - before["evaluatedEngineUs"]) / 1000,
            known=any(after[name] > before[name] for name in KNOWN),
        )

    async def rapid(self, keys: Sequence[traces.Key], rapid_ms: float) -> dict[str, Any]:
        """Press keys at a fixed pace; watch the worker meanwhile, and the last answer."""
        active: list[int] = []
        watch = asyncio.create_task(_watch(active))
        asked = []
        for key in keys:
            await self._change(key)
            asked.append(asyncio.create_task(self._ask(key)))
            await asyncio.sleep(rapid_ms / 1000)
        answers = await asyncio.gather(*asked)
        watch.cancel()
        again = await self._ask(keys[-1])
        return {
            "keys": len(keys),
            "answers": len(answers),
            "most_generations_at_once": max(active, default=0),
            "polls": len(active),
            "last_is_for_the_last_text": answers[-1] == again,
            "last_is_empty": not again,
        }

    async def _change(self, key: traces.Key) -> None:
        """Send what an editor sends: the typed text where it was typed, else the whole document."""
        change: dict[str, Any] = {"text": key.prefix + key.suffix}
        last = self._last
        if last and key.suffix == last.suffix and key.prefix.startswith(last.prefix):
            at = _position(last.prefix)
            change = {"range": {"start": at, "end": at}, "text": key.prefix[len(last.prefix) :]}
        self._last, self._version = key, self._version + 1
        document = {"uri": URI, "version": self._version}
        await self._editor.notify(
            "textDocument/didChange", {"textDocument": document, "contentChanges": [change]}
        )

    async def _ask(self, key: traces.Key, *, invoked: bool = False) -> str:
        params = {
            "textDocument": {"uri": URI},
            "position": _position(key.prefix),
            "context": {"triggerKind": 1 if invoked else 2},
        }
        answer = await self._editor.request("textDocument/inlineCompletion", params)
        items = answer["items"]
        return str(items[0]["insertText"]) if items else ""

    async def _stats(self) -> dict[str, int]:
        answer = await self._editor.request(
            "workspace/executeCommand", {"command": "midspan.status", "arguments": []}
        )
        stats: dict[str, int] = answer["stats"]
        return stats


def _position(prefix: str) -> dict[str, int]:
    """Return where `prefix` ends, in UTF-32, which the editor has negotiated."""
    return {"line": prefix.count("\n"), "character": len(prefix.rpartition("\n")[2])}


async def _watch(active: list[int]) -> None:
    client = ManagerClient(client_name="midspan-bench")
    try:
        while True:
            status = await client.get("/api/models/status")
            active.append(max((row.get("generating") or 0) for row in status["models"]))
            await asyncio.sleep(POLL_S)
    finally:
        await client.close()


def summary(costs: Sequence[KeyCost]) -> dict[str, Any]:
    """Return shares and times of keys that were waited for."""
    known = [cost.ms for cost in costs if cost.known]
    evaluated = [cost for cost in costs if cost.engine_ms]
    return {
        "keys": len(costs),
        "share_with_no_evaluation": round(len(known) / len(costs), 4),
        "known_round_trip_ms": _spread(known),
        "evaluated_round_trip_ms": _spread([cost.ms for cost in evaluated]),
        "overhead_ms": _spread([cost.ms - cost.engine_ms for cost in evaluated]),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"p50": round(quantile(values, 0.5), 2), "p95": round(quantile(values, 0.95), 2)}
