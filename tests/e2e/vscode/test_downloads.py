"""A model is downloaded in real VS Code: chosen, stopped, gone on with, and used."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from tests.backends.downloads.hub import Hub
from tests.e2e.vscode.code_server import Window

if TYPE_CHECKING:  # without playwright these tests are skipped
    from playwright.sync_api import Locator

REPOSITORY, FILE = "someone/pocket-GGUF", "pocket-q8_0.gguf"


def notification(window: Window, text: str) -> Locator:
    """The notification that says this, once it is there."""
    found = window.page.locator(".notification-list-item").filter(has_text=text)
    found.first.wait_for()
    return found.first


def download(window: Window) -> None:
    """Ask for the repository, from the quick pick of models."""
    window.command("Midspan: Choose a Model…")
    window.pick("Midspan: model", "Download a model…")
    rows = window.page.locator(".quick-input-list .monaco-list-row")
    rows.filter(has_text="apache-2.0").first.wait_for()
    assert "recommended" in rows.first.inner_text()
    assert " GiB" in rows.first.inner_text()
    window.pick("Midspan: download a model", "Another repository")
    window.answer("download a model", REPOSITORY)


def test_a_download_is_stopped_and_goes_on_and_its_model_is_used(window: Window, hub: Hub):
    hub.faults.hold = threading.Event()
    download(window)
    shown = notification(window, f"downloading {REPOSITORY}")
    shown.filter(has_text=re.compile(r"\d %.* of \d+ MiB")).wait_for()
    shown.get_by_text("Cancel").click()
    notification(window, "was stopped")
    hub.faults.hold.set()
    hub.faults.hold = None
    window.command("Notifications: Clear All Notifications")

    before = hub.sent
    download(window)
    notification(window, "is on this machine").get_by_text("Use it now").click()
    size = len(hub.repositories[REPOSITORY][FILE])
    assert hub.sent - before < size  # it went on from where it stopped
    window.status("Model: pocket. State: ready")
    window.command("Midspan: Choose a Model…")
    window.pick("Midspan: model", "starter")
    window.status("Model: starter. State: ready")
