"""A scheduler on its own thread, with its chunks collected."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from backends.backend import ChatRequest, Chunk, FinishReason, InfillRequest, Usage
from backends.decoding.scheduler import Scheduler
from backends.decoding.token_model import TokenModel
from backends.errors import MidspanError
from fim.templates import Template, detect

TIMEOUT = 60.0


@dataclass
class Outcome:
    """What a request came to."""

    chunks: list[Chunk] = field(default_factory=list)
    error: MidspanError | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def reasoning(self) -> str:
        return "".join(chunk.reasoning for chunk in self.chunks)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.chunks[-1].finish_reason

    @property
    def usage(self) -> Usage:
        usage = self.chunks[-1].usage
        assert usage is not None
        return usage


class Running:
    """Submits requests to a scheduler and waits for their ends."""

    def __init__(self, model: TokenModel, **options: Any) -> None:
        template = detect(
            model.vocab.control_tokens, architecture=model.vocab.architecture, name=model.vocab.name
        )
        assert isinstance(template, Template)
        self.scheduler = Scheduler(model, template, self._emit, **options)
        self.outcomes: dict[int, Outcome] = {}
        self.ended: list[int] = []
        self._next = 0

    def _emit(self, id: int, outcome: Chunk | MidspanError) -> None:
        mine = self.outcomes[id]
        assert not mine.done.is_set(), "nothing may follow the end of a request"
        if isinstance(outcome, MidspanError):
            mine.error = outcome
        else:
            mine.chunks.append(outcome)
        if mine.error or mine.finish_reason is not None:
            self.ended.append(id)
            mine.done.set()

    def submit(self, request: InfillRequest | ChatRequest) -> int:
        self._next += 1
        self.outcomes[self._next] = Outcome()
        self.scheduler.submit(self._next, request)
        return self._next

    def wait(self, id: int) -> Outcome:
        assert self.outcomes[id].done.wait(TIMEOUT), "the scheduler hangs"
        return self.outcomes[id]

    def infill(self, request: InfillRequest) -> Outcome:
        return self.wait(self.submit(request))

    def chat(self, request: ChatRequest) -> Outcome:
        return self.wait(self.submit(request))


@contextmanager
def running(model: TokenModel, **options: Any) -> Iterator[Running]:
    """Run a scheduler for `model`, with its `options`, until the block ends."""
    harness = Running(model, **options)
    harness.scheduler.warm_up()
    thread = threading.Thread(target=harness.scheduler.run)
    thread.start()
    try:
        yield harness
    finally:
        harness.scheduler.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
