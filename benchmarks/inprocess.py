"""A scheduler in this process, for measurements below HTTP: one request after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backends import engines
from backends.backend import Chunk, InfillRequest
from backends.decoding.copying import CopyWeights
from backends.decoding.prompting import TokenPrompt
from backends.decoding.scheduler import Scheduler
from backends.decoding.token_model import Logits, TokenModel
from backends.errors import MidspanError
from backends.frames import Load
from fim import templates


class InProcess:
    """Submits requests and waits for them. `prompts` holds the prompt of each, in order."""

    def __init__(
        self,
        model: TokenModel,
        template: templates.Template,
        *,
        speculate: bool,
        copying: CopyWeights | None,
    ) -> None:
        self.scheduler = Scheduler(
            model, template, self._emit, speculate=speculate, copying=copying
        )
        self.prompts: list[TokenPrompt] = []
        self._chunks: list[Chunk] = []
        self._error: MidspanError | None = None
        self._done = threading.Semaphore(0)
        self._id = 0

    def _emit(self, id: int, outcome: Chunk | MidspanError) -> None:
        if isinstance(outcome, MidspanError):
            self._error = outcome
            self._done.release()
            return
        self._chunks.append(outcome)
        if outcome.finish_reason is not None:
            self._done.release()

    def infill(self, request: InfillRequest) -> list[Chunk]:
        """Return the request's chunks. Raises MidspanError."""
        self._chunks, self._error, self._id = [], None, self._id + 1
        self.scheduler.submit(self._id, request)
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._chunks

    def logits(self) -> Logits | None:
        """Return those after the last request's prompt, where the scheduler still has them."""
        cache, prompt = self.scheduler._cache, self.prompts[-1]
        entry = cache._entries.get(prompt.key)
        rows = cache.known(entry, len(prompt.tokens)) if entry is not None else []
        return rows[0] if rows else None


def load(path: Path) -> tuple[TokenModel, templates.Template]:
    """Load a GGUF with its template."""
    model = engines.load(Load(engine="llama-cpp", path=str(path), name=path.stem))
    template = templates.detect(
        model.vocab.control_tokens,
        architecture=model.vocab.architecture,
        name=templates.called(model.vocab.name, path),
    )
    if isinstance(template, templates.NoFim):
        raise ValueError(template.reason)
    return model, template


@contextmanager
def in_process(
    model: TokenModel,
    template: templates.Template,
    *,
    speculate: bool = True,
    copying: CopyWeights | None = None,
) -> Iterator[InProcess]:
    """Run a scheduler for `model` until the block ends; its sequences are empty around it."""
    runner = InProcess(model, template, speculate=speculate, copying=copying)
    build = runner.scheduler._prompter.prompt

    def recorded(request: InfillRequest) -> TokenPrompt:
        runner.prompts.append(build(request))
        return runner.prompts[-1]

    runner.scheduler._prompter.prompt = recorded  # type: ignore[method-assign]
    runner.scheduler.warm_up()
    loop = threading.Thread(target=runner.scheduler.run)
    loop.start()
    try:
        yield runner
    finally:
        runner.scheduler.stop()
        loop.join()
        for sequence in range(model.max_sequences):
            model.free(sequence)
