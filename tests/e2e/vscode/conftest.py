"""One VS Code with the extension in it, for all tests of this folder."""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends import starter
from tests.backends.downloads.hub import Hub, serving
from tests.backends.remote import upstream
from tests.conftest import MIDSPAN, Env, private_env, stop_manager
from tests.e2e.vscode.code_server import (
    CHROMIUM_ARGS,
    PATIENCE,
    CodeServer,
    Window,
    build,
    chromium,
    missing,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def hub() -> Iterator[Hub]:
    """A hub that models come from, on loopback."""
    with serving() as hub:
        hub.put("someone/pocket-GGUF", "pocket-q8_0.gguf", starter.path().read_bytes())
        yield hub


@pytest.fixture(scope="package")
def vscode_env(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Env]:
    """A private environment for the language servers of the windows, and their manager."""
    env = private_env(tmp_path_factory.mktemp("midspan"))
    env["PYTHONPATH"] = str(ROOT)
    env["MIDSPAN_DOWNLOADS_ENDPOINT"] = hub.url
    yield env
    stop_manager(env)


@pytest.fixture(scope="package")
def vscode(vscode_env: Env, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeServer]:
    """VS Code with the extension, as it is packaged, and this checkout's midspan."""
    if reason := missing():
        pytest.skip(f"no VS Code: {reason}")
    folder = tmp_path_factory.mktemp("vscode")
    midspan = folder / "midspan"
    midspan.write_text(f'#!/bin/sh\nexec {shlex.join(MIDSPAN)} "$@"\n')
    midspan.chmod(0o755)
    server = CodeServer(folder, build(), vscode_env, midspan, {})
    yield server
    server.stop()


@pytest.fixture(scope="package")
def browser(vscode: CodeServer) -> Iterator[Browser]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_ARGS))
        yield found
        found.close()


@pytest.fixture(scope="package")
def window(
    vscode: CodeServer, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Window:
    """A window with a Python file; the tests share it, because opening one takes seconds."""
    file = tmp_path_factory.mktemp("project") / "sample.py"
    file.write_text("")
    return vscode.window(browser, file)


@pytest.fixture
def chat_model(vscode_env: Env) -> Iterator[Callable[..., None]]:
    """Have a model that can chat: an endpoint that answers these pieces, whatever it is asked."""
    loop, ready, ended, ports = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), []
    config = Path(vscode_env["MIDSPAN_CONFIG"])

    async def serve(pieces: tuple[str, ...]) -> None:
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "chatty"}
        events = [
            {**event, "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces
        ]
        last = {**event, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        async with upstream.serving() as server:
            server.answers("/v1/models", upstream.as_json({"data": [{"id": "chatty"}]}))
            server.answers("/v1/chat/completions", upstream.sse(*events, last))
            ports.append(server.port)
            ready.set()
            await ended.wait()

    threads = []

    def start(*pieces: str) -> None:
        threads.append(threading.Thread(target=loop.run_until_complete, args=[serve(pieces)]))
        threads[0].start()
        assert ready.wait(PATIENCE)
        config.write_text(
            f'[chat]\nmodel = "chatty"\n[models.chatty]\nprofile = "openai-compatible"\n'
            f'endpoint = "http://127.0.0.1:{ports[0]}/v1"\n'
        )
        stop_manager(vscode_env)  # the next one reads the file

    yield start
    config.unlink(missing_ok=True)
    stop_manager(vscode_env)
    loop.call_soon_threadsafe(ended.set)
    for thread in threads:
        thread.join()
    loop.close()


@pytest.fixture(autouse=True)
def calm(window: Window) -> None:
    """Leave nothing of the test before: no menu, no grey text."""
    window.press("Escape", "Escape")


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, window: Window, tmp_path: Path) -> Iterator[None]:
    """Save what every window shows when a test has failed."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        contexts = window.page.context.browser.contexts
        for number, page in enumerate(page for each in contexts for page in each.pages):
            page.screenshot(path=tmp_path / f"window-{number}.png")
