"""Code actions in real VS Code: from the menu of refactorings, and by their commands."""

from __future__ import annotations

import pytest

from tests.e2e.vscode.code_server import CODE, Window

AFTER = "\n\n\nprint(multiply(2, 3))\n"
BODY = CODE.rstrip(" ") + "    pass" + AFTER


def to_function(window: Window, text: str) -> None:
    """Put a text into the document, with the cursor at the end of `multiply`'s body."""
    window.fill(text)
    window.press("Control+Home", *["ArrowDown"] * 9, "End")


def test_both_are_in_the_menu_and_the_body_of_the_function_is_completed(window: Window):
    to_function(window, BODY)
    window.press("Control+Shift+r")
    menu = window.page.locator(".action-widget")
    menu.get_by_text("Fill in here").wait_for()
    menu.get_by_text("Complete this function body").click()
    text = window.changed_text()
    head = CODE.rstrip(" ")
    assert text.startswith(head)
    assert text.endswith(AFTER)
    body = text.removeprefix(head).removesuffix(AFTER)
    assert body.strip() not in ("", "pass")
    assert all(line.startswith("    ") for line in body.splitlines() if line)


def test_they_are_in_the_menu_of_the_right_mouse_button(window: Window):
    to_function(window, BODY)
    window.page.locator(".monaco-editor .view-line").filter(has_text="pass").click(button="right")
    for title in ("Fill In Here", "Complete This Function Body", "Generate a Kernel"):
        window.page.locator(".monaco-menu .action-label").filter(has_text=title).wait_for()
    window.press("Escape")


@pytest.mark.parametrize("title", ["Fill In Here", "Complete This Function Body"])
def test_each_is_a_command(window: Window, title: str):
    before = CODE + "return "
    to_function(window, before + AFTER)
    window.command(f"Midspan: {title}")
    text = window.changed_text()
    assert len(text) > len(before + AFTER)
    assert text.startswith(CODE)
    assert text.endswith(AFTER)
