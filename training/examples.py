"""Turns documents into training rows under the mixed objective: plain, PSM, SPM, anchored PSM, and
cut text.

Rule of this module: pure functions of a document and a random generator; row `i` of a seed is
always the same row, so a resumed run sees the data it would have seen. Control ids come only from
here, never from a document's text.

The anchored form is what midspan serves: PRE text before a line start, SUF text after the cursor,
MID the text typed since that line start, then the completion. Where the typed text and the hole
are tokenised as one string, the model learns what token healing rebuilds at the cursor; in a
minority they are tokenised apart, which is text cut inside a token (EFIM, arXiv 2505.21889).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.corpus import Document
from training.tokenizer import (
    END,
    FILE,
    MIDDLE,
    PREFIX,
    REPOSITORY,
    SUFFIX,
    split_last_piece,
)

Encode = Callable[[str], list[int]]

MODES = {"anchored": 0.50, "psm": 0.10, "spm": 0.07, "plain": 0.33}
"""Share of examples by layout."""

HOLES = {"line": 0.85, "lines": 0.11, "span": 0.04}
"""Share of holes by kind: the rest of the line, the rest and some lines more, or any span of
characters."""

CUT_SHARE = 0.2
"""Share of holes whose text is tokenised apart from the typed text, so that a token may be cut at
the cursor."""

HOLE_WEIGHT = 4.0
"""Loss weight of a hole's tokens and the end token after it."""

ECHO_SHARE = 0.5
"""Share of holes that are put, where one is found, at a place whose text occurs again nearby: most
lines that can be completed exactly at all repeat something in the same file."""

ECHO_BEFORE, ECHO_AFTER, ECHO_REACH = 6, 10, 1500
"""Characters before and after the cursor that have to occur again, and how far away at most."""

REPEAT_WEIGHT = 2.0
"""Loss weight of a token whose three predecessors came in this order earlier in the row, whatever
followed them then; all others weigh 1. Copying from context is what a small model can do best."""

CHARACTERS_PER_TOKEN = 8
"""Upper estimate, to tokenise no more text than a budget may need."""

REPOSITORY_SHARE = 0.1
"""Share of holes shown behind a piece of another file of the same package, as an editor's other
open files are."""

SHORT_SHARE = 0.5
"""Share of examples that get a random part of the row's room, so that holes aren't too rare."""

MIN_ROOM = 64
"""Tokens below which a row's rest is filled with plain text."""


@dataclass(frozen=True)
class Hole:
    """A cut document: `text[:anchor]` before, `text[anchor:cursor]` typed, `text[cursor:end]` to
    complete."""

    anchor: int
    cursor: int
    end: int


