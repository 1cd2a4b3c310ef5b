from __future__ import annotations

import pytest

from lsp_server.edit_prompt import MAX_AFTER, MAX_BEFORE, messages, replacement

SELECTED = "    a = 1\n    b = 2\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("```python\n    a = 3\n```", "    a = 3\n"),
        ("```\n    a = 3\n```\nThis sets a.", "    a = 3\n"),
        ("Here it is:\n\n```py\n    a = 3\n```\n```\nother\n```", "    a = 3\n"),
        ("~~~\n    a = 3\n~~~", "    a = 3\n"),
        ("````\n    a = '''```'''\n````", "    a = '''```'''\n"),
        ("    a = 3\n", "    a = 3\n"),
        ("```python\na = 3\nif a:\n    b = 4\n```", "    a = 3\n    if a:\n        b = 4\n"),
        ("```python\na = 3\n\nb = 4\n```", "    a = 3\n\n    b = 4\n"),
        ("```python\n    a = 3", "    a = 3\n"),  # still coming
        ("```pyth", ""),
        ("``", ""),
        ("", ""),
        ("```\n```", ""),
    ],
)
def test_replacement_is_the_first_block_indented_as_before(answer: str, text: str):
    assert replacement(answer, SELECTED) == text


def test_replacement_ends_its_line_only_where_the_selection_did():
    assert replacement("```\nx\n```", "a") == "x"
    assert replacement("```\nx\n```", "a\n") == "x\n"


def test_replacement_of_an_empty_line_gets_that_lines_indentation():
    assert replacement("```\nreturn a\n```", "        \n") == "        return a\n"


def test_messages_show_the_lines_their_surroundings_and_the_wish():
    _, user = messages(
        "before\n", SELECTED, "after\n", path="a.py", language="python", prompt="Make b 5."
    )
    assert f"before\n<edit>\n{SELECTED}</edit>\nafter\n" in user["content"]
    assert user["content"].endswith("Make b 5.")


def test_messages_show_whole_lines_of_long_surroundings():
    before, after = "0123456789\n" * MAX_BEFORE, "0123456789\n" * MAX_AFTER
    _, user = messages(before, SELECTED, after, path="a.py", language="python", prompt="x")
    text = user["content"]
    assert len(text) < MAX_BEFORE + MAX_AFTER + 500
    shown = text.replace(SELECTED, "").split("\n")
    assert {line for line in shown if line[:1].isdigit()} == {"0123456789"}
