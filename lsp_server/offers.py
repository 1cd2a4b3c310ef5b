"""What was offered to the user in this window, and what became of it.

A *suggestion* is a text that was offered at a place. Asking again while it is typed through, or
accepted word by word, offers its rest: an *item* of its own for the client, and the same
suggestion here, counted once. The client names an item by its id (`command.arguments`).

Rule: decides what is counted, from what the client said; how counts are kept is `ledger`'s. What
a client sends is not believed: an unknown id, or a length that cannot be, counts nothing. Knows no
pygls.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lsp_server.documents import Document, Documents
from lsp_server.kept import Acceptance
from lsp_server.ledger import Count, Key, Ledger

KEPT_AFTER_S = 30.0
MAX_ITEMS = 512  # the last ones; a client asks about what it shows now


@dataclass(slots=True, eq=False)
class Suggestion:
    """A text offered at an offset of a document, and how far it was shown and accepted."""

    key: Key
    uri: str
    offset: int
    text: str
    alternative_to: Suggestion | None = None  # which is counted as offered and shown
    shown: bool = False
    accepted_from: int | None = None
    accepted_to: int = 0
    check: asyncio.TimerHandle | None = field(default=None, repr=False)

    def continued_by(self, document: Document, offset: int, text: str) -> int | None:
        """How much of this text stands before `offset` if `text` is its rest; None if it isn't."""
        typed = offset - self.offset
        if not (0 <= typed < len(self.text) and self.text[typed:] == text):
            return None
        return typed if document.text[self.offset : offset] == self.text[:typed] else None


@dataclass(frozen=True, slots=True)
class _Item:
    """What a client was given: `lead` and then the suggestion's text from `start` on."""

    suggestion: Suggestion
    start: int
    lead: str


class Offers:
    """The items that clients may still tell about.

    `tells_shown` is whether the client says what it showed; where it does not, what was offered
    counts as shown.
    """

    def __init__(self, ledger: Ledger, documents: Documents, model: Callable[[], str]) -> None:
        self._ledger = ledger
        self._documents = documents
        self._model = model
        self._items: OrderedDict[str, _Item] = OrderedDict()
        self._latest: dict[str, Suggestion] = {}
        self.tells_shown = False

    def made(
        self,
        document: Document,
        offset: int,
        texts: Sequence[str],
        *,
        lead: str = "",
        latency_ms: float,
    ) -> list[str]:
        """Count an answer; return the ids of its items.

        Each of the texts may go to `offset`: they are one suggestion to choose from. `lead` stands
        before them in their items (a chosen entry of the popup).
        """
        key = Key(self._model(), document.language_id)
        self._ledger.latency(key, latency_ms)
        suggestion, start = self._continued(document, offset, texts[0])
        if suggestion is None:
            suggestion = Suggestion(key, document.uri, offset, texts[0])
            self._latest[document.uri] = suggestion
            self._ledger.count(key, Count.OFFERED)
            if not self.tells_shown:
                self._show(suggestion)
        first = self._keep(_Item(suggestion, start, lead))
        others = [
            Suggestion(key, document.uri, offset, text, alternative_to=suggestion)
            for text in texts[1:]
        ]
        return [first, *(self._keep(_Item(other, 0, lead)) for other in others)]

    def listed(self, document: Document, offset: int, text: str) -> str:
        """Return the id of an item among several in a list, which counts once it is accepted."""
        key = Key(self._model(), document.language_id)
        return self._keep(_Item(Suggestion(key, document.uri, offset, text), 0, ""))

    def _continued(
        self, document: Document, offset: int, text: str
    ) -> tuple[Suggestion | None, int]:
        latest = self._latest.get(document.uri)
        start = latest.continued_by(document, offset, text) if latest else None
        return (None, 0) if start is None else (latest, start)

    def _keep(self, item: _Item) -> str:
        item_id = os.urandom(8).hex()
        self._items[item_id] = item
        if len(self._items) > MAX_ITEMS:
            self._items.popitem(last=False)
        return item_id

    def shown(self, item_id: object) -> None:
        """Count an item as shown, once for its suggestion."""
        self.tells_shown = True
        item = self._item(item_id)
        if item is not None:
            self._show(item.suggestion)

    def accepted(self, item_id: object, units: object = None) -> None:
        """Count what was accepted: `units` UTF-16 units of the item so far; None: all of it."""
        item = self._item(item_id)
        if item is None:
            return
        suggestion = item.suggestion
        end = len(suggestion.text)
        if units is not None:
            if not isinstance(units, int) or isinstance(units, bool) or units < 0:
                return
            inside = _points(item.lead + suggestion.text[item.start :], units) - len(item.lead)
            end = min(item.start + inside, end)
        begin = max(item.start, suggestion.accepted_to)
        if end <= begin:
            return
        self._show(suggestion)
        self._accept(suggestion, begin, end)

    def closed(self, uri: str) -> None:
        """Forget what was offered in a document."""
        self._latest.pop(uri, None)

    def _item(self, item_id: object) -> _Item | None:
        return self._items.get(item_id) if isinstance(item_id, str) else None

    def _show(self, suggestion: Suggestion) -> None:
        suggestion = suggestion.alternative_to or suggestion
        if not suggestion.shown:
            suggestion.shown = True
            self._ledger.count(suggestion.key, Count.SHOWN)

    def _accept(self, suggestion: Suggestion, begin: int, end: int) -> None:
        count, key, text = self._ledger.count, suggestion.key, suggestion.text
        if suggestion.accepted_from is None:
            suggestion.accepted_from = begin
            count(key, Count.ACCEPTED)
        suggestion.accepted_to = end
        count(key, part(text, begin, end))
        count(key, Count.CHARACTERS, end - begin)
        if suggestion.check is not None:  # word by word: it counts from the last one on
            suggestion.check.cancel()
        document = self._documents.get(suggestion.uri)
        length = len(document.text) if document else 0
        loop = asyncio.get_running_loop()
        suggestion.check = loop.call_later(KEPT_AFTER_S, self._check, suggestion, length)

    def _check(self, suggestion: Suggestion, length: int) -> None:
        """Have it looked at, elsewhere, whether the accepted text is still in the document."""
        document = self._documents.get(suggestion.uri)
        begin = suggestion.accepted_from
        if document is None or begin is None:
            return  # closed meanwhile: nobody knows
        accepted = suggestion.text[begin : suggestion.accepted_to]
        place = suggestion.offset + begin
        self._ledger.check_kept(
            suggestion.key, Acceptance.around(document.text, accepted, place, length)
        )


def part(text: str, begin: int, end: int) -> Count:
    """What of a suggestion was accepted at once: all of it, a word, or more than a word."""
    if begin == 0 and end == len(text):
        return Count.WHOLE
    return Count.WORD if len(text[begin:end].split()) <= 1 else Count.LINE


def _points(text: str, units: int) -> int:
    """How many characters of `text` the first `units` UTF-16 units cover."""
    if text.isascii():
        return min(units, len(text))
    data = text.encode("utf-16-le", "surrogatepass")[: 2 * units]
    return len(data.decode("utf-16-le", "ignore"))
