"""Whether accepted text is still in the document, or was mostly rewritten.

Rule: pure. Compared word by word, so that a formatter's spaces and line breaks change nothing;
the text is looked for around the place where it was put, whatever was typed before it since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOLERANCE = 1 / 3  # of the words may have been changed
MAX_WORDS = 200  # of the accepted text; the beginning of a longer one is looked at
MAX_AROUND = 2000  # words of the document that it is compared with
SLACK, MAX_SLACK = 500, 2500  # characters looked at on either side

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What was accepted, and the part of the document in which it would be now."""

    accepted: str
    around_now: str

    @classmethod
    def around(cls, document: str, accepted: str, place: int, length: int) -> Acceptance:
        """Cut the part out of `document`, whose length was `length` when the text went to `place`.

        Edits before the place have moved it by what the document grew, edits behind it have not:
        both are looked at.
        """
        slack = min(SLACK + 2 * len(accepted), MAX_SLACK)
        first, last = sorted((place, max(place + len(document) - length, 0)))
        begin, end = max(first - slack, 0), last + len(accepted) + slack
        if last - first <= slack:
            return cls(accepted, document[begin:end])
        between = document[begin : first + len(accepted) + slack], document[last - slack : end]
        return cls(accepted, "\n".join(between))

    def kept(self) -> bool:
        """Tell whether at most a third of the words are other ones now."""
        if self.accepted in self.around_now:
            return True
        words = _WORD.findall(self.accepted)[:MAX_WORDS]
        now = _WORD.findall(self.around_now)[:MAX_AROUND]
        return distance(words, now) <= TOLERANCE * len(words)


def distance(words: list[str], text: list[str]) -> int:
    """Return how many words must change to make `words` of some part of `text` (Sellers)."""
    row = [0] * (len(text) + 1)  # the part may begin anywhere
    for number, word in enumerate(words, 1):
        previous, row = row, [number]
        for at, other in enumerate(text):
            row.append(min(previous[at] + (word != other), previous[at + 1] + 1, row[at] + 1))
    return min(row)
