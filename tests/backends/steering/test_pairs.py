"""Contrast pairs: files of the user's, and the sets that come along."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.errors import BadRequest
from backends.steering import pairs
from backends.steering.measures import MEASURES
from backends.steering.pairs import Pair, common_start
from tests import steering_pairs

GOOD = {"positive": "def f(a: int):\n", "negative": "def f(a):\n"}


def write(path: Path, *lines: dict[str, str] | bytes) -> str:
    data = (line if isinstance(line, bytes) else msgspec.json.encode(line) for line in lines)
    path.write_bytes(b"\n".join(data))
    return str(path)


@pytest.mark.parametrize("name", pairs.READY_MADE)
def test_ready_made_sets_are_what_their_templates_write(name: str) -> None:
    assert (steering_pairs.FOLDER / f"{name}.jsonl").read_bytes() == steering_pairs.lines(name)


@pytest.mark.parametrize("name", pairs.READY_MADE)
def test_ready_made_sets_contrast_what_they_are_called_after(name: str) -> None:
    found = pairs.read(name)
    assert len(found) >= 40
    assert len({pair.prompt for pair in found}) == len(found)
    score = MEASURES[name].score
    for pair in found:
        # As it goes on as wanted and not, so far as a set's measure looks.
        assert (score(pair.wanted), score(pair.unwanted)) == (1, 0)
        for text in (pair.positive, pair.negative):
            assert text.endswith(pair.prompt.rpartition("\n\n\n")[2])
            for code in (text + pair.wanted, text + pair.unwanted):
                assert code.startswith("def ")


def test_ready_made_functions_are_python() -> None:
    for pair in pairs.read("brevity"):
        for text in (pair.positive + pair.wanted, pair.negative + pair.unwanted):
            compile(text, "pair", "exec")


def test_texts_that_begin_alike_are_their_own_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", *[GOOD] * 8)
    expected = Pair(GOOD["positive"], GOOD["negative"], "def f(", "a: int):\n", "a):\n")
    assert pairs.read(path) == (expected,) * 8


@pytest.mark.parametrize(
    ("one", "other", "start"),
    [
        ("return x", "result = x", ""),
        ("f():\n    return", '    """'.join(["f():\n", ""]), "f():\n"),
        ("same", "same", ""),
        ("", "a", ""),
        ("a.b", "a.c", "a."),
    ],
)
def test_common_start_ends_where_a_token_may(one: str, other: str, start: str) -> None:
    assert common_start(one, other) == common_start(other, one) == start


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"not json", "line 8"),
        (b'{"positive": "a"}', "line 8.*negative"),
        (b"\xff\xfe", "line 8"),
        (b"[" * 100_000, "line 8"),
        ({"positive": "a b", "negative": "a b"}, "the same"),
        ({"positive": "x = 1", "negative": "y = 1"}, "begin alike"),
        ({"positive": " ", "negative": "y"}, "must hold text"),
        ({**GOOD, "wanted": "x"}, "go together"),
        ({**GOOD, "label": "x"}, "label"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, bad: dict[str, str] | bytes, said: str
) -> None:
    with pytest.raises(BadRequest, match=f"(?s){said}"):
        pairs.read(write(tmp_path / "bad.jsonl", *[GOOD] * 7, bad))


def test_too_few_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="has 3 pairs"):
        pairs.read(write(tmp_path / "few.jsonl", *[GOOD] * 3))
    with pytest.raises(BadRequest, match="docstrings, type-hints, brevity"):
        pairs.read(str(tmp_path / "none.jsonl"))
    with pytest.raises(BadRequest, match="can't be read"):
        pairs.read(str(tmp_path))
