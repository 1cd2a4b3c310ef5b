"""The peer: the real llama-server, asked exactly as llama.vim asks it.

Run as a program it serves one model with the settings llama.vim recommends for completion
(`--fim-qwen-1.5b-default`): `-b 1024 -ub 1024 --ctx-size 0 --cache-reuse 256`. The server is the
one that the `xllamacpp` wheel embeds, or any `llama-server` binary.

    python -m benchmarks.peer MODEL.gguf THREADS SLOTS BATCH
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

START_TIMEOUT = 120.0  # seconds
# llama.vim's defaults (g:llama_config): its windows in lines, and what it sends along.
LINES_BEFORE = 256
LINES_AFTER = 64


@contextmanager
def llama_server(
    model: str, *, threads: int, slots: int = 1, batch: int = 1024, binary: str | None = None
) -> Iterator[str]:
    """Yield the address (host:port) of a llama-server.

    `batch` in tokens is also what it cuts `/infill` prompts to: less than a small model's context.
    """
    numbers = [str(number) for number in (threads, slots, batch)]
    command = _binary(binary, model, *numbers) if binary else _embedded(model, *numbers)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = BINARY_ADDRESS if binary else process.stdout.readline().strip()
        _wait(address, process)
        yield address
    finally:
        process.kill()
        process.wait()


BINARY_ADDRESS = "127.0.0.1:8912"


def _binary(binary: str, model: str, threads: str, slots: str, batch: str) -> list[str]:
    host, port = BINARY_ADDRESS.split(":")
    options = f"--host {host} --port {port} -t {threads} -tb {threads} -np {slots}".split()
    preset = f"-b {batch} -ub {batch} --ctx-size 0 --cache-reuse 256".split()
    return [binary, "-m", model, *options, *preset]


def _embedded(model: str, *numbers: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peer", model, *numbers]


def _wait(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("llama-server did not start in time")


def llama_vim_body(prefix: str, suffix: str, n_predict: int, slot: int = 0) -> dict[str, Any]:
    """Return what llama.vim sends for a cursor between `prefix` and `suffix`.

    Whole lines before the cursor's in `input_prefix`, the cursor's line up to it in `prompt`, the
    rest of the line and the lines after it in `input_suffix`.
    """
    lines = prefix.split("\n")
    before, current = lines[:-1][-LINES_BEFORE:], lines[-1]
    after = suffix.split("\n")[: LINES_AFTER + 1]
    return {
        "id_slot": slot,
        "input_prefix": "".join(f"{line}\n" for line in before),
        "input_suffix": "\n".join(after) + "\n",
        "input_extra": [],
        "prompt": current,
        "n_predict": n_predict,
        "n_indent": len(current) - len(current.lstrip()),
        "top_k": 40,
        "top_p": 0.90,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
    }


def _serve(model: str, threads: int, slots: int, batch: int) -> None:
    """Serve until stdin ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_batch = params.n_ubatch = batch
    params.n_ctx = 0
    params.n_cache_reuse = 256
    params.warmup = True
    server = xllamacpp.Server(params)
    print(server.listening_address.removeprefix("http://"), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], *(int(number) for number in sys.argv[2:5]))
