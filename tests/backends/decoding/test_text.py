"""Text from token bytes: whole characters, stops, held-back beginnings of stops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.decoding.text import TextStream


@given(st.text(max_size=30), st.integers(1, 4))
def test_text_stream_gives_whole_characters_whatever_the_tokens(text: str, size: int) -> None:
    data = text.encode("utf-8", "replace")
    stream = TextStream(b"", ())
    pieces = [stream.push(data[i : i + size]).text for i in range(0, len(data), size)]
    assert "".join(pieces) == data.decode()
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_text_stream_swallows_what_the_document_holds() -> None:
    stream = TextStream(b"    ret", ())
    assert stream.push(b"   ").text == ""
    assert stream.pending == b" ret"
    assert stream.push(b" return").text == "urn"
    assert stream.pending == b""


@given(
    st.text(alphabet="ab\n", max_size=30),
    st.lists(st.text(alphabet="ab\n", min_size=1, max_size=3), max_size=3),
    st.integers(1, 3),
)
def test_text_stream_ends_before_the_first_stop(text: str, stops: list[str], size: int) -> None:
    stream = TextStream(b"", tuple(stops))
    shown = ""
    for i in range(0, len(text), size):
        emitted = stream.push(text[i : i + size].encode())
        shown += emitted.text
        if emitted.stopped_by:
            break
    else:
        shown += stream.flush()
    # Nothing that belongs to a stop is ever shown, not even its beginning.
    ends = [text.find(stop) for stop in stops if stop in text]
    if ends:
        assert text.startswith(shown)
        assert len(shown) <= min(ends) or not any(s in text[: len(shown)] for s in stops)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == text


def test_text_stream_drops_an_unfinished_character() -> None:
    stream = TextStream(b"", ())
    assert stream.push("é".encode()[:1]).text == ""
    assert stream.flush() == ""


@given(
    st.text(alphabet="a \n:}", max_size=40),
    st.lists(st.text(alphabet="a\n:", min_size=1, max_size=3), max_size=2),
    st.integers(1, 3),
)
def test_text_stream_ends_with_its_block_or_before_a_stop(
    text: str, stops: list[str], size: int
) -> None:
    def shown(text: str, stops: tuple[str, ...], line: str | None) -> str:
        stream, shown = TextStream(b"", stops, line), ""
        for i in range(0, len(text), size):
            emitted = stream.push(text[i : i + size].encode())
            shown += emitted.text
            if emitted.stopped_by:
                break
        return shown + stream.flush()

    expected = shown(shown(text, tuple(stops), None), (), "    a")
    assert shown(text, tuple(stops), "    a") == expected
