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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

START_TIMEOUT = 120.0  # seconds
TRANSFORMERS = "transformers serve"
MLX = "mlx_lm.server"
SERVERS: dict[str, tuple[Callable[[Path, int], list[str]], tuple[str, ...], str]] = {
    TRANSFORMERS: (
        lambda path, port: [
            *(str(Path(sys.executable).with_name("transformers")), "serve", str(path)),
            *(
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--device",
                "cpu",
                "--continuous-batching",
            ),
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


class RealServers:
    """The servers that some test asked for; each is started once."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._served: dict[str, tuple[str, str]] = {}

    def get(self, name: str) -> tuple[str, str]:
        """Return a server's URL and the name it knows the model by; skip if it is missing."""
        if name not in self._served:
            folder = self._folder / name.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            self._served[name] = self._stack.enter_context(_serving(name, folder))
        return self._served[name]


@contextlib.contextmanager
def _serving(name: str, folder: Path) -> Iterator[tuple[str, str]]:
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
    (path / "generation_config.json").write_text('{"do_sample": true}')  # as most models have it
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
