"""Real OpenAI-compatible servers on loopback, with the starter model's weights in their formats."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from backends.backend import ChatRequest, FinishReason, InfillRequest, Message, Role
from backends.config import ModelSettings
from backends.remote.backend import RemoteBackend
from tests.backends.remote.conftest import collected

START_TIMEOUT = 120.0  # seconds
# The chat's text is nonsense: the starter only completes.
CHAT = ChatRequest((Message(Role.USER, "hello"),), max_tokens=5)
TRANSFORMERS = "transformers serve"
MLX = "mlx_lm.server"
SERVERS: dict[str, tuple[Callable[[Path, int], list[str]], tuple[str, ...], str]] = {
    TRANSFORMERS: (
        lambda path, port: [
            *(str(Path(sys.executable).with_name("transformers")), "serve", str(path)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        ],
        ("transformers", "torch", "fastapi", "uvicorn", "gguf"),
        "transformers",
    ),
    MLX: (
        lambda path, port: [
            *(sys.executable, "-m", "mlx_lm", "server", "--model", str(path)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        ("mlx_lm", "mlx", "gguf"),
        "mlx",
    ),
}


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Yield a server's URL and the name it knows the model by."""
    with serving(request.param, tmp_path_factory.mktemp("weights")) as served:
        yield served


@contextlib.contextmanager
def serving(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URL of a server and the name it knows the model by; all it writes is in `folder`.

    Skips the test where it is not installed.
    """
    command, needed, form = SERVERS[name]
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}")
    from benchmarks import same_weights

    path = same_weights.write(folder).by_engine()[form]
    _give_chat_template(path / "tokenizer_config.json")
    hub = folder / "hub"
    hub.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), "HF_HOME": str(folder)}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(path, port),
            env=os.environ | offline,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        yield url, str(path)
    finally:
        process.kill()
        process.wait()


def _give_chat_template(config: Path) -> None:
    """Add a template to a tokenizer's configuration, where its model came without one."""
    written = json.loads(config.read_text())
    written.setdefault(
        "chat_template",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n",
    )
    config.write_text(json.dumps(written))


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/v1/models", timeout=5),
        ):
            return
        time.sleep(0.2)
    pytest.fail(f"it does not start: {log.read_text(errors='replace')[-2000:]}")


@pytest_asyncio.fixture
async def backend(served: tuple[str, str]) -> AsyncIterator[RemoteBackend]:
    url, name = served
    # Their models are known by a path, which need not tell the family.
    settings = ModelSettings(endpoint=url, remote_model=name, family="qwen2.5-coder", timeout_s=60)
    backend = await RemoteBackend.connect("starter", settings)
    yield backend
    await backend.close()


async def test_chats(backend: RemoteBackend) -> None:
    text, last = await collected(backend.chat(CHAT))
    assert text
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.cached_tokens <= last.usage.prompt_tokens
    await backend.health()


@pytest.mark.parametrize("served", [TRANSFORMERS], indirect=True)
async def test_completes(backend: RemoteBackend) -> None:
    for typed in ("ret", "return", "return file"):
        request = InfillRequest(
            f"def read(path):\n    with open(path) as file:\n        {typed}",
            "\n\n\nprint(read('x'))\n",
            document="file:///a.py",
            max_tokens=12,
            single_line=True,
        )
        text, last = await collected(backend.infill(request))
        assert text.strip()
        assert "\n" not in text
        assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


@pytest.mark.parametrize("served", [MLX], indirect=True)
async def test_engine_that_breaks_code_says_so(backend: RemoteBackend) -> None:
    assert not backend.capabilities.fim
    assert "first space" in backend.capabilities.no_fim_reason
    assert backend.capabilities.chat
