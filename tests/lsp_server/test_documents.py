"""A document's text and positions against a naive reference that works on encoded units."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.documents import Change, Document, Documents, Place

ENCODINGS = ("utf-8", "utf-16", "utf-32")
# Every way to end a line, what only looks like one, and characters of 1 to 4 bytes, 1 to 2 units.
ALPHABET = [
    "a",
    "b",
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x85",
    "\u2028",
    "é",
    "字",
    "😀",
]
TEXT = st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join)


def naive_lines(text: str) -> list[str]:
    lines, line, at = [], "", 0
    while at < len(text):
        end = "\r\n" if text[at : at + 2] == "\r\n" else text[at]
        at += len(end)
        if end in ("\r\n", "\n", "\r"):
            lines.append(line)
            line = ""
        else:
            line += end
    return [*lines, line]


def naive_place(text: str, offset: int, encoding: str) -> Place:
    before = naive_lines(text[:offset])
    if text[offset - 1 : offset + 1] == "\r\n":  # between \r and \n there is no position
        return naive_place(text, offset - 1, encoding)
    size = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
    codec = encoding if size == 1 else f"{encoding}-le"
    return Place(len(before) - 1, len(before[-1].encode(codec)) // size)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(ENCODINGS),
    TEXT,
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), TEXT), max_size=8),
)
def test_document_text_is_the_editors_after_any_edits(encoding, text, edits):
    document = Document("file:///a.py", text, 1, "python", encoding)
    for one, other, new in edits:
        start, end = sorted((one % (len(text) + 1), other % (len(text) + 1)))
        while text[start - 1 : start + 1] == "\r\n":
            start -= 1
        while text[end - 1 : end + 1] == "\r\n":
            end += 1
        change = Change(new, naive_place(text, start, encoding), naive_place(text, end, encoding))
        document.apply(change)
        text = text[:start] + new + text[end:]
        assert document.text == text
        assert document.line_count == len(naive_lines(text))
        for offset in range(len(text) + 1):
            if text[offset - 1 : offset + 1] != "\r\n":
                place = document.place(offset)
                assert place == naive_place(text, offset, encoding)
                assert document.offset(place) == offset


@pytest.mark.parametrize(
    ("encoding", "text", "place", "offset", "why"),
    [
        ("utf-16", "ab\ncd", Place(0, 99), 2, "past the line's end is its end"),
        ("utf-16", "ab\r\ncd", Place(0, 99), 2, "the line end is not part of the line"),
        ("utf-16", "ab\ncd", Place(9, 0), 5, "past the last line is the end"),
        ("utf-16", "ab\n", Place(1, 0), 3, "the empty line after the last line end"),
        ("utf-16", "😀x", Place(0, 1), 0, "between two surrogates is before the character"),
        ("utf-8", "éx", Place(0, 1), 0, "inside a UTF-8 sequence is before the character"),
        ("utf-8", "字x", Place(0, 3), 1, "after three bytes"),
        ("utf-16", "字x😀", Place(0, 2), 2, "a wide character is one unit in UTF-16"),
        ("utf-32", "😀x", Place(0, 1), 1, "one unit each"),
        ("utf-16", "", Place(0, 0), 0, "an empty document has one line"),
        ("utf-16", "a\u2028b\x0cc", Place(0, 4), 4, "U+2028 and form feed end no line"),
    ],
)
def test_offset_of_a_place(encoding, text, place, offset, why):
    assert Document("file:///a", text, 1, "x", encoding).offset(place) == offset, why


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_document_joins_surrogates_typed_apart(encoding):
    document = Document("file:///a", "x", 1, "x", encoding)
    for half in ("\ud83d", "\ude00"):
        end = document.place(len(document.text))
        document.apply(Change(half, end, end))
    assert document.text == "x😀"


def test_change_without_a_range_replaces_everything():
    document = Document("file:///a", "old\ntext", 1, "x")
    document.apply(Change("new\r\n"))
    assert (document.text, document.line_count, document.line_ending) == ("new\r\n", 2, "\r\n")


def test_change_of_an_unopened_document_is_ignored_with_one_line(caplog):
    documents = Documents()
    with caplog.at_level(logging.DEBUG):
        assert not documents.change("file:///a", 2, [Change("secret words")])
    assert documents.get("file:///a") is None
    assert len(caplog.records) == 1
    assert "secret words" not in caplog.text


def test_stale_version_is_ignored_with_one_line(caplog):
    documents = Documents()
    documents.open("file:///a", "now", 5, "x")
    with caplog.at_level(logging.DEBUG):
        assert not documents.change("file:///a", 4, [Change("then")])
    document = documents.get("file:///a")
    assert document is not None
    assert (document.text, document.version, document.revision) == ("now", 5, 0)
    assert len(caplog.records) == 1


def test_documents_find_a_uri_however_it_is_escaped():
    documents = Documents()
    documents.open("file:///c%3A/a%20b.py", "x", 1, "python")
    found = documents.get("file:///c:/a b.py")
    assert found is not None
    assert found.path == "/c:/a b.py"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("x" * 10_000_000, "utf-16"), ("x" * 10_000_000, "utf-8"), ("字" * 5_000_000, "utf-16")],
)
def test_edit_of_a_huge_line_is_not_counted_through(text, encoding):
    """pygls takes 1.6-3.4 s for one of these; 20 of them in 4 s only catches that."""
    document = Document("file:///a", text, 1, "x", encoding)
    started = time.monotonic()
    for at in range(20):
        place = Place(0, len(text) // 2 + at)
        document.apply(Change("y", place, place))
        assert document.place(document.offset(place)) == place
    assert time.monotonic() - started < 4
    assert document.text[len(text) // 2 : len(text) // 2 + 20] == "y" * 20
