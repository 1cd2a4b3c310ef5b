from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fim.postprocess import FILTERS, Cursor, tidy
from fim.syntax import syntax_of

# (what it shows, language, before the cursor, generated, after the cursor, shown)
CASES = [
    ("left as it is", "python", "def f(a, b):\n    ", "return a + b", "\n", "return a + b"),
    # the rest of the cursor's line is there already
    ("closer", "python", "print(", '"hi")', ")\n", '"hi"'),
    ("inner closer stays", "python", "print(f(", "x)", ")\n", "x)"),
    ("closer the suffix lacks", "python", "print(", '"hi")', "\n", '"hi")'),
    ("quote and closer", "python", 'print("he', 'llo")', '")\n', "llo"),
    ("quote alone", "python", 'x = "he', 'llo"', '"\n', "llo"),
    ("quote the suffix lacks", "python", 'x = "he', 'llo"', "\n", 'llo"'),
    ("arguments", "python", "foo(", "a, b=None)", ", b=None)\n", "a"),
    ("header again", "python", "def f(", "a, b):\n    return a", ", b):\n    pass\n", "a"),
    ("brackets of its own", "python", "x = ", "foo(1)[0]", "\n", "foo(1)[0]"),
    ("escaped quotes", "javascript", "let s = ", "'it\\'s (';", "\n", "'it\\'s (';"),
    # brackets: never less balanced
    ("block already closed", "c", "int f() {\n  ", "return 1;\n}", "\n}\n", "return 1;"),
    ("block not closed yet", "c", "int f() {\n  ", "return 1;\n}", "\n", "return 1;\n}"),
    ("too many closers", "python", "x = [1, ", "2])])", "\n", "2]"),
    ("cut off by length", "python", "x = ", "foo(bar(1), baz(", "\n", "foo"),
    (
        "cut off in a later line",
        "python",
        "def f():\n    ",
        "a = 1\n    b = g(1)\n    c = h(",
        "\n",
        "a = 1\n    b = g(1)",
    ),
    ("opens a block", "javascript", "for (const x of xs)", " {", "\n", ""),
    ("bracket in a comment", "python", "x = 1  # see ", "the paper (Fig. 3", "\n", None),
    ("apostrophe in a comment", "python", "# it ", "doesn't matter", "\n", None),
    ("lifetime", "rust", "fn f", "<'a>(x: &'a str) -> &'a str", " {\n}\n", None),
    ("docstring", "python", 'def f():\n    """', "Don't do (this", '"""\n', None),
    # repeating what follows
    ("the next line", "python", "a = 1\n", "b = 2", "\nb = 2\nc = 3\n", ""),
    ("the next lines", "python", "a = 1\n", "b = 2\nc = 3", "\n\nb = 2\nc = 3\n", ""),
    ("the line begun", "python", "a = 1\nb", " = 2", "\nb = 2\n", ""),
    (
        "a tail that follows anyway",
        "python",
        "def f():\n    a = 1\n    ",
        "b = 2\n    return a + b",
        "\n    return a + b\n",
        "b = 2",
    ),
    (
        "a tail cut off by length",
        "python",
        "def f():\n    a = 1\n    ",
        "b = 2\n    return a +",
        "\n    return a + b\n",
        "b = 2",
    ),
    (
        "rewrites the suffix and goes on",
        "python",
        "",
        "import os\nimport sys\nimport re\nimport json\n",
        "\nimport sys\nimport re\nimport abc\n",
        "import os",
    ),
    ("not only the lines above", "python", "x = load()\n", "x = load()", "\n", ""),
    # repetition
    (
        "blocks",
        "python",
        "def f():\n    ",
        "a.append(1)\n    a.append(1)\n    a.append(1)\n    a.append(1)",
        "\n",
        "a.append(1)",
    ),
    ("within a line", "python", "x = ", "foo.bar." * 20, "\n", "foo.bar."),
    ("zeros may repeat", "python", "x = ", "[" + "0, " * 12 + "0]", "\n", None),
    ("rulers may repeat", "python", "# ", "-" * 60, "\n", None),
    # extent
    (
        "the next function",
        "python",
        "def f(x):\n    ",
        "return x\n\ndef g(x):\n    return 2",
        "\n",
        "return x",
    ),
    (
        "the next function, from a blank first line",
        "python",
        "def f(x):\n    return x\n    ",
        "\n\ndef g(x):\n    return 2",
        "\n",
        "",
    ),
    (
        "the next method",
        "python",
        "class A:\n    def f(self):",
        "\n        return 1\n\n    def g(self):\n        return 2",
        "\n",
        "\n        return 1",
    ),
    (
        "the next class",
        "python",
        "class A",
        ":\n    x = 1\n\n    def f(self):\n        pass\n\nclass B:\n    pass",
        "\n",
        ":\n    x = 1\n\n    def f(self):\n        pass",
    ),
    (
        "a block's continuation stays",
        "python",
        "def f(x):\n    if x:\n        ",
        "return 1\n    else:\n        return 2",
        "\n",
        "return 1\n    else:\n        return 2",
    ),
    (
        "statements after a block stay",
        "python",
        "def f(xs):\n    ",
        "for x in xs:\n        print(x)\n    return xs",
        "\n",
        None,
    ),
    (
        "top-level statements stay",
        "python",
        "import os\n",
        "import re\nimport sys",
        "\n\nprint()\n",
        None,
    ),
    (
        "braces",
        "javascript",
        "function f() {\n  ",
        "return 1;\n}\n\nfunction g() {\n  return 2;\n}",
        "\n",
        "return 1;\n}",
    ),
    # whitespace
    ("stray space", "python", "x = ", " 1", "\n", "1"),
    ("stray space in indentation", "python", "def f():\n    ", " return 1", "\n", "return 1"),
    ("indentation is kept", "python", "def f():\n", "    return 1", "\n", "    return 1"),
    ("trailing", "python", "x = ", "1  \n\n  ", "\n", "1"),
    ("trailing before a word", "python", "x = ", "not ", "y\n", "not "),
    ("at line ends", "python", "def f():\n    ", "a = 1  \n    b = 2", "\n", "a = 1\n    b = 2"),
    ("blank", "python", "x = 1\n", "   \n  ", "\n", ""),
    # not worth it
    ("closers", "javascript", "foo(() => {\n", "})", "\n", ""),
    ("closers with a line end", "c", "int f() {\n", "}\n", "\n", ""),
    ("comment sign", "python", "x = 1\n", "#", "\n", ""),
    ("nothing", "python", "x = 1\n", "", "\n", ""),
]


