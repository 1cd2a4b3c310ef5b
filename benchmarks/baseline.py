"""The baseline without a model: what an 8-gram with the current file's cache would complete.

Rule: standard library only, greedy and deterministic. The longest match of the text before the
cursor wins, and the current file's matches win over the corpus's of the same length: what a small
model has to beat.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

_TOKEN = re.compile(r"[^\W\d]\w*|\d+|[ \t]+|\r\n|.", re.DOTALL)
_SEPARATOR = "\x00"  # between texts, so that no match goes across
# The chains of earlier places with the same last tokens, the longest tried first.
_CHAINS = (4, 2, 1)
_CORPUS_BITS, _FILE_BITS = 20, 14  # of the hash tables' sizes
_MAX_CANDIDATES = 400


def tokens_of(text: str) -> list[str]:
    """Return words, numbers, runs of blanks, line ends and single other characters; all of `text`.

    >>> tokens_of("x1 = foo(2)")
    ['x1', ' ', '=', ' ', 'foo', '(', '2', ')']
    """
    return _TOKEN.findall(text)


class _Index:
    """Token ids, with chains from each place to the one before it that follows the same tokens."""

    def __init__(self, hash_bits: int) -> None:
        self.ids = array("i")
        self._mask = (1 << hash_bits) - 1
        self._previous = {length: array("i") for length in _CHAINS}
        self._last = {length: array("i", [-1]) * (1 << hash_bits) for length in _CHAINS}

    def add(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        begin = len(self.ids)
        self.ids.extend(ids)
        known, mask = self.ids, self._mask
        for length in _CHAINS:
            last, previous = self._last[length], self._previous[length]
            for at in range(begin, len(known)):
                slot = hash(tuple(known[max(0, at - length) : at])) & mask
                previous.append(last[slot])
                last[slot] = at

    def candidates(self, context: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield (length of the match, next token) for places that follow the end of `context`.

        The most recent places of the longest chain that has any, at most 400.
        """
        ids = self.ids
        for length in _CHAINS:
            if len(context) < length:
                continue
            slot = hash(tuple(context[-length:])) & self._mask
            at, found = self._last[length][slot], False
            for _ in range(_MAX_CANDIDATES):
                if at < 0:
                    break
                match = 0
                while match < min(len(context), at) and ids[at - 1 - match] == context[-1 - match]:
                    match += 1
                if match >= length:
                    found = True
                    yield match, ids[at]
                at = self._previous[length][at]
            if found:
                return


class NgramBaseline:
    """Completes a line, token by token, by the longest match of at most `order` - 1 tokens."""

    def __init__(self, order: int = 8) -> None:
        if order < 2:
            raise ValueError("an n-gram needs an order of at least 2")
        self._context = order - 1
        self._vocabulary: dict[str, int] = {}
        self._texts: list[str] = []
        self._corpus = _Index(_CORPUS_BITS)
        self._counts: Counter[int] = Counter()

    def train(self, texts: Iterable[str]) -> None:
        """Add a corpus; may be called again with more."""
        for text in texts:
            ids = self._ids([*tokens_of(text), _SEPARATOR])
            self._counts.update(ids)
            self._corpus.add(ids)

    def complete(
        self, prefix: str, suffix: str, max_chars: int = 200, *, inside_words: bool = True
    ) -> str:
        """Return what follows `prefix` up to the end of its line.

        Without `inside_words` the last token before the cursor counts as complete, as plain n-gram
        baselines have it; with it the completion may go on with that token.
        """
        before = tokens_of(prefix)
        partial = ""
        if inside_words and before and before[-1].strip("\r\n"):
            partial = before.pop()
        file = _Index(_FILE_BITS)
        file.add(self._ids([*tokens_of(suffix), _SEPARATOR, *before]))
        context = self._ids(before)[-self._context :]
        text = ""
        while len(text) < max_chars:
            # Where nothing matches, what is there may be a whole token, and what follows known.
            token = self._next(context, partial, file) or partial
            if not token.strip("\r\n") or token == _SEPARATOR:
                break
            text += token[len(partial) :]
            context = [*context, *self._ids([token])][-self._context :]
            partial = ""
        return text[:max_chars]

    def _next(self, context: Sequence[int], partial: str, file: _Index) -> str | None:
        """Return the token that most often followed the longest match, beginning with `partial`."""
        best: tuple[int, bool] = (0, False)
        counts: Counter[str] = Counter()
        for index in (file, self._corpus):
            for match, token in index.candidates(context):
                rank = (match, index is file)
                text = self._texts[token]
                if rank >= best and text.startswith(partial):
                    if rank > best:
                        best = rank
                        counts.clear()
                    counts[text] += 1
        if not counts and partial.isidentifier():
            counts.update(
                text for text in map(self._texts.__getitem__, file.ids) if text.startswith(partial)
            )
        if not counts and partial.isidentifier():
            counts.update(
                {
                    self._texts[token]: count
                    for token, count in self._counts.items()
                    if self._texts[token].startswith(partial)
                }
            )
        return max(counts, key=counts.__getitem__, default=None)

    def _ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, new ones for new tokens."""
        ids = []
        for token in tokens:
            known = self._vocabulary.get(token)
            if known is None:
                known = self._vocabulary[token] = len(self._texts)
                self._texts.append(token)
            ids.append(known)
        return ids
