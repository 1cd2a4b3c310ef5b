"""Real VS Code on loopback (code-server), and what its windows look like through Chromium.

Where things are: `$MIDSPAN_VSCODE_TEST` is the folder that editors/vscode/scripts/test_vscode.sh
filled; `$CHROMIUM` a Chromium, if it is not /usr/bin/chromium.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.conftest import Env

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CODE = """def add(a, b):
    return a + b


def subtract(a, b):
    return a - b


def multiply(a, b):
    """

EXTENSION = Path(__file__).parents[3] / "editors" / "vscode"
PATIENCE = 90.0  # seconds; for what takes a few on a machine that is not busy
CHROMIUM_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# So that a picture shows the editor and nothing else.
CALM = {
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.editor.useModal": "off",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "chat.disableAIFeatures": True,
    "editor.minimap.enabled": False,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.suggestOnTriggerCharacters": False,
    "editor.wordBasedSuggestions": "off",
    "security.workspace.trust.enabled": False,
    "telemetry.telemetryLevel": "off",
    "files.autoSave": "off",
    "window.confirmBeforeClose": "never",
    "git.enabled": False,
    "remote.autoForwardPorts": False,
}


def chromium() -> Path | None:
    """The Chromium to use."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    return Path(found) if found else None


def missing() -> str:
    """Why VS Code cannot be run here; "" if it can."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    folder = os.environ.get("MIDSPAN_VSCODE_TEST")
    if not folder:
        return "$MIDSPAN_VSCODE_TEST names no folder with code-server"
    if not (Path(folder) / "node_modules" / "code-server").is_dir():
        return f"there is no code-server in {folder}"
    if not (EXTENSION / "node_modules").is_dir():
        return "`npm ci` was not run in editors/vscode"
    if chromium() is None:
        return "there is no Chromium"
    return "" if node() else "there is no Node.js 24"


def node() -> str | None:
    """A Node.js that code-server runs with."""
    found = shutil.which("node")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    return found if version.stdout.startswith("v24.") else None


def build() -> Path:
    """Package the extension; return the .vsix."""
    (EXTENSION / "build").mkdir(exist_ok=True)
    subprocess.run(
        ["npm", "run", "--silent", "package"], cwd=EXTENSION, check=True, stdout=subprocess.DEVNULL
    )
    return EXTENSION / "build" / "midspan.vsix"


class CodeServer:
    """One server; each window of it is a page. Ends with everything it started."""

    def __init__(
        self, folder: Path, vsix: Path, env: Env, midspan: Path, settings: dict[str, object]
    ) -> None:
        """`settings` are the user's, beside those of `CALM`."""
        self.folder, self.vsix = folder, vsix
        self.settings = CALM | settings
        self.machine_settings = {"midspan.server.path": str(midspan)}
        for name, values in (("User", self.settings), ("Machine", self.machine_settings)):
            (folder / "user" / name).mkdir(parents=True)
            (folder / "user" / name / "settings.json").write_text(json.dumps(values))
        home = {"HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "home")}
        (folder / "home").mkdir()
        self._env = env | home
        entry = Path(
            os.environ["MIDSPAN_VSCODE_TEST"], "node_modules/code-server/out/node/entry.js"
        )
        self._command = [node() or "node", str(entry)]
        self._folders = [
            *("--user-data-dir", str(folder / "user")),
            *("--extensions-dir", str(folder / "extensions")),
        ]
        self._run("--install-extension", str(vsix))
        self.log = folder / "code-server.log"
        self._start()

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [*self._command, *self._folders, *arguments],
            env=self._env,
            check=True,
            timeout=PATIENCE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _start(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        arguments = (
            *("--bind-addr", f"127.0.0.1:{self.port}"),
            *("--auth", "none", "--disable-telemetry", "--disable-update-check"),
            "--disable-getting-started-override",
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._command, *self._folders, *arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2):
                    return
            except OSError:
                if time.monotonic() > ends or self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-2000:]) from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End it and everything it started: the extension host outlives its parent."""
        os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def window(self, browser: Browser, file: Path) -> Window:
        """Open a file in a new window; wait until the model is there."""
        return self.open(browser, file).ready()

    def open(self, browser: Browser, file: Path, workspace: Path | None = None) -> Window:
        """Open a file in a new window, which is `ready` later.

        The window has the file's folder open, or a workspace of several folders.
        """
        page = browser.new_context(viewport={"width": 1000, "height": 640}).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        where = f"127.0.0.1:{self.port}"
        payload = quote(json.dumps([["openFile", f"vscode-remote://{where}{file}"]]))
        opened = f"folder={file.parent}" if workspace is None else f"workspace={workspace}"
        page.goto(f"http://{where}/?{opened}&payload={payload}")
        return Window(page, file)


@dataclass
class Window:
    """A window of VS Code."""

    page: Page
    file: Path

    def ready(self) -> Window:
        """Wait until the model is there."""
        self.page.wait_for_selector(".monaco-editor .view-line")
        self.status("State: ready")
        return self

    @property
    def ghost(self) -> Locator:
        """The grey text that is shown."""
        return self.page.locator(".monaco-editor [class*=ghost-text]")

    def ghost_text(self) -> str:
        """What the grey text says, once there is some."""
        self.ghost.first.wait_for(state="visible")
        return "".join(self.ghost.all_inner_texts()).replace("\xa0", " ")

    def ghost_after(self, text: str, keys: str) -> str:
        """Return what is suggested after `keys` are typed behind `text`."""
        self.fill(text)
        self.type(keys)
        return self.ghost_text()

    def no_ghost(self) -> None:
        """Wait until no grey text is shown."""
        self.page.wait_for_function("!document.querySelector('.monaco-editor [class*=ghost-text]')")

    def dismiss(self) -> None:
        """Dismiss the grey text; one that came late, on a busy machine, too."""
        ends = time.monotonic() + PATIENCE
        while self.ghost.count() and time.monotonic() < ends:
            self.press("Escape")
            self.page.wait_for_timeout(20)
        self.no_ghost()

    def fill(self, text: str) -> None:
        """Put a text into the document, with the cursor at its end; nothing is typed."""
        self.file.write_text(text)
        self.command("File: Revert File")
        self.page.locator(".monaco-editor .view-lines").first.click()
        self.press("Control+End")

    def show(self, name: str) -> None:
        """Open a file of the workspace by its name, or turn to it."""
        self.press("Control+p")
        field = self.page.locator(".quick-input-widget input[type=text]").first
        field.wait_for()
        field.fill(name)
        row = self.page.locator(".quick-input-list .monaco-list-row.focused")
        row.filter(has_text=name).wait_for()
        self.press("Enter")
        self.page.wait_for_selector(f".tab.active[aria-label^='{name}']")
        self.page.locator(".breadcrumbs-below-tabs, .monaco-breadcrumbs").get_by_text(
            name
        ).wait_for()
        self.page.wait_for_selector(".monaco-editor.focused")

    def text(self) -> str:
        """The document's text, which it saves."""
        self.page.wait_for_timeout(50)  # until the tab says that it has changed
        self._save()
        return self.file.read_text()

    def changed_text(self) -> str:
        """The same, once the document has been changed."""
        self.page.wait_for_selector(".tab.active.dirty")
        return self.text()

    def _save(self) -> None:
        if self.page.locator(".tab.active.dirty").count():
            self.press("Control+s")
            self.page.wait_for_selector(".tab.active:not(.dirty)")

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str, delay_ms: float = 20) -> None:
        """Type into what has the focus."""
        self.page.keyboard.type(text, delay=delay_ms)

    def change_settings(self, settings: dict[str, object], whose: str = "User") -> None:
        """Write the user's settings, in their editor: VS Code sees no change made outside.

        Those of the machine are the "Remote" ones.
        """
        self.command(f"Preferences: Open {whose} Settings (JSON)")
        self.page.wait_for_selector(".tab.active[aria-label^='settings.json']")
        self.page.locator(".monaco-editor .view-lines").first.click()
        self.press("Control+a")
        self.page.keyboard.insert_text(json.dumps(settings))
        self.press("Control+Shift+End", "Delete")  # brackets that the editor added
        self.page.wait_for_selector(".tab.active.dirty")
        self._save()
        self.command("View: Close Editor")
        self.page.wait_for_selector(f".tab.active[aria-label^='{self.file.name}']")

    def command(self, title: str) -> None:
        """Run a command of the palette, which must be there under just this title."""
        from playwright.sync_api import TimeoutError as NotYet

        field = self.page.locator(".quick-input-widget input[type=text]").first
        row = self.page.locator(".quick-input-list .monaco-list-row").filter(has_text=title).first
        for patience in (5_000, 5_000, None):
            self.press("F1")
            try:
                field.fill(f">{title}", timeout=patience)
                row.click(timeout=patience)
                return
            except NotYet:  # a page that was still opening took the focus, and it closed
                if patience is None:
                    raise

    def walkthrough(self) -> None:
        """Open the extension's walkthrough."""
        self.command("Welcome: Open Walkthrough...")
        self.page.locator(".quick-input-widget input[type=text]").first.fill("Midspan")
        rows = self.page.locator(".quick-input-list .monaco-list-row")
        rows.filter(has_text="Midspan: the first five minutes").click()

    def answer(self, title: str, text: str) -> None:
        """Enter a text into the input box of that title, once it is open."""
        self._write(title, text)
        self.press("Enter")

    def _write(self, title: str, text: str) -> None:
        self.page.locator(".quick-input-title").filter(has_text=title).wait_for()
        self.page.locator(".quick-input-widget input[type=text]").first.fill(text)

    def pick(self, title: str, text: str) -> None:
        """Choose a row of the quick pick of that title, once it is open.

        It is filtered first: a long list has only the rows that are to be seen.
        """
        self._write(title, text)
        row = self.page.locator(".quick-input-list .monaco-list-row.focused")
        row.filter(has_text=text).wait_for()
        self.press("Enter")

    def status(self, contains: str) -> str:
        """Wait until the status item's description matches a regular expression; return it."""
        item = self.page.locator(
            "#midspan\\.midspan\\.midspan\\.status, [id*='midspan.status']"
        ).first
        item.wait_for()
        handle = item.element_handle()
        self.page.wait_for_function(
            "([item, wanted]) => new RegExp(wanted).test(item.getAttribute('aria-label') ?? '')",
            arg=[handle, contains],
        )
        return item.get_attribute("aria-label") or ""

    def picture(self, path: Path) -> None:
        """Save what is to be seen."""
        self.page.screenshot(path=path)
