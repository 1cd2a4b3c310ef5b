"""What is done while nobody asks for anything, one thing at a time.

First what the next keys in a document will need: a larger window, an anchor further down. Then
cells that may soon have to go are copied out, and those that a crash would lose. Rule: decides and
copies; what is to be evaluated is the scheduler's, and given up for any request.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import Protocol

from backends.backend import InfillRequest
from backends.decoding.generation import Generation
from backends.decoding.jobs import Starter, Waiting
from backends.decoding.prefix_cache import PrefixCache
from backends.decoding.prompting import Prompter, TokenPrompt
from backends.decoding.snapshots import Snapshot
from backends.errors import MidspanError

BACKUP_REST = 1.0  # seconds without a request before cells are copied out
BACKUP_POLL = 0.1  # seconds, while the last one is still on its way


class Backups(Protocol):
    """Takes copies of cells to where a crash of this process does not reach."""

    limit: int  # bytes of one

    @property
    def ready(self) -> bool:
        """Whether `put` may be called: the last copy is on its way no more."""
        ...

    def put(self, owner: str, snapshot: Snapshot) -> None:
        """Take the latest copy of a document's cells; returns at once."""
        ...


class IdleWork:
    """The work that waits for a moment without requests."""

    def __init__(
        self, cache: PrefixCache, prompter: Prompter, starter: Starter, backups: Backups | None
    ) -> None:
        self._cache = cache
        self._prompter = prompter
        self._starter = starter
        self._backups = backups
        # By document, the latest request and its prompt.
        self._next: dict[str, tuple[InfillRequest, TokenPrompt]] = {}
        self._ids = count(-1, -1)  # older than any caller's, and told to nobody
        self.last_request = 0.0  # time.perf_counter() seconds

    @property
    def due(self) -> bool:
        """Whether `do` has anything to do now."""
        return bool(self._next or self._cache.to_save()) or self.until_backup() == 0

    def ended(self, generation: Generation) -> None:
        """Note a request that came to its end, or work in advance that did."""
        request, prompt = generation.request, generation.prompt
        if not (isinstance(request, InfillRequest) and isinstance(prompt, TokenPrompt)):
            return
        if generation.id < 0:
            self._prompter.remember(prompt)
        elif request.document is not None:
            self._next[request.document] = request, prompt

    def do(self) -> Generation | None:
        """Do one thing; return what is to be evaluated, if it is that."""
        if self._next:
            return self._prepared()
        if self._cache.to_save() is not None:
            self._cache.save()
        elif self.until_backup() == 0:
            self._back_up()
        return None

    def until_backup(self) -> float | None:
        """Return the seconds until cells are to be copied out; None where there is nothing new.

        A copy takes as long as a snapshot, and a key that came meanwhile would wait: so only once
        nobody has typed for a moment.
        """
        if self._backups is None or self._cache.to_back_up(self._backups.limit) is None:
            return None
        if not self._backups.ready:
            return BACKUP_POLL
        return max(0.0, self.last_request + BACKUP_REST - time.perf_counter())

    def _back_up(self) -> None:
        entry = self._cache.to_back_up(self._backups.limit) if self._backups else None
        if self._backups is not None and entry is not None and entry.owner is not None:
            self._backups.put(entry.owner, self._cache.back_up(entry))

    def _prepared(self) -> Generation | None:
        document, (request, current) = next(iter(self._next.items()))
        try:
            return self._generation(document, request, current)
        except MidspanError:
            return None  # it was for later only; a key will be told
        finally:
            del self._next[document]  # only now: until then there is work to do

    def _generation(
        self, document: str, request: InfillRequest, current: TokenPrompt
    ) -> Generation | None:
        prompt = self._prompter.prepared(request, current)
        if prompt is None:
            return None
        entry = self._cache.acquire(prompt.key, prompt.tokens, document, request.steering)
        if entry is None:
            return None
        warm = replace(request, max_tokens=0, deadline_ms=None)
        own = Waiting(next(self._ids), warm, time.perf_counter())
        return self._starter.begin(own, warm, prompt, entry)
