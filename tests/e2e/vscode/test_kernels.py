"""A kernel in real VS Code: asked for, watched, looked at, written, and called."""

from __future__ import annotations

import re

from tests.e2e.vscode.code_server import Window

TEXT = """import torch


def scale(x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
    return x * factor
"""
COMMAND = "Midspan: Generate a Kernel for This Function…"
WORKING = "working on a kernel"
PATIENCE_MS = 60_000  # a kernel is compiled and run many times


def generate(window: Window) -> None:
    """Ask for a kernel in C, with the shapes that were guessed."""
    window.fill(TEXT)
    window.press("ArrowUp")
    window.command(COMMAND)
    window.pick("Midspan: generate a kernel", "C")
    window.page.locator(".quick-input-title").filter(has_text="the shapes of scale").wait_for()
    field = window.page.locator(".quick-input-widget input[type=text]").first
    assert re.search(r"x: \(.*\) float32", field.input_value())
    window.press("Enter")
    window.page.locator(".notification-list-item").filter(has_text=WORKING).wait_for()


def test_a_kernel_is_stopped_generated_looked_at_written_and_called(window: Window):
    folder = window.file.parent
    shown = window.page.locator(".notification-list-item")
    generate(window)
    shown.filter(has_text=WORKING).get_by_text("Cancel").click()
    shown.filter(has_text=WORKING).wait_for(state="detached")

    generate(window)
    apply = shown.filter(has_text="verified").get_by_role("button", name="Apply")
    apply.wait_for(timeout=PATIENCE_MS)
    preview = window.page.locator(".tab.active").filter(has_text="scale: kernel and test (2 files)")
    preview.wait_for()
    assert [each.name for each in folder.glob("*scale*")] == []
    apply.click()
    window.page.wait_for_selector(".tab.active[aria-label^='scale_c.py']")
    assert "def scale(" in (folder / "scale_c.py").read_text()
    assert "def test_" in (folder / "test_scale_c.py").read_text()
    window.press("Control+End")  # lenses stand above the function
    lens = window.page.locator(".codelens-decoration")
    lens.filter(has_text="verified").wait_for()

    window.command("Notifications: Clear All Notifications")
    lens.get_by_text("Call it from scale").click()
    window.page.locator(".tab.active").filter(has_text="scale calls scale_c").wait_for()
    window.page.locator(".editor-actions").get_by_label("Apply What Is Shown").click()
    window.page.wait_for_selector(f".tab.active[aria-label^='{window.file.name}']")
    assert window.page.locator(".tab").filter(has_text="scale calls").count() == 0
    text = window.changed_text()
    assert "scale_c" in text
    assert text.endswith("    return x * factor\n")
    for name in ("scale_c.py", "test_scale_c.py"):
        (folder / name).unlink()
