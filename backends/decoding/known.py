"""What the model has said after tokens that its sequences still hold.

While typing agrees with what was suggested, the next prompt is a piece of a sequence that is
there, and the logits after each of its tokens were computed for the suggestion. Picking from them
again takes no evaluation and is exact: they are those of these very tokens. Rule: holds only what
`cut` has not yet called off, up to a number of bytes; knows positions, not tokens.
"""

from __future__ import annotations

from collections import OrderedDict

from backends.decoding.token_model import Logits


class KnownLogits:
    """Logits by sequence and number of tokens before them; the oldest sequence's go first."""

    def __init__(self, limit: int) -> None:
        """Hold `limit` bytes at most."""
        self._limit = limit
        self._bytes = 0
        self._rows: OrderedDict[int, dict[int, Logits]] = OrderedDict()

    def note(self, sequence: int, position: int, logits: Logits) -> None:
        """Copy the logits of shape (vocabulary,) after the first `position` tokens."""
        rows = self._rows.setdefault(sequence, {})
        self._rows.move_to_end(sequence)
        if position not in rows:
            self._bytes += logits.nbytes
        rows[position] = logits.copy()
        while self._bytes > self._limit:
            self._drop_oldest()

    def after(self, sequence: int, position: int) -> list[Logits]:
        """Return the logits after `position` tokens, after one more, … as far as all are known."""
        rows = self._rows.get(sequence, {})
        found = []
        while position in rows:
            found.append(rows[position])
            position += 1
        return found

    def cut(self, sequence: int, position: int) -> None:
        """Forget what came after more than the first `position` tokens: they are gone."""
        rows = self._rows.get(sequence, {})
        for later in [known for known in rows if known > position]:
            self._bytes -= rows.pop(later).nbytes
        if not rows:
            self._rows.pop(sequence, None)

    def _drop_oldest(self) -> None:
        sequence, rows = next(iter(self._rows.items()))
        self._bytes -= rows.pop(min(rows)).nbytes
        if not rows:
            del self._rows[sequence]
