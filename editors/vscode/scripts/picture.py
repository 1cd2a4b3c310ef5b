"""Record docs/vscode.webp: real ghost text of the starter model in real VS Code.

    python editors/vscode/scripts/picture.py

Nothing is painted in: each frame is a screenshot, shown as long as it took until the next one.
Needs what tests/e2e/vscode needs, and Pillow.
"""

from __future__ import annotations

import io
import itertools
import shlex
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from tests.conftest import MIDSPAN, private_env, stop_manager  # noqa: E402
from tests.e2e.vscode import code_server  # noqa: E402

OUT = ROOT / "docs" / "vscode.webp"
CODE = '''import json


def read_config(path):
    """Return the configuration in a JSON file."""
    with open(path) as file:
        return json.load(file)


def read_users(path):
    """Return the users in a JSON file."""
    '''
SETTINGS = {
    "workbench.colorTheme": "Default Dark Modern",
    "editor.fontSize": 15,
    "editor.cursorBlinking": "solid",
    "workbench.activityBar.location": "hidden",
    "workbench.sideBar.location": "right",
    "window.commandCenter": False,
    "breadcrumbs.enabled": False,
}
END_MS = 2500  # how long the last frame stays


class Film:
    """Frames with the times at which they were taken."""

    def __init__(self, window: code_server.Window) -> None:
        self.window = window
        self.frames: list[tuple[float, Image.Image]] = []

    def roll(self, seconds: float) -> None:
        """Take frames for so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            shot = self.window.page.screenshot(type="png")
            image = Image.open(io.BytesIO(shot)).convert("RGB")
            if not self.frames or image.tobytes() != self.frames[-1][1].tobytes():
                self.frames.append((time.monotonic(), image))

    def save(self, path: Path) -> None:
        """Write an animated WebP."""
        times = [at for at, _ in self.frames]
        steps = itertools.pairwise(times)
        durations = [round(1000 * (after - at)) for at, after in steps]
        first, *others = [image for _, image in self.frames]
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=[*durations, END_MS],
            loop=0,
            lossless=True,
            method=6,
        )


def play(window: code_server.Window) -> Film:
    """Type, see grey text, take it; by word, too."""
    film = Film(window)
    film.roll(0.6)
    for key in "with op":
        window.type(key)
        film.roll(0.12)
    film.roll(1.5)
    for _ in range(3):
        window.press("Control+ArrowRight")
        film.roll(0.6)
    window.press("Tab")
    film.roll(1.0)
    return film


def main() -> None:
    """Record it."""
    if reason := code_server.missing():
        sys.exit(f"no VS Code: {reason}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("midspan", "vscode", "project"):
            (folder / name).mkdir()
        env = private_env(folder / "midspan")
        command = folder / "vscode" / "midspan"
        command.write_text(f'#!/bin/sh\nexec {shlex.join(MIDSPAN)} "$@"\n')
        command.chmod(0o755)
        file = folder / "project" / "config.py"
        file.write_text(CODE)
        vsix = code_server.build()
        server = code_server.CodeServer(folder / "vscode", vsix, env, command, SETTINGS)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=code_server.chromium(), args=list(code_server.CHROMIUM_ARGS)
                )
                window = server.window(browser, file)
                window.command("View: Toggle Primary Side Bar Visibility")
                window.page.set_viewport_size({"width": 800, "height": 400})
                window.page.locator(".monaco-editor .view-lines").first.click()
                window.press("Control+End")
                film = play(window)
                browser.close()
        finally:
            server.stop()
            stop_manager(env)
    film.save(OUT)
    sys.stdout.write(f"{OUT.name}: {len(film.frames)} frames, {OUT.stat().st_size // 1024} KB\n")


if __name__ == "__main__":
    main()
