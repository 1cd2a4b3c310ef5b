"""Copying from the document: what came next last time is made more likely, no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.backend import InfillRequest
from backends.decoding.copying import AHEAD, MATCHES, Copier, CopyWeights
from tests.backends.decoding.harness import running
from tests.backends.decoding.hash_model import HashModel

WEIGHTS = CopyWeights(slope=1.0, least=3, most=6.0)
texts = st.text(alphabet="ab(é\n", max_size=60)


@given(texts, texts, st.text(alphabet="ab(é", max_size=4))
def test_ahead_is_what_followed_the_longest_match(prefix: str, suffix: str, written: str) -> None:
    before, after, new = prefix.encode(), suffix.encode(), written.encode()
    found, bonus = Copier(prefix, suffix, WEIGHTS).ahead(new, b"")
    context = before + new
    for size in (size for size in MATCHES if size <= len(context)):
        needle = context[-size:]
        starts = [at for at in range(len(before) - size) if before[at : at + size] == needle]
        followed = [before[at + size : at + size + AHEAD] for at in starts[-1:]]
        if not followed:
            at = after.find(needle)
            followed = [after[at + size : at + size + AHEAD]] if at >= 0 else []
        if followed and followed[0]:
            assert (found, bonus) == (followed[0], WEIGHTS.bonus(size))
            return
    assert (found, bonus) == (b"", 0.0)


def test_ahead_begins_with_what_healing_generates_again() -> None:
    copier = Copier("total_count = 1\nprint(total_c", ")", WEIGHTS)
    found, _ = copier.ahead(b"", b"total_c")
    assert found.startswith(b"total_count = 1")


def test_bonus_grows_with_the_match_and_ends() -> None:
    assert [WEIGHTS.bonus(n) for n in (1, 2, 3, 5, 100)] == [0, 0, 1, 3, 6]


def test_copying_completes_a_word_as_it_stands_in_the_file() -> None:
    """A model that says nothing sensible, with the file's own text to lean on."""
    request = InfillRequest("unusual_name = 1\n\nprint(unusual_", "\n", "d", max_tokens=4)
    strong = CopyWeights(slope=10.0, least=3, most=50.0)
    with running(HashModel(), copying=strong) as engine:
        assert engine.infill(request).text == "name"
    with running(HashModel()) as engine:
        assert engine.infill(request).text != "name"
