from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim.syntax import Defects, blank, lex, outline, syntax_of

LANGUAGES = ["python", "javascript", "rust", "go", "c", "lua", "ruby", "markdown", "", "nonsense"]
PIECES = [*"ab \n\\\"'`#/*-[](){}", '"""', "'''", "//", "/*", "*/", "--[[", "]]", "don't", "b'"]
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)

CODE = [
    ("python", "f('(', \"[\") # {\n", "()"),
    ("python", "b'(' rf'[' don't (", "("),
    ("python", '"""(\n"x" \\""" [""" {', "{"),
    ("python", "x = '(\n]", "]"),  # the line's end ends a broken string
    ("javascript", "`(${'['}\n` { // )\n/* ] */ }", "{}"),
    ("rust", "fn f<'a>(x: &'a str) -> char { '{' }", "(){}"),
    ("c", "char c = '\\'', d = '('; int a[2] = {1'000};", "[]{}"),
    ("go", 'r := \'(\'; s := `"(`; t := "\\"("', ""),
    ("lua", "--[[ ( \n ]] { -- }\n", "{"),
    ("markdown", "don't (a \"b", "("),
    ("", "# (", "("),
]


@pytest.mark.parametrize(("language", "text", "brackets"), CODE)
def test_outline_skips_strings_and_comments(language: str, text: str, brackets: str) -> None:
    assert outline(text, syntax_of(language)).brackets == brackets


@pytest.mark.parametrize(
    ("language", "text", "inside"),
    [
        ("python", 'x = "a', '"'),
        ("python", 'x = """a\n', '"""'),
        ("python", "# it", "#"),
        ("python", "# it\n", ""),
        ("c", "/* a\n", "/*"),
        ("c", "x = 1", ""),
    ],
)
def test_outline_says_what_the_text_ends_in(language: str, text: str, inside: str) -> None:
    assert outline(text, syntax_of(language)).inside == inside


@given(st.sampled_from(LANGUAGES), st.lists(st.sampled_from(["(", ")", '"x"', "# c\n", "\n", "a"])))
def test_outlines_add_up(language: str, parts: list[str]) -> None:
    syntax = syntax_of(language)
    whole = outline("".join(parts), syntax)
    added = outline("", syntax)
    for part in parts:
        added = added + outline(part, syntax, added.inside)
    assert added == whole


@given(st.sampled_from(LANGUAGES), texts)
def test_lex_is_total_and_in_order(language: str, text: str) -> None:
    at = 0
    for lexeme in lex(text, syntax_of(language)):
        assert at <= lexeme.start < lexeme.end <= len(text)
        at = lexeme.end


@given(st.sampled_from(LANGUAGES), texts)
def test_blank_keeps_length_lines_and_code(language: str, text: str) -> None:
    blanked = blank(text, language)
    assert len(blanked) == len(text)
    assert [i for i, c in enumerate(blanked) if c == "\n"] == [
        i for i, c in enumerate(text) if c == "\n"
    ]
    assert all(b in (c, " ") for b, c in zip(blanked, text, strict=True))


def test_blank_keeps_delimiters_of_strings() -> None:
    assert blank('f("a(b") # c\n', "python") == 'f("   ")    \n'
    assert blank("'''a\n''' x", "python") == "''' \n''' x"


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        ("()", (0, 0)),
        ("(]", (1, 2)),
        ("([)", (1, 3)),
        ('"', (0, 1)),
        ('"\n', (0, 1)),
        (")", (1, 1)),
    ],
)
def test_defects_counts_what_has_no_partner(text: str, defects: tuple[int, int]) -> None:
    syntax = syntax_of("python")
    assert outline(text, syntax).defects(syntax) == Defects(*defects)