@dataclass
class Row:
    """Token ids and the loss weight of predicting each of them; the two lists have equal length."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, ids: Sequence[int], weight: float = 1.0) -> None:
        """Appends ids, all of one weight."""
        self.ids.extend(ids)
        self.weights.extend([weight] * len(ids))

    def join(self, other: Row) -> None:
        """Appends another row."""
        self.ids += other.ids
        self.weights += other.weights


def encoder(tokenizer: Tokenizer) -> Encode:
    """The function from document text to ids, control tokens never parsed."""
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """One key, drawn by its share."""
    names = list(shares)
    index = int(np.searchsorted(np.cumsum(list(shares.values())), rng.random(), side="right"))
    return names[min(index, len(names) - 1)]


def line_start(text: str, position: int) -> int:
    """Start of the line that holds `position` (characters)."""
    return text.rfind("\n", 0, position) + 1


def line_end(text: str, position: int) -> int:
    """Position of the line feed that ends the line of `position`, or the text's length."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def is_echoed(text: str, cursor: int) -> bool:
    """Whether the text around the cursor, within its line, occurs again nearby."""
    key = text[max(0, cursor - ECHO_BEFORE) : min(cursor + ECHO_AFTER, line_end(text, cursor))]
    if len(key) <= ECHO_BEFORE + 2 or not key[ECHO_BEFORE:].strip():
        return False
    start, end = max(0, cursor - ECHO_REACH), line_end(text, cursor)
    return key in text[start : cursor + 1] or key in text[end : end + ECHO_REACH // 3]


def cut_hole(text: str, rng: np.random.Generator) -> Hole:
    """A random hole in a non-empty text; its anchor is the cursor's line start, or one some lines
    earlier."""
    cursor = int(rng.integers(len(text)))
    echo = bool(rng.random() < ECHO_SHARE)
    for _ in range(12):  # the end of a line is rarely worth completing
        if is_echoed(text, cursor) if echo else text[cursor : line_end(text, cursor)].strip():
            break
        cursor = int(rng.integers(len(text)))
    end = line_end(text, cursor)
    match pick(rng, HOLES):
        case "lines":
            for _ in range(int(rng.integers(1, 6))):
                end = line_end(text, min(end + 1, len(text)))
        case "span":
            end = min(len(text), cursor + int(rng.integers(1, 160)))
    anchor = line_start(text, cursor)
    if rng.random() < 0.35:
        for _ in range(int(rng.geometric(0.25))):
            anchor = line_start(text, max(anchor - 1, 0))
    return Hole(anchor, cursor, end)


def encode_middle(text: str, hole: Hole, encode: Encode, cut: bool) -> Row:
    """Typed text and hole as tokens, the hole's weighted; `cut` tokenises the two apart."""
    typed, rest = text[hole.anchor : hole.cursor], text[hole.cursor : hole.end]
    row = Row()
    shared = 0
    before = encode(typed)
    if cut:
        row.add(before)
        row.add(encode(rest), HOLE_WEIGHT)
    else:
        whole = encode(typed + rest)
        while shared < min(len(before), len(whole)) and before[shared] == whole[shared]:
            shared += 1
        row.add(whole[:shared])
        row.add(whole[shared:], HOLE_WEIGHT)
    row.add([END], HOLE_WEIGHT)
    return row


def plain(text: str, room: int, rng: np.random.Generator, encode: Encode) -> Row:
    """Running text from a random line start; ends with the end token if the document ends within
    `room` tokens."""
    latest = max(1, len(text) - room * 3)
    start = line_start(text, int(rng.integers(latest))) if rng.random() < 0.8 else 0
    ids = encode(text[start : start + room * CHARACTERS_PER_TOKEN])
    row = Row()
    row.add([*ids, END][:room])
    return row


def fill_in(
    text: str,
    mode: str,
    room: int,
    rng: np.random.Generator,
    tokenizer: Tokenizer,
    breaks: NDArray[np.bool_],
) -> Row | None:
    """One fill-in-the-middle example of at most `room` tokens, or None if its middle leaves no
    room for context.

    `breaks[id]` says whether the token's text ends a line, so that a shortened prefix can start
    with a whole line.
    """
    encode = encoder(tokenizer)
    hole, cut = cut_hole(text, rng), bool(rng.random() < CUT_SHARE)
    if mode != "anchored":  # the prefix ends at the cursor, or where healing takes it back to
        typed = "" if cut else split_last_piece(text[hole.anchor : hole.cursor], tokenizer)[1]
        hole = Hole(hole.cursor - len(typed), hole.cursor, hole.end)
    middle = encode_middle(text, hole, encode, cut)
    room -= len(middle.ids) + 3
    if room < 32:
        return None
    for_suffix = int(room * rng.uniform(0.1, 0.4))
    suffix = encode(text[hole.end : hole.end + for_suffix * CHARACTERS_PER_TOKEN])[:for_suffix]
    for_prefix = room - len(suffix)
    prefix = encode(text[max(0, hole.anchor - for_prefix * CHARACTERS_PER_TOKEN) : hole.anchor])
    if len(prefix) > for_prefix:
        prefix = prefix[-for_prefix:]
        first = next((i for i, token in enumerate(prefix[:40]) if breaks[token]), -1)
        prefix = prefix[first + 1 :]
    before, after = [PREFIX, *prefix], [SUFFIX, *suffix]
    row = Row()
    row.add([*after, *before, MIDDLE] if mode == "spm" else [*before, *after, MIDDLE])
    row.join(middle)
    return row


def repository_lead(
    own: Document, other: Document, room: int, rng: np.random.Generator, encode: Encode
) -> list[int]:
    """A piece of another file, in Qwen2.5-Coder's repository format, as what goes before PRE: at
    most half of `room` tokens, or nothing if that is too few."""
    most = int(room * rng.uniform(0.15, 0.5))
    name = "repository" if rng.random() < 0.7 else own.source
    start = line_start(other.text, int(rng.integers(len(other.text))))
    piece = encode(other.text[start : start + most * CHARACTERS_PER_TOKEN])
    head = [REPOSITORY, *encode(f"{name}\n"), FILE, *encode(f"{other.path}\n")]
    tail = [*encode("\n"), FILE, *encode(f"{own.path}\n")]
    piece = piece[: max(0, most - len(head) - len(tail))]
    return [*head, *piece, *tail] if len(piece) >= 32 else []


def repeats(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where, in ids of shape (rows, length), the three ids before came earlier in the same row."""
    found = np.zeros(ids.shape, dtype=np.bool_)
    keys = (ids[:, :-3] << 40) + (ids[:, 1:-2] << 20) + ids[:, 2:-1]
    for row, keys_of_row in zip(found, keys, strict=True):
        first = np.unique(keys_of_row, return_index=True)[1]
        row[3:] = True
        row[3 + first] = False
    return found


class Rows:
    """Rows of a corpus, by index.

    `documents` maps a group to its documents, `shares` the group to the share of examples drawn
    from it; within a group a document is drawn in proportion to its length. `length` is in tokens;
    a row has one more, for the shift.
    """

    def __init__(
        self,
        documents: dict[str, list[Document]],
        shares: dict[str, float],
        tokenizer: Tokenizer,
        length: int,
        seed: int,
    ) -> None:
        self._documents = documents
        self._shares = shares
        self._ends = {
            name: np.cumsum([len(document.text) for document in group]).tolist()
            for name, group in documents.items()
        }
        self._tokenizer = tokenizer
        self._encode = encoder(tokenizer)
        self._length = length
        self._seed = seed
        spellings = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
        self._breaks = np.array([spelling.endswith("Ċ") for spelling in spellings])

    def document(self, rng: np.random.Generator) -> tuple[Document, Document | None]:
        """A random document, and another near it in the corpus if that is of the same package."""
        name = pick(rng, self._shares)
        group, ends = self._documents[name], self._ends[name]
        index = bisect_right(ends, int(rng.integers(ends[-1])))
        near = index + int(rng.integers(1, 9)) * (1 if rng.random() < 0.5 else -1)
        other = group[near] if 0 <= near < len(group) else None
        same = other is not None and other.source == group[index].source
        return group[index], other if same else None

    def row(self, index: int) -> Row:
        """Row `index`: examples one after another until `length + 1` tokens are full. Rows of
        another length are other rows, so that a change of length repeats nothing."""
        rng = np.random.default_rng((self._seed, self._length, index))
        row, total = Row(), self._length + 1
        while (room := total - len(row.ids)) > 0:
            mode = pick(rng, MODES)
            if room < MIN_ROOM:
                mode = "plain"
            elif rng.random() < SHORT_SHARE:
                room = int(rng.integers(MIN_ROOM, room + 1))
            example = self._example(mode, room, rng)
            if example is not None:
                row.join(example)
        return row

    def _example(self, mode: str, room: int, rng: np.random.Generator) -> Row | None:
        document, other = self.document(rng)
        if mode == "plain":
            return plain(document.text, room, rng, self._encode)
        row = Row()
        if other and rng.random() < REPOSITORY_SHARE:
            row.add(repository_lead(document, other, room, rng, self._encode))
        rest = room - len(row.ids)
        example = fill_in(document.text, mode, rest, rng, self._tokenizer, self._breaks)
        if example is None:
            return None
        row.join(example)
        return row

    def batch(self, step: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and weights of step `step`, each of shape (rows, length + 1)."""
        made = [self.row(step * rows + i) for i in range(rows)]
        ids = np.array([r.ids for r in made], dtype=np.int64)
        weights = np.array([r.weights for r in made], dtype=np.float32)
        return ids, weights * np.where(repeats(ids), REPEAT_WEIGHT, 1.0).astype(np.float32)
