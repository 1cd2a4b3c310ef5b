"""`python -m backends.engines.llama_server`: a llama-server that never outlives its manager.

It reads `Options` as one line of JSON from stdin, starts the server that the `xllamacpp` wheel
embeds, or the user's own binary as a child of its own, and writes one line when that answers:
`Ready`, or `NotStarted` with the reason. It ends at the end of its input, and by the kernel's
parent-death signal where there is one.
Rule: the key comes in through stdin and is on no command line. Must not know what is asked of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from backends import child_process

HOST = "127.0.0.1"
POLL = 0.05  # seconds between two looks at a server that is starting
KV_TYPES = {"f16": "F16", "f32": "F32", "q8_0": "Q8_0", "q4_0": "Q4_0"}
ALL_LAYERS = 999
# (mmap, mlock) → how the wheel calls it.
LOAD_MODES = {
    (True, False): "MMAP",
    (True, True): "MMAP_MLOCK",
    (False, True): "MLOCK",
    (False, False): "NONE",
}


class Options(msgspec.Struct):
    """What a server is started with; names and units are those of `ModelSettings`."""

    model: str  # its file
    name: str
    key: str
    cells: int  # KV cells of all slots together
    slots: int
    host_cache_mb: int  # for prompts that had to leave the cells
    binary: str = ""
    threads: int = 0
    batch: int = 0
    gpu_layers: int = 0
    low_vram: bool = False
    mmap: bool = True
    mlock: bool = False
    kv_type: str = ""
    chat_template: str = ""
    safe_mode: bool = False  # no repacking of the weights
    verbose: bool = False


class Ready(msgspec.Struct, tag=True):
    """The server answers."""

    address: str  # host:port
    pid: int  # of the process that has the model in memory


class NotStarted(msgspec.Struct, tag=True):
    """It could not be started."""

    reason: str


Said = Ready | NotStarted


def main() -> int:
    """Serve until the end of stdin; the exit status."""
    child_process.die_with_parent()
    sink = child_process.claim_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the manager's to handle
    options = msgspec.json.decode(sys.stdin.buffer.readline(), type=Options)
    try:
        return _run_binary(options, sink) if options.binary else _run_embedded(options, sink)
    except Exception as exc:  # whatever native code raises: the manager is told the reason
        _say(sink, NotStarted(str(exc).strip() or type(exc).__name__))
        return 1


def _run_embedded(options: Options, sink: BinaryIO) -> int:
    import xllamacpp

    server = xllamacpp.Server(_params(xllamacpp, options))
    address = server.listening_address.removeprefix("http://")
    _wait(address)
    _say(sink, Ready(address, os.getpid()))
    sys.stdin.buffer.read()
    os._exit(0)  # at once: its own way out waits for requests under way


def _params(xllamacpp: Any, options: Options) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.name}
    params.hostnames = [HOST]
    params.port = 0
    params.api_keys = [options.key]
    params.ui = False
    params.n_parallel = options.slots
    params.kv_unified = True
    params.n_ctx = options.cells
    params.fit_params = False  # the memory is the manager's to plan
    params.cache_ram_mib = options.host_cache_mb
    params.warmup = True
    params.verbosity = 3 if options.verbose else 1  # above 3 prompts are written
    params.n_gpu_layers = ALL_LAYERS if options.gpu_layers < 0 else options.gpu_layers
    params.no_kv_offload = options.low_vram
    params.no_extra_bufts = options.safe_mode
    mode = "LLAMA_LOAD_MODE_" + LOAD_MODES[options.mmap, options.mlock]
    params.load_mode = getattr(xllamacpp.llama_load_mode, mode)
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.batch:
        params.n_batch = params.n_ubatch = options.batch
    if options.kv_type:
        kind = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + KV_TYPES[options.kv_type])
        params.cache_type_k = params.cache_type_v = kind
    if options.chat_template:
        params.chat_template = Path(options.chat_template).read_text(encoding="utf-8")
    return params


def _run_binary(options: Options, sink: BinaryIO) -> int:
    port = _free_port()
    # Its stdout too: it is no place for a secret, and nobody reads it but for reasons of failure.
    process = subprocess.Popen(  # noqa: S603 - named in the user's own configuration alone
        _command(options, port),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        env={**os.environ, "LLAMA_API_KEY": options.key},
        preexec_fn=child_process.die_with_parent,
    )
    threading.Thread(target=_kill_at_end_of_input, args=(process,), daemon=True).start()
    address = f"{HOST}:{port}"
    if _wait(address, process):
        _say(sink, Ready(address, process.pid))
    status = process.wait()
    if status < 0:  # as if it were this process: the manager tells a crash from a refusal
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    return status


def _command(options: Options, port: int) -> list[str]:
    numbers = {
        "--port": port,
        "--parallel": options.slots,
        "--ctx-size": options.cells,
        "--cache-ram": options.host_cache_mb,
        "--n-gpu-layers": ALL_LAYERS if options.gpu_layers < 0 else options.gpu_layers,
        "--threads": options.threads or None,
        "--batch-size": options.batch or None,
        "--ubatch-size": options.batch or None,
    }
    texts = {
        "--model": options.model,
        "--alias": options.name,
        "--host": HOST,
        "--cache-type-k": options.kv_type,
        "--cache-type-v": options.kv_type,
        "--chat-template-file": options.chat_template,
    }
    flags = {
        "--kv-unified": True,
        "--no-kv-offload": options.low_vram,
        "--no-repack": options.safe_mode,
        "--no-mmap": not options.mmap,
        "--mlock": options.mlock,
    }
    return [
        options.binary,
        *(part for name, text in texts.items() if text for part in (name, text)),
        *(part for name, n in numbers.items() if n is not None for part in (name, str(n))),
        *(name for name, on in flags.items() if on),
    ]


def _kill_at_end_of_input(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(address: str, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Return True when the server is healthy, False when its process has ended. Waits for ever."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process is None or process.poll() is None:
        try:
            with opener.open(f"http://{address}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):  # not listening, or loading: 503
            time.sleep(POLL)
    return False


def _say(sink: BinaryIO, message: Said) -> None:
    sink.write(msgspec.json.encode(message) + b"\n")
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
