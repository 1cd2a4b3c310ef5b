"""The first five minutes, as the walkthrough has them."""

from __future__ import annotations

from tests.e2e.vscode.code_server import Window


def test_the_walkthrough_lists_its_steps_and_its_sample_suggests(window: Window):
    window.command("Welcome: Open Walkthrough...")
    field = window.page.locator(".quick-input-widget input[type=text]").first
    field.fill("Midspan")
    rows = window.page.locator(".quick-input-list .monaco-list-row")
    rows.filter(has_text="Midspan: the first five minutes").click()
    steps = window.page.locator(".gettingStartedContainer")
    for title in ("Get the language server", "Type, and press Tab", "Download a larger model"):
        steps.get_by_text(title).first.wait_for()
    steps.get_by_role("button", name="Install it").click()
    told = window.page.locator(".notification-list-item")
    told.filter(has_text="the language server is installed").wait_for()
    steps.locator(".codicon-getting-started-step-checked").first.wait_for()
    window.command("Notifications: Clear All Notifications")
    window.command("View: Close Editor")

    window.command("Midspan: Try It in a Sample File")
    assert window.ghost_text().strip()
    window.command("View: Revert and Close Editor")
    window.page.wait_for_selector(f".tab.active[aria-label^='{window.file.name}']")
