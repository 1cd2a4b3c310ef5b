"""A model tried out: read, loaded, asked, typed along with, and ended again.

Rule: runs what the manager would run, in a process of its own, so that nobody's completions wait
for it; a step that fails says why and the ones that need it are left out. Must not know who asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum

import psutil

from backends import cache_spec, catalogue, chosen, factory, memory, paths
from backends.backend import Backend, ChatRequest, Chunk, InfillRequest, Message, Role
from backends.catalogue import Model
from backends.errors import MidspanError, WorkerDied
from backends.factory import Wishes
from backends.remembered import Remembered

DOCUMENT = "file:///midspan/trial.py"
PATIENCE_MS = 120_000.0  # for one answer; a large model on a slow machine
CHAT_TOKENS = 24
TOKENS = 32
PREFIX = '''\
def mean(values):
    """Return the arithmetic mean of `values`."""
    total = 0
    for value in values:
        total += value
    return total / len(values)


def variance(values):
    """Return the population variance of `values`."""
    centre = mean(values)
    total = 0
    for value in values:
        '''
SUFFIX = """
    return total / len(values)


def deviation(values):
    return variance(values) ** 0.5
"""


class Outcome(StrEnum):
    """How a step went."""

    OK = "ok"
    NOTE = "note"  # not wrong, and worth knowing
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried; `said` is for people, `figures` are in the units they name."""

    name: str
    outcome: Outcome
    said: str
    figures: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    last: Chunk
    first_ms: float  # to the first text, or to the end where there is none

    @property
    def evaluated(self) -> int:
        """Prompt tokens that were not cached."""
        usage = self.last.usage
        return usage.prompt_tokens - usage.cached_tokens if usage else 0


async def steps(model: Model) -> AsyncIterator[Step]:
    """Try `model`, and yield each step when it is over. Raises nothing of its own."""
    expected = 0
    if not model.is_remote:
        try:
            read, expected = await asyncio.to_thread(_read, model)
        except MidspanError as error:
            yield Step("file", Outcome.FAILED, str(error))
            return
        for step in read:
            yield step
        if any(step.outcome is Outcome.FAILED for step in read):
            return
    started = time.perf_counter()
    try:
        backend = await factory.make(model, _wishes(model))
    except MidspanError as error:
        yield Step("load", Outcome.FAILED, str(error))
        return
    try:
        yield _loaded(backend, _ms_since(started), expected)
        async for step in _asked(backend):
            yield step
    finally:
        await backend.close()


def _wishes(model: Model) -> Wishes:
    """Return how the manager would start it."""
    if model.is_remote:
        return Wishes(_ended)
    engine = catalogue.engine_for(model).name
    remembered = Remembered(paths.state_dir())
    safe = remembered.needs_safe_mode(catalogue.build_and_processor(engine))
    return Wishes(_ended, safe_mode=safe)


def _ended(_why: WorkerDied) -> None:
    """Do nothing: the request under way says it too."""


def _read(model: Model) -> tuple[list[Step], int]:
    """Return what is known unloaded, and the bytes expected. Raises MidspanError."""
    facts = catalogue.facts(model)
    if facts.problem:
        return [Step("file", Outcome.FAILED, facts.problem)], 0
    header = catalogue.read_header(model.path)
    spec = cache_spec.from_header(header)
    engine = catalogue.engine_for(model).name
    kind = memory.kept_type(header, model.settings, engine) or cache_spec.DEFAULT_KV_TYPE
    expected = memory.expected(header, model.settings, engine)
    free = memory.available()
    said = f"{facts.architecture} {facts.quantisation}, {_mib(facts.size_bytes)}".replace(" ,", ",")
    choices = chosen.choices(model, header, spec)
    room = f"{_mib(expected)} expected, {_mib(free)} free"
    return [
        Step("file", Outcome.NOTE if facts.warning else Outcome.OK, facts.warning or said),
        Step(
            "cache",
            Outcome.OK,
            f"{len(spec.layers)} layers, {spec.token_bytes(kind):,} bytes a token ({kind})",
            {"layers": len(spec.layers), "token_bytes": spec.token_bytes(kind), "kv_type": kind},
        ),
        Step(
            "memory",
            Outcome.OK if expected <= free else Outcome.FAILED,
            room if expected <= free else f"{room}: take a smaller file or context_length",
            {"expected_bytes": expected, "free_bytes": free},
        ),
        Step(
            "settings",
            Outcome.OK,
            f"{engine}: " + ", ".join(f"{choice.name} {choice.value}" for choice in choices),
        ),
    ], expected


