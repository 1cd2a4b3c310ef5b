from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.documents import Document
from lsp_server.settings import Settings
from lsp_server.snapshot import MAX_AFTER, MAX_BEFORE, STEP, refusal, switched_off, take
from lsp_server.toggles import Toggles


def document(text, uri="file:///w/a.py"):
    return Document(uri, text, 1, "python")


def test_small_document_is_taken_whole():
    snapshot = take(document("one\ntwo\nthree\n"), 5)
    assert (snapshot.before, snapshot.after) == ("one\nt", "wo\nthree\n")
    assert snapshot.rest_of_line == "wo"


def test_gap_takes_what_stands_around_it():
    snapshot = take(document("f():\r\n  pass\r\nx"), 4, 12, "\r\n  ", "\r\n")
    assert (snapshot.before, snapshot.after) == ("f():\n  ", "\n\nx")
    assert snapshot.line_ending == "\r\n"


@pytest.mark.parametrize("line", ["a = 1\n", "a = 1\r\n"])
def test_windows_are_bounded_and_cut_at_line_starts(line):
    text = line * 40_000
    at = 150_000 // len(line) * len(line) + 3
    snapshot = take(document(text), at)
    plain = "a = 1\n"
    assert snapshot.before.startswith(plain)
    assert snapshot.after.endswith("\n")
    assert MAX_BEFORE * 3 // 4 - STEP < len(snapshot.before) <= MAX_BEFORE
    assert MAX_AFTER // 2 < len(snapshot.after) <= MAX_AFTER


def test_one_endless_line_is_cut_anywhere():
    snapshot = take(document("x" * 500_000), 250_000)
    assert MAX_BEFORE - STEP < len(snapshot.before) <= MAX_BEFORE
    assert len(snapshot.after) == MAX_AFTER


def test_window_start_stays_put_while_one_types():
    text = "a = 1\n" * 40_000
    starts = set()
    for typed in range(200):
        one = document(text[:150_000] + "y" * typed + text[150_000:])
        snapshot = take(one, 150_000 + typed)
        starts.add(150_000 + typed - len(snapshot.before))
    assert len(starts) == 1


@given(st.text(alphabet="ab\r\n", max_size=60), st.integers(0, 60))
def test_before_and_after_are_the_document(text, at):
    at = min(at, len(text))
    snapshot = take(document(text), at)
    assert snapshot.before == text[:at].replace("\r\n", "\n").replace("\r", "\n")
    assert snapshot.after == text[at:].replace("\r\n", "\n").replace("\r", "\n")


def test_refusal_of_size_and_secrets():
    assert refusal(document("x")) is None
    assert "too large" in (refusal(document("x" * 10_000_001)) or "")
    assert "secrets" in (refusal(document("x", "file:///home/u/.ssh/config")) or "")


def test_switches():
    toggles, one = Toggles(), document("x")
    assert switched_off(one, Settings(), toggles) is None
    assert switched_off(one, Settings(enabled=False), toggles)
    assert "python" in (switched_off(one, Settings(disabled_languages=("python",)), toggles) or "")
    assert switched_off(one, Settings(disabled_files=("*.js",)), toggles) is None
    assert "files" in (switched_off(one, Settings(disabled_files=("*.py",)), toggles) or "")
    toggles.flip_document(one.uri)
    assert "document" in (switched_off(one, Settings(), toggles) or "")
    toggles.flip_document(one.uri)
    toggles.flip_language("python")
    assert switched_off(one, Settings(), toggles)
