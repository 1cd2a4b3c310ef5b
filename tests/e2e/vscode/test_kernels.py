"""A kernel in real VS Code: asked for, watched, looked at, written, and called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator

from lsp_server.kernels import files, reference
from lsp_server.kernels.task import Language
from lsp_server.kernels.templates import library
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


SHIFT = """import torch


def shift(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    return x + by
"""
SHAPES = "x: (N,) float32"
RIGHT = "out[row] = x + by;"


@pytest.fixture
def kernel(window: Window) -> Iterator[Path]:
    """A kernel's file beside its reference, as somebody else's machine wrote it."""
    file = window.file.parent / "shift.py"
    file.write_text(SHIFT)
    task = reference.task(SHIFT, "shift", Language.C, SHAPES, str(file))
    candidate = library.make(task).candidate
    assert candidate is not None
    kernel = file.with_name("shift_c.py")
    kernel.write_text(files.kernel_text(task, candidate, file.name, SHAPES))
    assert RIGHT in kernel.read_text()
    yield kernel
    window.command("View: Revert and Close Editor")
    window.page.wait_for_selector(f".tab.active[aria-label^='{window.file.name}']")
    for each in (file, kernel):
        each.unlink()


def notifications(window: Window, text: str) -> Locator:
    return window.page.locator(".notification-list-item").filter(has_text=text)


def lens(window: Window, title: str) -> Locator:
    """What stands above the kernel's function, once it says this; in sight, with no scrolling."""
    found = window.page.locator(".codelens-decoration a, .codelens-decoration span")
    found = found.filter(has_text=title).last
    found.wait_for(timeout=PATIENCE_MS)
    box = found.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] < window.page.viewport_size["width"]
    return found


def click(window: Window, title: str) -> None:
    """Click what stands above the kernel, and wait until the work is done."""
    window.command("Notifications: Clear All Notifications")
    lens(window, title).click()
    working = notifications(window, WORKING)
    working.wait_for()
    working.wait_for(state="detached", timeout=PATIENCE_MS)


def test_a_kernels_file_is_verified_broken_explained_and_repaired(
    window: Window, kernel: Path, chat_model: Callable[..., None]
):
    text = kernel.read_text()
    window.show(kernel.name)
    window = replace(window, file=kernel)
    window.press("Control+End")
    lens(window, "not verified on this machine")
    click(window, "Verify")
    notifications(window, "Midspan: verified on this processor").wait_for()
    lens(window, "Call it from shift")
    lens(window, "Try another")

    kernel.write_text(text.replace(RIGHT, "out[row] = x - by;"))
    window.command("File: Revert File")
    lens(window, "stale: changed since it was verified")
    click(window, "Verify again")
    notifications(window, "Midspan: failed: wrong").wait_for()
    lens(window, "Show the counterexample").click()
    notifications(window, "shift: 1000 of 1000 values are wrong").wait_for()
    lens(window, "failed: wrong").click()
    dialog = window.page.locator(".monaco-dialog-box")
    for line in ("compiles: passed", "correct: failed", "robust: not run"):
        dialog.get_by_text(line).wait_for()
    window.press("Escape")

    # The starter model cannot chat: it tries, the checks refuse it, and nothing is written.
    broken = kernel.read_text()
    click(window, "Repair")
    asked = notifications(window, "starter only completes")
    asked.get_by_role("button", name="Show the best attempt").click()
    notifications(window, "failed").get_by_role("button", name="Discard").click()
    window.page.wait_for_selector(f".tab.active[aria-label^='{kernel.name}']")
    assert window.text() == broken

    mended = files.code_of(text).replace("float x = x_ptr", "float  x = x_ptr")
    chat_model("```python\n", mended, "```")
    click(window, "Repair")
    window.page.locator(".tab.active").filter(has_text="shift: another kernel").wait_for()
    notifications(window, "verified on").get_by_role("button", name="Apply").click()
    window.page.wait_for_selector(f".tab.active[aria-label^='{kernel.name}']")
    assert "float  x = x_ptr" in window.changed_text()
    lens(window, "Call it from shift")
    click(window, "Try another")  # it writes the same again
    notifications(window, "No other kernel passed its checks").wait_for()
    assert "float  x = x_ptr" in window.text()
