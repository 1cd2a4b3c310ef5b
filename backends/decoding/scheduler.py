"""The loop that drives a TokenModel: continuous batching, cancellation, deadlines.

One thread calls `run`; any thread may call `submit` and `cancel`. Each turn of the loop
  1. takes in what was submitted or cancelled,
  2. ends what is cancelled or late,
  3. gives each waiting request a sequence (the newest request of a document wins), or with
     nothing to do prepares what the next keys will need,
  4. forms one batch of the most urgent requests: the next token of every one that is decoding,
     then prefill up to the batch's size,
  5. evaluates it, abortably, and lets each finished feed pick its next token.
Rule: knows generations and sequences, not text. An aborted batch keeps what it finished.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from backends import memory
from backends.backend import (
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Priority,
    Timings,
    Usage,
)
from backends.decoding.copying import CopyWeights
from backends.decoding.generation import Generation, Request
from backends.decoding.idle_work import Backups, IdleWork
from backends.decoding.jobs import Share, Starter, Waiting, owner
from backends.decoding.prefix_cache import PrefixCache
from backends.decoding.prompting import Prompter
from backends.decoding.snapshots import Snapshot, SnapshotStore
from backends.decoding.speculation import DraftTuner
from backends.decoding.token_model import Aborted, CacheFull, Feed, Logits, TokenModel
from backends.errors import BackendError, MidspanError, Unsupported
from fim.templates import NoFim, Template

if TYPE_CHECKING:  # it imports jinja2, which only a model with a chat template needs
    from backends.decoding.chat import Chats

logger = logging.getLogger(__name__)

# Prefill is fed in pieces so that requests that are decoding get their turn between them.
PREFILL_CHUNK = 256
WARM_UP_TOKENS = 64

Emit = Callable[[int, Chunk | MidspanError], None]


class Scheduler:
    """Owns the sequences of one TokenModel and all generations on it."""

    def __init__(
        self,
        model: TokenModel,
        template: Template | NoFim,
        emit: Emit,
        *,
        speculate: bool = True,
        copying: CopyWeights | None = None,
        backups: Backups | None = None,
        chats: Chats | None = None,
    ) -> None:
        """Take `emit(id, chunk or error)`, called from the thread that runs `run`."""
        self._chats = chats
        self._model = model
        self._emit = emit
        self._speculate = speculate and model.can_rewind
        self._cache = PrefixCache(
            model,
            SnapshotStore(memory.snapshot_bytes(model.cache_bytes)),
            known_bytes=memory.KNOWN_BYTES if self._speculate else 0,
        )
        self._prompter = Prompter(model, template, lambda: self._prefill_rate)
        self._starter = Starter(model, self._cache, self._prompter, copying, chats)
        self._idle = IdleWork(self._cache, self._prompter, self._starter, backups)
        self._tuner = DraftTuner()
        self._prefill_rate = 0.0
        self._wake = threading.Condition()
        self._inbox: deque[Waiting] = deque()
        self._cancels: set[int] = set()
        self._given: deque[Snapshot] = deque()
        self._stopped = False
        self._news = False  # something was submitted or cancelled since the last turn
        self._waiting: list[Waiting] = []
        self._active: list[Generation] = []
        self.evaluated_tokens = 0

    # -- called from any thread ---------------------------------------------------------------

    def submit(self, id: int, request: Request) -> None:
        """Queue a request; `emit` gets its chunks, the last with a finish reason, or an error.

        Raises Unsupported for a chat where the model has none.
        """
        prepared = None
        if isinstance(request, ChatRequest):
            if self._chats is None:
                raise Unsupported("This model can't chat.")
            prepared = self._chats.prepare(request, self._poke)
        with self._wake:
            self._idle.last_request = time.perf_counter()
            self._inbox.append(Waiting(id, request, self._idle.last_request, prepared))
            self._tell()

    def cancel(self, id: int) -> None:
        """Stop request `id`: the forward pass under way is aborted if it was for nothing else."""
        with self._wake:
            self._cancels.add(id)
            self._tell()

    def give(self, snapshot: Snapshot) -> None:
        """Take cells that this very model computed before it was last unloaded."""
        self._given.append(snapshot)

    def stop(self) -> None:
        """Make `run` return after the current step."""
        with self._wake:
            self._stopped = True
            self._tell()

    def _poke(self) -> None:
        with self._wake:
            self._wake.notify()

    def _tell(self) -> None:
        self._news = True
        self._wake.notify()

    @property
    def active(self) -> int:
        """Return how many requests are waiting or under way."""
        return len(self._inbox) + len(self._waiting) + len(self._active)

    @property
    def generating(self) -> int:
        """Return how many of them have a sequence and are fed."""
        return len(self._active)

    # -- the loop's thread --------------------------------------------------------------------

    def warm_up(self) -> None:
        """Run one batch large enough to take every code path, and measure the prefill rate."""
        tokens = self._model.tokenize("def f(x):\n    return x\n\n" * WARM_UP_TOKENS)
        batch = tokens[: min(WARM_UP_TOKENS, self._model.max_batch)]
        for _ in range(2):  # the first pass pays for page faults
            started = time.perf_counter()
            self._model.forward([Feed(0, batch)], lambda: False)
            self._prefill_rate = len(batch) / (time.perf_counter() - started)
            self._model.free(0)

    def run(self) -> None:
        """Serve until `stop`. A failing model ends its requests, not the loop."""
        while self._take_in():
            self._end_interrupted()
            self._admit()
            self._prepare()
            try:
                self._step()
            except MidspanError as exc:
                logger.error("forward failed: %s", exc)
                for generation in list(self._active):
                    self._retire(generation, exc)

    def _take_in(self) -> bool:
        with self._wake:
            while not (self._inbox or self._has_work() or self._stopped):
                self._wake.wait(self._idle.until_backup())
            self._news = False
            self._take_given()
            self._waiting.extend(self._inbox)
            self._inbox.clear()
            cancels, self._cancels = self._cancels, set()
            for generation in self._active:
                generation.cancelled |= generation.id in cancels
        for waiting in [waiting for waiting in self._waiting if waiting.id in cancels]:
            self._drop(waiting)
        return not self._stopped

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield what is cached, most recently used first; once `run` has returned."""
        self._take_given()
        return self._cache.snapshots()

    def _take_given(self) -> None:
        while self._given:
            self._cache.give(self._given.popleft())

    def _has_work(self) -> bool:
        ready = self._active or any(waiting.ready for waiting in self._waiting)
        return bool(ready or self._cancels) or self._idle.due

    def _drop(self, waiting: Waiting) -> None:
        self._waiting.remove(waiting)
        self._emit(waiting.id, Chunk("", (), FinishReason.CANCELLED, Usage(), Timings()))

    def _end_interrupted(self) -> None:
        now = time.perf_counter()
        for generation in list(self._active):
            reason = generation.interrupted(now)
            if reason is not None:
                self._retire(generation, generation.finish(reason))

    def _admit(self) -> None:
        """Start what waits, the urgent first. A newer request supersedes those before it."""
        for waiting in sorted(self._waiting, key=lambda w: (w.request.priority, w.arrived)):
            if any(other.supersedes(waiting.id, waiting.request) for other in self._waiting):
                self._drop(waiting)
                continue
            for generation in list(self._active):
                if waiting.supersedes(generation.id, generation.request):
                    self._retire(generation, generation.finish(FinishReason.CANCELLED))
            if waiting.ready and self._start(waiting):
                self._waiting.remove(waiting)

    def _start(self, waiting: Waiting) -> bool:
        """Give a request its sequence; False where it must wait for one."""
        try:
            counted = self._starter.counted(waiting)
            generation = None if counted else self._starter.start(waiting)
        except MidspanError as exc:
            self._emit(waiting.id, exc)
            return True
        if counted:
            self._emit(waiting.id, counted)
            return True
        if generation is not None:
            self._begin(generation)
        return generation is not None

    def _prepare(self) -> None:
        """With nothing else to do: one thing that later requests will gain from."""
        if self._active:
            return
        generation = self._idle.do()
        if generation is not None:
            self._begin(generation)

    def _begin(self, generation: Generation) -> None:
        self._active.append(generation)
        if not generation.todo:
            self._go_on(generation)

    def _step(self) -> None:
        batch = self._batch()
        if not batch:
            return
        started = time.perf_counter()
        try:
            rows = self._model.forward([share.feed for share in batch], self._abort(batch))
        except (Aborted, CacheFull) as exc:
            for share in batch:
                self._keep_finished(share)
            if isinstance(exc, CacheFull) and not self._cache.reclaim():
                least = max(self._active, key=lambda g: (g.request.priority, g.arrived))
                self._retire(least, BackendError("the KV cache is full"))
            return
        self._measure(batch, time.perf_counter() - started)
        for share, own in zip(batch, rows, strict=True):
            self._advance(share, own)

    def _advance(self, share: Share, rows: list[Logits]) -> None:
        """Let a generation pick its next tokens, and forget the draft it did not agree with."""
        generation, entry = share.generation, share.generation.entry
        self._evaluated(generation, share.tokens)
        if not self._model.can_rewind and generation.to_mark == 0:
            self._cache.mark(entry)
        if generation.todo:
            return  # in mid-prefill
        kept, draft = len(entry.tokens), share.draft.tokens
        entry.tokens.extend(draft)
        if isinstance(generation.request, InfillRequest):  # nobody types along with a chat
            for number, logits in enumerate(rows):
                self._cache.note(entry, kept + number, logits)
        self._pick(generation, rows, draft, kept)
        held = generation.held
        if draft:
            # A draft cut short by the end of the text was not wrong.
            tested = held if generation not in self._active else len(draft)
            self._tuner.verified(share.draft.source, tested, held)

    def _go_on(self, generation: Generation) -> None:
        """Pick again from what the model said last time, as far as that is known."""
        entry, start = generation.entry, len(generation.prompt.tokens)
        rows = self._cache.known(entry, start)
        self._pick(generation, rows, entry.tokens[start : start + len(rows) - 1], start)

    def _pick(
        self, generation: Generation, rows: list[Logits], draft: list[int], kept: int
    ) -> None:
        """Let a generation pick its next tokens; forget what its entry holds and it did not pick.

        `rows` are the logits after `kept` tokens and after each of `draft`.
        """
        try:
            chunk = generation.advance(rows, draft)
        except MidspanError as exc:  # a grammar that can't be followed: this request's end alone
            self._retire(generation, exc)
            return
        self._cache.rewind(generation.entry, kept + generation.held)
        if chunk.finish_reason is not None:
            self._retire(generation, chunk)
        elif chunk.text or chunk.reasoning:
            self._emit(generation.id, chunk)

    def _batch(self) -> list[Share]:
        """Return each generation's share of the next forward pass, decoding ones first."""
        room = self._model.max_batch
        length = self._tuner.length if self._speculate else lambda _: 0
        batch = []
        urgent = min((g.request.priority for g in self._active), default=Priority.INLINE)
        ready = [g for g in self._active if g.request.priority == urgent]
        for generation in sorted(ready, key=lambda g: (len(g.todo) > 1, g.arrived)):
            chunk = PREFILL_CHUNK
            if not self._model.can_rewind and generation.to_mark > 0:
                chunk = min(chunk, generation.to_mark)  # to be marked there
            tokens = generation.todo[: min(room, chunk)]
            if not tokens:
                break  # the batch is full; the rest has its turn in the next one
            draft = generation.draft(length, room - len(tokens))
            batch.append(Share(generation, tokens, draft))
            room -= len(tokens) + len(draft.tokens)
        return batch

    def _abort(self, batch: list[Share]) -> Callable[[], bool]:
        """Return what tells the model to give up: polled at every node of its graph.

        So the usual answer comes at once, and without a lock.
        """
        deadline = min(share.generation.deadline for share in batch)

        def abort() -> bool:
            now = time.perf_counter()
            return (self._news or now >= deadline) and self._for_nothing(batch, now)

        return abort

    def _for_nothing(self, batch: list[Share], now: float) -> bool:
        """Tell whether most of the batch's tokens are for nobody, or something urgent has come.

        Others in the batch lose at most a micro-batch, which is fed again.
        """
        if self._stopped:
            return True
        inbox = tuple(self._inbox)
        if any(w.request.priority < batch[0].generation.request.priority for w in inbox):
            return True
        dead = sum(
            len(share.tokens)
            for share in batch
            if share.generation.id in self._cancels
            or now >= share.generation.deadline
            or any(w.supersedes(share.generation.id, share.generation.request) for w in inbox)
        )
        return 2 * dead > sum(len(share.tokens) for share in batch)

    def _keep_finished(self, share: Share) -> None:
        """After an abort: count what the model finished of a feed, and forget its draft."""
        entry = share.generation.entry
        finished = self._model.length(entry.sequence) - len(entry.tokens)
        self._evaluated(share.generation, share.tokens[:finished])
        if finished > len(share.tokens):
            self._model.trim(entry.sequence, len(entry.tokens))

    def _evaluated(self, generation: Generation, tokens: list[int]) -> None:
        self._cache.appended(generation.entry, tokens)
        generation.evaluated(len(tokens))
        self.evaluated_tokens += len(tokens)

    def _measure(self, batch: list[Share], seconds: float) -> None:
        """Follow the prefill rate from batches large enough to tell, the cost of steps from others.

        A batch of several requests tells nothing about a step of one.
        """
        tokens = sum(len(share.feed.tokens) for share in batch)
        if tokens >= WARM_UP_TOKENS:
            self._prefill_rate += 0.2 * (tokens / seconds - self._prefill_rate)
        elif len(batch) == 1:
            self._tuner.measured(tokens, seconds)

    def _retire(self, generation: Generation, last: Chunk | MidspanError) -> None:
        """End a generation. What was evaluated stays for its document's next request."""
        self._active.remove(generation)
        failed = isinstance(last, MidspanError)
        kept = owner(generation.request) is not None and not failed
        generation.remember()
        self._cache.release(generation.entry, keep=kept)
        if not failed:
            self._starter.ended(generation)
        if isinstance(last, Chunk) and last.finish_reason is not FinishReason.CANCELLED:
            self._idle.ended(generation)
        if generation.id >= 0:
            self._emit(generation.id, last)
