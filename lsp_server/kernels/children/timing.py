"""Times a kernel against its reference on this machine's GPU.

Rule: what it computes is compared again, on the device and before and after it is timed. Frames:
`time` {reference, candidate, name, case, parameters, language, tolerance, device}, with the built
library as payload for CUDA, answers `timed` {seconds, device} or {failure}. Runs in the sandbox
only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lsp_server.kernels.children import tensors, wire
from lsp_server.kernels.children.guards import TorchGuard
from lsp_server.kernels.children.modules import explain, flatten, load

_ROUNDS = 30
_WARM_UP = 3
_CACHE = 2**28  # bytes, more than any device's cache


class _Device:
    def __init__(self, name: str) -> None:
        self.name = name
        self._other = torch.empty(_CACHE if name == "cuda" else 1, dtype=torch.uint8, device=name)

    def wait(self) -> None:
        if self.name == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> float:
        """The median of several rounds, each with nothing left in the cache."""
        for _ in range(_WARM_UP):
            call()
        rounds = []
        for _ in range(_ROUNDS):
            self._other.zero_()
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            rounds.append(time.perf_counter() - start)
        return statistics.median(rounds)

    def words(self) -> str:
        return torch.cuda.get_device_name() if self.name == "cuda" else "the processor"


def _candidate(header: wire.Header, library: bytes) -> Callable[..., Any]:
    if header["language"] == "cuda":
        from lsp_server.kernels.children.native_run import NativeRunner

        opened = {**header, "source": header["candidate"]}
        runner = NativeRunner(opened, library, TorchGuard())
        return lambda **inputs: runner.call(inputs, [])
    module, _ = load("candidate", header["candidate"])
    function: Callable[..., Any] = module[header["name"]]
    return function


def _time(header: wire.Header, library: bytes) -> dict[str, Any]:
    device = _Device(header["device"])
    inputs = {
        name: value.to(device.name) if isinstance(value, torch.Tensor) else value
        for name, value in tensors.arguments(header["parameters"], header["case"]).items()
    }
    module, _ = load("reference", header["reference"])
    reference = module[header["name"]]
    candidate = _candidate(header, library)

    def wrong() -> str:
        expected, _ = flatten(reference(**inputs))
        found, _ = flatten(candidate(**inputs))
        for e, f in zip(expected, found, strict=True):
            said = tensors.difference(e, f, tensors.tolerance(header["tolerance"], e.dtype))
            if said:
                return said
        return ""

    with torch.no_grad():
        said = wrong()
        if said:
            return {"failure": said}
        compiled = torch.compile(reference)
        seconds = {
            "kernel": device.seconds(lambda: candidate(**inputs)),
            "eager": device.seconds(lambda: reference(**inputs)),
            "compiled": device.seconds(lambda: compiled(**inputs)),
        }
        said = wrong()
    return {"failure": said} if said else {"seconds": seconds, "device": device.words()}


def main() -> None:
    """Answer one request."""
    pipe = wire.Pipe()
    header, library = pipe.read()
    if header["device"] == "cuda" and not torch.cuda.is_available():
        pipe.write({"event": "timed", "absent": "PyTorch here cannot use the GPU"})
        return
    try:
        pipe.write({"event": "timed", **_time(header, library)})
    except Exception as error:
        pipe.write({"event": "timed", "failure": explain(error)["reason"]})


if __name__ == "__main__":
    main()
