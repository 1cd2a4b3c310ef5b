"""The models page in a real browser: searched, switched, downloaded and compared by keyboard."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest

from backends import starter
from backends.downloads.catalogue import DOWNLOADABLE
from tests.backends.downloads.hub import Hub, serving
from tests.conftest import Env, private_env, stop_manager
from tests.e2e.vscode.code_server import CHROMIUM_ARGS, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

HERE = importlib.util.find_spec("playwright") is not None and chromium() is not None
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not HERE, reason="playwright or Chromium is not installed"),
]
ROW = next(row for row in DOWNLOADABLE if row.name == "qwen2.5-coder-0.5b")
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        # What is downloaded is the starter under that model's name.
        hub.put(ROW.repository, "qwen2.5-coder-0.5b-q8_0.gguf", starter.path().read_bytes())
        yield hub


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, hub: Hub, tiny_model: Path) -> Iterator[Env]:
    env = private_env(tmp_path_factory.mktemp("page")) | {"MIDSPAN_DOWNLOADS_ENDPOINT": hub.url}
    (Path(env["MIDSPAN_MODELS_DIR"]) / "tiny.gguf").write_bytes(tiny_model.read_bytes())
    yield env
    stop_manager(env)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_ARGS))
        yield found
        found.close()


@pytest.fixture
def page(env: Env, browser: Browser, run_midspan: Run, one_object: OneObject) -> Iterator[Page]:
    """The page as `midspan ui` opens it; nothing is asked of another host, and nothing fails."""
    done = run_midspan(["ui", "--no-open", "--json"], env)
    url = one_object(done.stdout)["url"]
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.goto(url)
    page.get_by_role("row", name="starter").wait_for()
    yield page
    context.close()
    ours = url.partition("/ui")[0]
    assert {one for one in asked if not one.startswith((ours, "data:"))} == set()
    assert wrong == []


def test_the_token_leaves_the_address_and_stays_with_the_tab(page: Page) -> None:
    assert page.url.endswith("/ui")
    page.reload()
    page.get_by_role("row", name="starter").wait_for()


def test_models_are_searched_and_filtered(page: Page) -> None:
    rows = page.locator("#offers tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(DOWNLOADABLE)
    page.get_by_label("Search").fill("granite apache")
    assert rows.count() == sum("granite" in row.name for row in DOWNLOADABLE)
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("chat")
    assert rows.count() == sum(row.chat for row in DOWNLOADABLE)
    page.get_by_label("Search").fill("no such model")
    assert page.locator("#found").inner_text() == f"0 of {len(DOWNLOADABLE)}"


def test_a_model_is_switched_and_tried_by_keyboard(page: Page) -> None:
    use = page.get_by_role("button", name="Use tiny")
    use.focus()
    page.keyboard.press("Enter")
    page.locator("#now").filter(has_text="tiny is ready").wait_for()
    assert use.is_disabled()
    page.get_by_role("button", name="Use starter").focus()
    page.keyboard.press("Space")
    page.locator("#now").filter(has_text="starter is ready").wait_for()
    page.get_by_label("Before the gap").fill("total = 0\nfor value in values:\n    total +")
    page.get_by_role("button", name="Complete").press("Enter")
    page.locator("#answer").filter(has_text=re.compile(r"\d+ tokens in \d+ ms")).wait_for()


def test_models_are_compared_side_by_side(page: Page) -> None:
    for name in ("starter", "qwen2.5-coder-7b"):
        page.get_by_label(f"Compare {name}", exact=True).press("Space")
    table = page.locator("#compare")
    table.get_by_role("columnheader", name="qwen2.5-coder-7b").wait_for()
    assert table.locator("thead th").all_inner_texts() == ["", "starter", "qwen2.5-coder-7b"]
    assert "7.62B" in table.get_by_role("row", name="Parameters").inner_text()
    assert "apache-2.0" in table.get_by_role("row", name="Licence").inner_text()


def test_a_download_is_stopped_goes_on_and_is_deleted(page: Page, hub: Hub) -> None:
    hub.faults.hold = threading.Event()
    row = page.locator("#offers").get_by_role("row", name=f"Compare {ROW.name} {ROW.name} ")
    assert row.locator("progress").is_hidden()
    row.get_by_role("button", name=f"Download {ROW.name}").click()
    row.locator("small").filter(
        has_text=re.compile(r"downloading: [1-9]\d* % of \d+ MiB")
    ).wait_for()
    assert (
        0 < int(row.locator("progress").get_attribute("value") or 0) < starter.path().stat().st_size
    )
    row.get_by_role("button", name=f"Stop downloading {ROW.name}").click()
    row.get_by_role("button", name=f"Download {ROW.name}").wait_for()
    hub.faults.hold.set()
    hub.faults.hold = None
    row.get_by_role("button", name=f"Download {ROW.name}").click()
    row.locator("small").filter(has_text="downloaded").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=f"Delete {ROW.name}", exact=True).click()
    row.get_by_role("button", name=f"Download {ROW.name}").wait_for()


def test_a_page_with_another_token_says_how_to_open_it(page: Page, browser: Browser) -> None:
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(f"{page.url}#token=wrong")
        other.get_by_role("alert").filter(has_text="midspan ui").wait_for()
        assert other.locator("#own tbody tr").count() == 0
