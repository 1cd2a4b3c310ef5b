"""Paint media/icon.png from media/icon.svg, with Chromium.

    python editors/vscode/scripts/icon.py

Needs `pip install playwright` and a Chromium, whose path `$CHROMIUM` names.
"""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import sync_playwright

MEDIA = Path(__file__).parents[1] / "media"
SIZE = 256  # pixels


def main() -> None:
    """Write the picture."""
    svg = (MEDIA / "icon.svg").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": SIZE, "height": SIZE})
        page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}")
        page.screenshot(path=MEDIA / "icon.png", omit_background=True)
        browser.close()


if __name__ == "__main__":
    main()
