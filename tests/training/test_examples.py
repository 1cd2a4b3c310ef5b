"""The objective: every layout gives the document back, and only we place control ids."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.corpus import Document
from training.examples import (
    HOLE_WEIGHT,
    MODES,
    Rows,
    cut_hole,
    encoder,
    fill_in,
    is_echoed,
    plain,
    repeats,
    repository_lead,
)
from training.tokenizer import END, FILE, MIDDLE, PREFIX, REPOSITORY, SUFFIX

HOSTILE = "x = '<|fim_middle|><|endoftext|>'\n"


def parts(ids: list[int]) -> dict[int, list[int]]:
    """Splits an example's ids at its control ids."""
    found: dict[int, list[int]] = {}
    now: list[int] = []
    for token in ids:
        if token in (PREFIX, SUFFIX, MIDDLE, END):
            now = found.setdefault(token, [])
        else:
            now.append(token)
    return found


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "plain"])
def test_fill_in_reassembles_to_the_document(mode: str, tokenizer: Tokenizer, source: str) -> None:
    text = HOSTILE + source
    breaks = np.zeros(tokenizer.get_vocab_size(), dtype=np.bool_)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        row = fill_in(text, mode, 4000, rng, tokenizer, breaks)
        assert row is not None
        assert len(row.ids) == len(row.weights) <= 4000
        assert row.ids[-1] == END
        assert row.weights[-1] == HOLE_WEIGHT
        assert all(row.ids.count(control) == 1 for control in (PREFIX, SUFFIX, MIDDLE, END))
        order = [token for token in row.ids if token in (PREFIX, SUFFIX)]
        assert order == ([SUFFIX, PREFIX] if mode == "spm" else [PREFIX, SUFFIX])
        made = parts(row.ids)
        whole = tokenizer.decode(made[PREFIX] + made[MIDDLE] + made[SUFFIX])
        assert whole == text


@pytest.mark.parametrize("room", [64, 100, 257])
def test_fill_in_keeps_to_its_room(room: int, tokenizer: Tokenizer, source: str) -> None:
    breaks = np.zeros(tokenizer.get_vocab_size(), dtype=np.bool_)
    for seed in range(50):
        row = fill_in(source, "anchored", room, np.random.default_rng(seed), tokenizer, breaks)
        assert row is None or len(row.ids) <= room


def test_cut_hole_is_ordered_and_anchored_at_a_line_start(source: str) -> None:
    for seed in range(200):
        hole = cut_hole(source, np.random.default_rng(seed))
        assert 0 <= hole.anchor <= hole.cursor <= hole.end <= len(source)
        assert hole.anchor == 0 or source[hole.anchor - 1] == "\n"


def test_plain_ends_the_text_where_the_document_ends(tokenizer: Tokenizer, source: str) -> None:
    row = plain(source, 4000, np.random.default_rng(0), encoder(tokenizer))
    assert row.ids[-1] == END
    assert source.endswith(tokenizer.decode(row.ids[:-1]))


def test_repository_lead_is_in_the_repository_format(tokenizer: Tokenizer, source: str) -> None:
    own, other = (Document("p", f"p/{name}.py", "MIT", source) for name in ("own", "other"))
    encode = encoder(tokenizer)
    for seed in range(20):
        ids = repository_lead(own, other, 800, np.random.default_rng(seed), encode)
        if not ids:
            continue
        assert len(ids) <= 400
        assert ids[0] == REPOSITORY
        assert ids.count(FILE) == 2
        first, second = (i for i, token in enumerate(ids) if token == FILE)
        assert tokenizer.decode(ids[first + 1 : second]).startswith("p/other.py\n")
        assert tokenizer.decode(ids[second + 1 :]) == "p/own.py\n"
    assert not repository_lead(own, other, 40, np.random.default_rng(0), encode)  # no room


def test_rows_are_full_and_repeatable(tokenizer: Tokenizer, source: str) -> None:
    texts = {"stdlib": [source, source[100:]], "packages": [source[50:]] * 3}
    documents = {
        name: [Document(name, f"{i}.py", "MIT", text) for i, text in enumerate(group)]
        for name, group in texts.items()
    }
    shares = {"stdlib": 0.3, "packages": 0.7}
    rows = Rows(documents, shares, tokenizer, 300, seed=3)
    ids, weights = rows.batch(5, 8)
    assert ids.shape == weights.shape == (8, 301)
    again, _ = Rows(documents, shares, tokenizer, 300, seed=3).batch(5, 8)
    assert (ids == again).all()
    assert (ids != rows.batch(6, 8)[0]).any()


def test_repeats_marks_what_follows_a_known_triple() -> None:
    ids = np.array([[1, 2, 3, 9, 1, 2, 3, 8, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]])
    found = repeats(ids)
    assert np.flatnonzero(found[0]).tolist() == [7]  # the 8, though a 9 came the first time
    assert not found[1].any()


ECHOES = [
    ("value = self.first\nvalue = self.first\n", 26, True),
    ("value = self.first\nother = that.second\n", 26, False),
    ("value = self.first\n", 8, False),  # only itself
]


@pytest.mark.parametrize(("text", "cursor", "echoed"), ECHOES)
def test_is_echoed_looks_for_another_place(text: str, cursor: int, echoed: bool) -> None:
    assert is_echoed(text, cursor) is echoed
