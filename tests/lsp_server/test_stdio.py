"""The parser, table by table, and the writer against a real pipe that nobody reads."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.stdio import Body, Garbage, MessageParser, Reader, Writer


def parse(data: bytes, **options: int) -> list[Body | Garbage]:
    return list(MessageParser(**options).feed(data))


def bodies(data: bytes, **options: int) -> list[bytes]:
    return [event.data for event in parse(data, **options) if isinstance(event, Body)]


@pytest.mark.parametrize(
    ("data", "expected", "why"),
    [
        (b"Content-Length: 2\r\n\r\n{}", [b"{}"], "as everyone writes it"),
        (b"content-length:2\r\n\r\n{}", [b"{}"], "header names have no case"),
        (b"CONTENT-LENGTH : 2\r\n\r\n{}", [b"{}"], "nor are spaces our business"),
        (b"Content-Type: x; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}", [b"{}"], "any order"),
        (b"Content-Length: 2\r\nX-Other: 7\r\n\r\n{}", [b"{}"], "unknown fields"),
        (b"Content-Length: 2\n\n{}", [b"{}"], "bare newlines"),
        (b"\r\n\r\nContent-Length: 2\r\n\r\n{}", [b"{}"], "blank lines between messages"),
        (b"Content-Length: 0\r\n\r\nContent-Length: 2\r\n\r\n{}", [b"", b"{}"], "empty content"),
        (b"Content-Length: x\r\n\r\nContent-Length: 2\r\n\r\n{}", [b"{}"], "no number"),
        (b"Content-Length: -5\r\n\r\nContent-Length: 2\r\n\r\n{}", [b"{}"], "a negative one"),
        (b"Hello\r\n\r\nContent-Length: 2\r\n\r\n{}", [b"{}"], "a header without a length"),
        (
            b'Content-Length: 4\r\n\r\n{"a":1}Content-Length: 2\r\n\r\n{}',
            [b'{"a"', b"{}"],
            "a length too short loses that message only",
        ),
        (
            b'Content-Length: 2\r\n\r\n{}{"a":1}\r\nContent-Length: 2\r\n\r\n[]',
            [b"{}", b"[]"],
            "text behind a message",
        ),
    ],
)
def test_parser_finds_the_messages(data, expected, why):
    assert bodies(data) == expected, why


def test_parser_refuses_a_huge_length_without_storing_it():
    head = b"Content-Length: 1000000\r\n\r\n"
    parser = MessageParser(max_message=100)
    events = list(parser.feed(head))
    assert [type(event) for event in events] == [Garbage]
    for _ in range(10):
        assert list(parser.feed(b"x" * 100_000)) == []
    assert list(parser.feed(b"Content-Length: 2\r\n\r\n{}")) == [Body(b"{}")]


def test_parser_does_not_collect_a_header_without_end():
    parser = MessageParser()
    found = [event for _ in range(100) for event in parser.feed(b"y" * 1000)]
    assert found
    assert all(isinstance(event, Garbage) for event in found)
    assert len(parser._buffer) < 20_000


def test_parser_survives_a_length_too_long_by_one_message():
    """It swallows the beginning of the next message; the one after that is read again."""
    one = b'Content-Length: 9\r\n\r\n{"a":1}'
    good = b"Content-Length: 2\r\n\r\n{}"
    assert bodies(one + good + good)[-1] == b"{}"


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 50)))
def test_parser_gives_the_same_however_the_bytes_are_cut(contents, cuts):
    stream = b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(c), c) for c in contents)
    parser, got, at = MessageParser(), [], 0
    for cut in [*cuts, len(stream) + 1]:
        got += parser.feed(stream[at : at + cut])
        at += cut
    assert got == [Body(content) for content in contents]


@given(st.binary(max_size=200))
def test_parser_never_raises(data):
    parse(data, max_message=50)


def test_reader_delivers_and_tells_the_end():
    reading, writing = os.pipe()
    got, ended = [], threading.Event()

    def deliver(event):
        got.append(event)
        if event is None:
            ended.set()

    Reader(reading, deliver).start()
    os.write(writing, b"Content-Length: 2\r\n\r\n{}")
    os.close(writing)
    assert ended.wait(10)
    assert got == [Body(b"{}"), None]


def test_writer_never_blocks_and_gives_up_a_client_that_does_not_read():
    reading, writing = os.pipe()
    lost: list[str] = []
    writer = Writer(writing, lost.append, max_unsent=1_000_000)
    writer.start()
    started = time.monotonic()
    for _ in range(300):
        writer.write(b"z" * 10_000)
    assert time.monotonic() - started < 10  # it would hang for ever
    assert len(lost) == 1
    assert "unread" in lost[0]
    assert not writer._queue
    os.close(reading)


def test_writer_reports_a_client_that_is_gone():
    reading, writing = os.pipe()
    os.close(reading)
    gone = threading.Event()
    writer = Writer(writing, lambda reason: gone.set())
    writer.start()
    writer.write(b"x")
    assert gone.wait(10)


def test_writer_close_writes_what_is_queued():
    reading, writing = os.pipe()
    writer = Writer(writing, lambda reason: None)
    writer.start()
    for _ in range(3):
        writer.write(b"x" * 1000)
    writer.close()
    assert os.read(reading, 10_000) == b"x" * 3000