def _loaded(backend: Backend, took_ms: float, expected: int) -> Step:
    figures: dict[str, float | int | str] = {"load_ms": round(took_ms, 1)}
    said = f"{backend.description}, in {took_ms / 1000:.1f} s"
    if backend.pid is not None:
        resident = int(psutil.Process(backend.pid).memory_info().rss)
        figures |= {"resident_bytes": resident, "expected_bytes": expected}
        said += f"; {_mib(resident)} in memory"
    return Step("load", Outcome.OK, said, figures)


async def _asked(backend: Backend) -> AsyncIterator[Step]:
    """Yield what the loaded model did with requests."""
    can = backend.capabilities
    if not can.fim and not can.chat:
        yield Step("use", Outcome.FAILED, f"{can.no_fim_reason} {can.no_chat_reason}".strip())
        return
    tries = ((_completes, can.fim, can.no_fim_reason), (_chats, can.chat, can.no_chat_reason))
    for attempt, able, why in tries:
        name = attempt.__name__.lstrip("_")
        if not able:
            yield Step(name, Outcome.NOTE, f"no: {why}")
            continue
        try:
            async for step in attempt(backend):
                yield step
        except MidspanError as error:
            yield Step(name, Outcome.FAILED, str(error))


async def _completes(backend: Backend) -> AsyncIterator[Step]:
    """Fill a gap with nothing cached; type the first letter of it; come back."""
    cold = await _filled(backend, PREFIX)
    usage, timings = cold.last.usage, cold.last.timings
    tokens = usage.completion_tokens if usage else 0
    seconds = timings.predicted_ms / 1000 if timings else 0.0
    rate = tokens / seconds if seconds else 0.0
    yield Step(
        "completes",
        Outcome.OK if cold.text.strip() else Outcome.NOTE,
        repr(cold.text) if cold.text.strip() else "there was nothing to suggest",
        {"text": cold.text, "tokens": tokens},
    )
    yield Step(
        "speed",
        Outcome.OK,
        f"first text after {cold.first_ms:.0f} ms with {cold.evaluated} tokens to evaluate"
        + (f", then {rate:.0f} tokens a second" if rate else ""),
        {
            "first_text_ms": round(cold.first_ms, 1),
            "evaluated_tokens": cold.evaluated,
            "tokens_per_second": round(rate, 1),
        },
    )
    typed = await _filled(backend, PREFIX + (cold.text.strip()[:1] or "t"))
    reused = typed.evaluated < cold.evaluated
    yield Step(
        "next key",
        Outcome.OK if reused else Outcome.NOTE,
        f"first text after {typed.first_ms:.0f} ms, {typed.evaluated} tokens evaluated"
        + ("" if reused else ": nothing was found in its cache"),
        {"first_text_ms": round(typed.first_ms, 1), "evaluated_tokens": typed.evaluated},
    )
    again = await _filled(backend, PREFIX)
    same = again.text == cold.text
    yield Step(
        "from cache",
        Outcome.OK if same else Outcome.NOTE,
        "the same text" if same else f"another text, {again.text!r}: two words were near a tie",
        {"evaluated_tokens": again.evaluated},
    )


async def _chats(backend: Backend) -> AsyncIterator[Step]:
    messages = (Message(Role.USER, "Say hello in one short sentence."),)
    request = ChatRequest(messages, max_tokens=CHAT_TOKENS, deadline_ms=PATIENCE_MS)
    answer = await _gathered(backend.chat(request))
    said = answer.text.strip()
    thought = f"it was still thinking after {CHAT_TOKENS} tokens"
    yield Step(
        "chats",
        Outcome.OK if said else Outcome.NOTE,
        repr(said) if said else thought if answer.last.reasoning else "the answer was empty",
        {"text": answer.text, "first_text_ms": round(answer.first_ms, 1)},
    )


async def _filled(backend: Backend, prefix: str) -> _Answer:
    request = InfillRequest(
        prefix,
        SUFFIX,
        DOCUMENT,
        path="trial.py",
        max_tokens=TOKENS,
        single_line=True,
        prompt_ms=PATIENCE_MS,
        deadline_ms=PATIENCE_MS,
    )
    return await _gathered(backend.infill(request))


async def _gathered(stream: AsyncGenerator[Chunk, None]) -> _Answer:
    """Return all that came. Raises MidspanError."""
    started, first_ms = time.perf_counter(), 0.0
    chunks: list[Chunk] = []
    async with aclosing(stream) as pieces:
        async for chunk in pieces:
            if not first_ms and (chunk.text or chunk.reasoning):
                first_ms = _ms_since(started)
            chunks.append(chunk)
    whole = chunks[-1].after(chunks[:-1])
    return _Answer(whole.text, whole, first_ms or _ms_since(started))


def _ms_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
