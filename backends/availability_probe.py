"""`python -m backends.availability_probe ENGINE [safe]`: use a runtime once, say what it can do.

Rule: runs in a process of its own, since native code may end it; writes one JSON object to stdout,
{"version", "detail"} or {"error"}. No network, no model but the starter. Must not know who asks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from backends import child_process, engines, starter
from backends.config import ModelSettings
from backends.frames import Load

REMOTE = "remote"
WARM_UP = 32  # tokens; one takes another path through native code, and crashes are in this one


def _llama_cpp(*, safe_mode: bool) -> str:
    settings = ModelSettings(device="cpu", context_length=512)
    request = Load("llama-cpp", str(starter.path()), "starter", settings, safe_mode=safe_mode)
    model = engines.load(request)
    from backends.decoding.token_model import Feed

    model.forward([Feed(0, [1] * WARM_UP)], lambda: False)
    llama: Any = importlib.import_module("llama_cpp.llama_cpp")
    where = "CPU and GPU" if llama.llama_supports_gpu_offload() else "CPU alone"
    return f"the starter model runs; built for the {where}"


def _transformers(*, safe_mode: bool) -> str:
    torch: Any = importlib.import_module("torch")
    importlib.import_module("transformers")
    importlib.import_module("safetensors")
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = ["cpu", *(kind for kind, there in kinds.items() if there)]
    for kind in found:
        ones = torch.ones(64, 64, device=kind)
        assert float((ones @ ones).sum()) == 64.0**3
    return f"torch {torch.__version__}; computes on {', '.join(found)}"


def _mlx(*, safe_mode: bool) -> str:
    mx: Any = importlib.import_module("mlx.core")
    importlib.import_module("mlx_lm")
    ones = mx.ones((64, 64))
    assert float((ones @ ones).sum()) == 64.0**3
    kind = str(mx.default_device().type).rpartition(".")[2]
    return f"mlx {importlib.metadata.version('mlx')}; computes on {kind}"


def _llama_server(*, safe_mode: bool) -> str:
    runtime: Any = importlib.import_module("xllamacpp")
    runtime.CommonParams()
    return "its llama-server can be started"


def _remote(*, safe_mode: bool) -> str:
    importlib.import_module("openai")
    importlib.import_module("httpx2")
    return "endpoints can be asked"


def _other(name: str) -> str:
    importlib.import_module(engines.ENGINES[name].module)
    return "it can be imported"


_USES: dict[str, Callable[..., str]] = {
    "llama-cpp": _llama_cpp,
    "llama-server": _llama_server,
    "transformers": _transformers,
    "mlx": _mlx,
    REMOTE: _remote,
}


def main(arguments: list[str]) -> int:
    """Use the runtime that `arguments` name; the exit status."""
    child_process.die_with_parent()
    sink = child_process.claim_stdout()
    name, safe_mode = arguments[0], "safe" in arguments[1:]
    engine = None if name == REMOTE else engines.ENGINES[name]
    for variable, value in engine.environment if engine else ():
        os.environ.setdefault(variable, value)
    try:
        use = _USES.get(name)
        detail = use(safe_mode=safe_mode) if use else _other(name)
        distribution = engine.distribution if engine else "openai"
        answer = {"version": importlib.metadata.version(distribution), "detail": detail}
    except Exception as exc:  # whatever somebody's package raises is the answer
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    sink.write(json.dumps(answer).encode())
    sink.flush()
    os._exit(0)  # some runtimes crash on their way out, which harms nobody


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
