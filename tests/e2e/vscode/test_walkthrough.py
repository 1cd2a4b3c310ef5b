"""The first five minutes, as the walkthrough has them."""

from __future__ import annotations

from tests.e2e.vscode.code_server import Window


def test_the_walkthrough_lists_its_steps_and_its_sample_suggests(window: Window):
    window.walkthrough()
    steps = window.page.locator(".gettingStartedContainer")
    for title in ("Type, and press Tab", "Download a larger model", "Choose a model"):
        steps.get_by_text(title).first.wait_for()
    assert steps.get_by_text("Get the language server").count() == 0  # it runs
    window.command("Midspan: Install the Language Server…")
    told = window.page.locator(".notification-list-item")
    told.filter(has_text="the language server is installed").wait_for()
    window.command("Notifications: Clear All Notifications")
    window.command("View: Close Editor")

    window.command("Midspan: Try It in a Sample File")
    assert window.ghost_text().strip()
    window.command("View: Revert and Close Editor")
    window.page.wait_for_selector(f".tab.active[aria-label^='{window.file.name}']")