@pytest.mark.parametrize(
    ("language", "before", "generated", "after", "shown"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_tidy(language: str, before: str, generated: str, after: str, shown: str | None) -> None:
    tidied = tidy(generated, prefix=before, suffix=after, language_id=language)
    assert tidied.text == (generated if shown is None else shown)
    assert bool(tidied.reason) is not bool(tidied.text)


@pytest.mark.parametrize(
    ("before", "generated", "after", "reason"),
    [
        ("a\n", "b = 2", "\nb = 2\n", "only repeats the next lines"),
        ("foo(x", ")", "", "only closing brackets"),
        ("a\n", "  \n", "\n", "whitespace only"),
        ("a\n", "", "\n", "nothing was generated"),
        ("x = load()\n", "x = load()", "", "only repeats the lines above"),
        ("for (;;)", " {", "", "would unbalance brackets or quotes"),
        ("def f():\n    ", "\ndef g():\n    pass", "", "leaves the block"),
        ("x = va", "lue", "lue\n", "goes on as the document does"),
    ],
)
def test_tidy_says_why_there_is_nothing(
    before: str, generated: str, after: str, reason: str
) -> None:
    assert tidy(generated, prefix=before, suffix=after).reason == reason


def test_tidy_single_line_ends_at_the_line() -> None:
    tidied = tidy("1\ny = 2", prefix="x = ", suffix="\n", single_line=True)
    assert tidied.text == "1"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tidy_writes_the_document_s_line_ends(ending: str) -> None:
    for generated in ("a = 1\n    b = 2", "a = 1\r\n    b = 2"):
        prefix, suffix = f"def f():{ending}    ", f"{ending}"
        shown = tidy(generated, prefix=prefix, suffix=suffix, line_ending=ending).text
        assert shown == f"a = 1{ending}    b = 2"


def test_tidy_finds_repetition_across_line_ends() -> None:
    tidied = tidy("b = 2\nc = 3", prefix="a = 1\r\n", suffix="\r\nb = 2\r\nc = 3\r\n")
    assert tidied.reason == "only repeats the next lines"


@pytest.mark.parametrize(
    ("prefix", "generated", "shown"),
    [
        ("\tif x {\n", "\t\ta()\n        b()", "\t\ta()\n\t\tb()"),
        ("if x {\n\ty()\n\t", "a()\n    b()", "a()\n\tb()"),
        ("if x:\n    y()\n    ", "a()\n    b()", "a()\n    b()"),  # no tabs in the document
        ("if x {\n\ty()\n\t", "a()\n\tb()", "a()\n\tb()"),
    ],
)
def test_tidy_indents_with_tabs_where_the_document_does(
    prefix: str, generated: str, shown: str
) -> None:
    assert tidy(generated, prefix=prefix, suffix="\n}\n", language_id="go").text == shown


def test_tidy_of_a_huge_document_looks_near_the_cursor_only() -> None:
    huge = 'x = "unclosed (\n' * 200_000
    assert tidy("foo(1)", prefix=huge + "y = ", suffix="\n" + huge).text == "foo(1)"


@pytest.mark.parametrize("look_ahead", range(2990, 3010))
def test_tidy_is_not_misled_by_where_its_view_ends(look_ahead: int) -> None:
    # Wherever the view of what follows ends, in a string or in brackets, a docstring may end here.
    filler = "x = 1\n" * 300
    pad = "#" * (look_ahead - len(filler) - 40)
    after = f'\n{filler}{pad}\ny = f(1, (2, """text (" more""", 3), 4)\n' + filler
    prefix = 'def f():\n    """Return it'
    assert tidy('."""', prefix=prefix, suffix=after, language_id="python").text == '."""'
    assert tidy('."""', prefix=prefix, suffix='"""' + after, language_id="python").text == "."


CODE = st.lists(
    st.sampled_from(
        ["foo", "x", " ", "\n", "\n    ", "(", ")", "[", "]", "{", "}", ", ", " = 1", ":", "else:"]
    ),
    max_size=25,
).map("".join)
QUOTED = st.lists(
    st.sampled_from(["foo", " ", "\n", "\n  ", "(", ")", '"', "'", "#", '"""', "don't", "\\", "1"]),
    max_size=25,
).map("".join)


def unmatched(text: str) -> int:
    """Brackets without a partner, counted without any of the code under test."""
    partner = {")": "(", "]": "[", "}": "{"}
    stack: list[str] = []
    strays = 0
    for char in text:
        if char in "([{":
            stack.append(char)
        elif char in partner:
            if stack and stack[-1] == partner[char]:
                stack.pop()
            else:
                strays += 1
    return strays + len(stack)


@settings(max_examples=400)
@given(CODE, CODE, CODE)
def test_tidy_never_leaves_brackets_worse(before: str, generated: str, after: str) -> None:
    shown = tidy(generated, prefix=before, suffix=after).text
    assert unmatched(before + shown + after) <= unmatched(before + after)


@settings(max_examples=400)
@given(QUOTED, QUOTED, QUOTED)
def test_tidy_never_leaves_quotes_worse(before: str, generated: str, after: str) -> None:
    shown = tidy(generated, prefix=before, suffix=after, language_id="python").text
    cursor = Cursor(before, after, syntax_of("python"))
    assert cursor.defects(shown).no_worse_than(cursor.defects(""))


@settings(max_examples=300)
@given(CODE | QUOTED, CODE | QUOTED, CODE | QUOTED)
def test_tidy_only_takes_away_and_is_done_at_once(before: str, generated: str, after: str) -> None:
    shown = tidy(generated, prefix=before, suffix=after).text
    remaining = iter(generated)
    assert all(char in remaining for char in shown)  # a subsequence
    assert tidy(shown, prefix=before, suffix=after).text == shown
    assert not shown or shown.strip()


def test_every_filter_gives_up_or_shortens() -> None:
    # What makes the loop in `tidy` end.
    cursor = Cursor("def f():\n    ", "\n    return a + b\n", syntax_of("python"))
    generated = " a = 1 \n    return a + b\n\n\ndef g():\n"
    for _, filter_ in FILTERS:
        kept = filter_(generated, cursor)
        assert len(kept) <= len(generated)
