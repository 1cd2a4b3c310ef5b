from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fim.block import Block, BlockStream

# (what it shows, the cursor's line, what the model writes with | where it is to end)
CASES = [
    ("next function", "    ret", "urn a\n|\n\ndef g():\n    pass"),
    ("next method", "        return", " a\n|\n    def g(self):"),
    ("blank line inside", "    a = 1", "\n\n    return a\n|x = 2\n"),
    ("else goes on", "        a()", "\n    else:\n        b()\n|c()\n"),
    ("brace goes on", "    a();", "\n}|\nint b;"),
    ("do while", "    a();", "\nwhile (x);\n|int b;"),
    ("while of another", "    a()", "\n|while x:\n"),
    ("a name that begins as a word that goes on", "    a()", "\n|elsewhere = 1\n"),
    ("a function of its own", "def f(a):", "\n    return a\n|\ndef g():\n"),
    ("top level statements", "a = 1", "\nb = 2\nc = 3|"),
    ("decorated neighbour", "    def f(self):", "\n        pass\n|\n    @property\n    def g"),
    ("empty line at no depth", "", "\n    a = 1\n|b = 2"),
    ("one line", "    a", " = 1|"),
    ("end of the text in a word", "    a()", "\n|els"),
    ("end of the text in a word that goes on", "    a()", "\nelse|"),
    ("windows line ends", "    a()", "\r\n    b()\r\n|\r\nc()\r\n"),
]


def streamed(line: str, pieces: list[str]) -> tuple[str, bool]:
    stream = BlockStream(line)
    shown = ""
    for piece in pieces:
        shown += stream.push(piece)
        if stream.ended:
            return shown, True
    return shown + stream.flush(), stream.ended


def cut(line: str, text: str) -> str:
    """What the lines' own rule keeps, line by line."""
    first, *more = text.split("\n")
    block = Block(line + first)
    kept = [first]
    for one in more:
        if block.leaves(one):
            break
        kept.append(one)
    return "\n".join(kept)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("shows", "line", "marked"), CASES, ids=[case[0] for case in CASES])
def test_block_ends_where_it_should(shows: str, line: str, marked: str, size: int) -> None:
    kept, _, rest = marked.partition("|")
    text = kept + rest
    shown, ended = streamed(line, [text[i : i + size] for i in range(0, len(text), size)])
    assert shown.rstrip() == kept.rstrip(), shows
    assert ended == bool(rest)


def test_block_is_left_before_the_line_that_leaves_it_is_complete() -> None:
    stream = BlockStream("    ret")
    assert stream.push("urn 1\n\n\ndef") == "urn 1"
    assert not stream.ended, "it may be `default`"
    assert stream.push(" g") == ""
    assert stream.ended


LINES = ["", "  ", "a = 1", "    a", "        b:", "else:", "  elif x", "}", "while x;", "while x:"]
LINES += [
    "@a",
    "def f():",
    "    def f():",
    "async",
    "\tc",
    "x" * 9,
    "\u2028",
    "if a {",
    "  });",
    "#",
]


@given(
    st.sampled_from(["", " ", "    ret", "def f():", "\ta", "if x {", "        "]),
    st.lists(st.sampled_from(LINES), max_size=9),
    st.lists(st.integers(1, 7), min_size=1, max_size=9),
)
@example("    a", ["", "whi", "else"], [1])
def test_block_stream_shows_what_the_rule_of_lines_keeps(
    line: str, lines: list[str], sizes: list[int]
) -> None:
    text, pieces, at = "\n".join(lines), [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    shown, ended = streamed(line, pieces)
    assert shown.rstrip() == cut(line, text).rstrip()
    assert text.startswith(shown)
    assert ended == (cut(line, text) != text)
