"""What is asked of the model while the user rests, so that the next key is fast.

    a suggestion was shown          → fetch what follows once it is accepted (and the next line)
    a document opened, or focused   → evaluate the prompt at its cursor: a request for no tokens
    the cursor moved                → the same

Rule: of the lowest rank. It waits a moment first, and any request for the document, edit or close
cancels it, under way or not; one at a time in a document. It never changes the status, and its
failures are silent: a key will tell.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from backends.errors import MidspanError
from lsp_server.documents import Document
from lsp_server.generations import Rank
from lsp_server.snapshot import Snapshot, refusal, switched_off, take
from lsp_server.stats import Purpose
from lsp_server.suggest import body, fetch, state_of, while_typing
from lsp_server.suggestion_cache import State

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

logger = logging.getLogger(__name__)

PREFETCH_AFTER_S = 0.15
WARM_AFTER_S = 0.2
_OPENS_BLOCK = re.compile(r"[:{(\[]\s*\Z")
_INDENTED = re.compile(r"^([ \t]+)\S", re.MULTILINE)
LOOK_BACK = 3000  # characters in which the document's indentation is looked for


@dataclass(slots=True)
class _Known:
    """What is known of a document: where it was last asked about, and what was fetched ahead."""

    place: tuple[int, int] = (0, 0)  # revision and offset
    # Epochs and states for which there was nothing to fetch; the cache knows where there was.
    tried: deque[tuple[int, State]] = field(default_factory=lambda: deque(maxlen=4))


class Idle:
    """Told what happens in the documents; starts what is worth doing meanwhile."""

    def __init__(self, ls: MidspanServer) -> None:
        self._ls = ls
        self._documents: dict[str, _Known] = {}
        self._opened = ""

    def asked(self, snapshot: Snapshot) -> None:
        """A suggestion was asked for: that place needs no warming."""
        self._known(snapshot.uri).place = snapshot.revision, snapshot.offset

    def shown(self, snapshot: Snapshot, text: str) -> None:
        """`text` was shown at `snapshot`."""
        if self._ls.settings.prefetch:
            self._begin(snapshot.uri, self._prefetch(snapshot, text))

    def opened(self, document: Document) -> None:
        """A document was opened; of many opened at once, the last is warmed."""
        self._ls.generations.cancel(self._opened, Rank.IDLE)
        self._opened = document.uri
        self._warm_at(document, 0)

    def focused(self, document: Document) -> None:
        """The user turned to a document, where they left it."""
        self._warm_at(document, min(self._known(document.uri).place[1], len(document.text)))

    def moved(self, document: Document, cursor: int) -> None:
        """The cursor is at an offset, perhaps where it was."""
        if self._known(document.uri).place != (document.revision, cursor):
            self._warm_at(document, cursor)

    def closed(self, document: Document) -> None:
        """Forget a document."""
        self._documents.pop(document.uri, None)

    def _known(self, uri: str) -> _Known:
        return self._documents.setdefault(uri, _Known())

    def _begin(self, uri: str, work: Coroutine[None, None, None]) -> None:
        self._ls.in_background(self._ls.generations.run(uri, work, Rank.IDLE))

    def _wanted(self, document: Document | None) -> bool:
        settings = self._ls.settings
        return (
            document is not None
            and settings.prefetch
            and refusal(document) is None
            and switched_off(document, settings, self._ls.toggles) is None
        )

    def _unchanged(self, snapshot: Snapshot) -> bool:
        document = self._ls.documents.get(snapshot.uri)
        return (
            document is not None
            and document.revision == snapshot.revision
            and self._wanted(document)
        )

    def _warm_at(self, document: Document, offset: int) -> None:
        if self._wanted(document):
            self._known(document.uri).place = document.revision, offset
            self._begin(document.uri, self._warm(take(document, offset)))

    async def _warm(self, snapshot: Snapshot) -> None:
        await asyncio.sleep(WARM_AFTER_S)
        if self._unchanged(snapshot):
            ask = while_typing(self._ls, snapshot, automatic=True)
            request = body(self._ls, snapshot, replace(ask, max_tokens=0))
            try:
                answer = await self._ls.manager.infill(request)
                self._ls.stats.evaluated(answer, Purpose.WARM)
            except MidspanError as exc:
                logger.debug("nothing was warmed: %s", exc)

    async def _prefetch(self, snapshot: Snapshot, text: str) -> None:
        await asyncio.sleep(PREFETCH_AFTER_S)
        try:
            for ahead in upcoming(snapshot, text):
                if self._unchanged(snapshot):
                    await self._fetch(ahead)
        except MidspanError as exc:
            logger.debug("nothing was fetched ahead: %s", exc)

    async def _fetch(self, ahead: Snapshot) -> None:
        """Fetch the suggestion at `ahead`, once."""
        ls, tried = self._ls, self._known(ahead.uri).tried
        ask = while_typing(ls, ahead, automatic=True)
        state = state_of(ahead, ask)
        if (ls.suggestions.epoch, state) in tried or ls.suggestions.knows(state):
            return
        if not (await fetch(ls, ahead, ask, ahead=True)).text:
            tried.append((ls.suggestions.epoch, state))


def upcoming(snapshot: Snapshot, text: str) -> tuple[Snapshot, ...]:
    """Return where the cursor will be once `text` is accepted.

    That is behind it and, where `text` ends its line and is one line, on the next line, indented
    as editors do it.
    """
    accepted = replace(snapshot, before=snapshot.before + text)
    if "\n" in text or snapshot.rest_of_line.strip():
        return (accepted,)
    next_line = "\n" + next_indent(accepted.before)
    return accepted, replace(accepted, before=accepted.before + next_line)


def next_indent(before: str) -> str:
    """Return the indentation of the line after the last one of `before`."""
    line = before[before.rfind("\n") + 1 :]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    if not _OPENS_BLOCK.search(line):
        return indent
    used = _INDENTED.findall(before[-LOOK_BACK:])
    return indent + (
        "\t" if any("\t" in one for one in used) else min(used, key=len, default="    ")
    )
