"""What the model has said after tokens that its sequences still hold.

While typing agrees with what was suggested, the next prompt is a piece of a sequence that is
there, and the logits after each of its tokens were computed for the suggestion. Picking from them
again takes no evaluation and is exact: they are those of these very tokens. Rule: holds only what
`cut` has not yet called off, up to a number of bytes; knows positions, not tokens.

With 150,000 tokens in the vocabulary a row takes 600 KB, so that there is room for about 50: those
that the next keys want first stay longest. What others said goes before what the sequence in use
said, and of one sequence first what was typed past, then what lies furthest ahead.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from backends.decoding.token_model import Logits


@dataclass(slots=True)
class _Rows:
    """What was said in one sequence; `begin` is where its last prompt ended."""

    begin: int = 0
    by_position: dict[int, Logits] = field(default_factory=dict)

    def worth_least(self) -> int:
        """Return the position whose logits are wanted last, if ever."""
        first = min(self.by_position)
        return first if first < self.begin else max(self.by_position)


class KnownLogits:
    """Logits by sequence and number of tokens before them."""

    def __init__(self, limit: int) -> None:
        """Hold `limit` bytes at most."""
        self._limit = limit
        self._bytes = 0
        self._sequences: OrderedDict[int, _Rows] = OrderedDict()  # the longest unused first

    def begin(self, sequence: int, position: int) -> None:
        """Note that a prompt of `position` tokens is on `sequence`: the next keys go on there."""
        if (rows := self._sequences.get(sequence)) is not None:
            rows.begin = position
            self._sequences.move_to_end(sequence)

    def note(self, sequence: int, position: int, logits: Logits) -> None:
        """Copy the logits of shape (vocabulary,) after the first `position` tokens."""
        rows = self._sequences.setdefault(sequence, _Rows(position))
        self._sequences.move_to_end(sequence)
        if position not in rows.by_position:
            self._bytes += logits.nbytes
        rows.by_position[position] = logits
        while self._bytes > self._limit:
            self._drop_one()
        if position in rows.by_position:  # only what is kept is worth copying
            rows.by_position[position] = logits.copy()

    def after(self, sequence: int, position: int) -> list[Logits]:
        """Return the logits after `position` tokens, after one more, … as far as all are known."""
        rows = self._sequences.get(sequence, _Rows()).by_position
        found = []
        while position in rows:
            found.append(rows[position])
            position += 1
        return found

    def cut(self, sequence: int, position: int) -> None:
        """Forget what came after more than the first `position` tokens: they are gone."""
        rows = self._sequences.get(sequence, _Rows()).by_position
        for later in [known for known in rows if known > position]:
            self._bytes -= rows.pop(later).nbytes
        if not rows:
            self._sequences.pop(sequence, None)

    def _drop_one(self) -> None:
        sequence, rows = next(iter(self._sequences.items()))
        self._bytes -= rows.by_position.pop(rows.worth_least()).nbytes
        if not rows.by_position:
            del self._sequences[sequence]
