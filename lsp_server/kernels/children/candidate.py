"""Runs a candidate on inputs it is given and reports what it returned and did.

Rule: it never learns what is expected. Frames: `open` {source, name, language}, with the built
library as payload for C and CUDA; then `call` {index, numbers, inputs, layout, trace} answers
`result` (the outputs, what was launched) or `failed` {reason, line}. Runs in the sandbox only.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Protocol

import torch

from lsp_server.kernels.children import tensors, wire
from lsp_server.kernels.children.guards import Broken, Guarded, TorchGuard
from lsp_server.kernels.children.modules import explain, flatten

# Numba's first line, which says nothing.
_PIPELINE = re.compile(r"Failed in nopython mode pipeline \(step: [\w ]+\)\s*")


class Runner(Protocol):
    """What differs between the languages."""

    exact: bool  # whether an access one element past a tensor's end is seen without our guards
    device: str  # torch's name of where it runs
    path: str

    def call(self, inputs: dict[str, Any], guarded: list[Guarded]) -> Any:
        """Call the candidate's function."""

    def launches(self) -> list[dict[str, Any]]:
        """What was launched since the last time it was asked."""

    def wrote(self, output: torch.Tensor) -> bool:
        """Whether a kernel wrote to this tensor's memory in the last call, as far as is seen."""


def _runner(header: wire.Header, library: bytes, guard: TorchGuard) -> Runner:
    if header["language"] == "triton":
        from lsp_server.kernels.children.triton_run import TritonRunner

        return TritonRunner(header, guard)
    if header["language"] == "numba":
        from lsp_server.kernels.children.numba_run import NumbaRunner

        return NumbaRunner(header, guard)
    from lsp_server.kernels.children.native_run import NativeRunner

    return NativeRunner(header, library, guard)


class _Calls:
    """The calls of one candidate, and what must hold between them."""

    def __init__(self, header: wire.Header, library: bytes) -> None:
        self.guard = TorchGuard()
        self.runner = _runner(header, library, self.guard)
        self.earlier: list[tuple[torch.Tensor, torch.Tensor]] = []

    def call(self, header: wire.Header, data: bytes) -> tuple[dict[str, Any], bytes]:
        """One call; Broken when it did what no kernel may."""
        given = tensors.unpack(header["inputs"], data)
        guarded = [
            Guarded(one, header["layout"], exact=self.runner.exact, device=self.runner.device)
            for one in given
        ]
        inputs: dict[str, Any] = {}
        left = iter(guarded)
        for name, value in header["arguments"]:
            inputs[name] = next(left).tensor if value == "tensor" else value[0]
        with torch.no_grad(), self.guard:
            result = self.runner.call(inputs, guarded)
        outputs, structure = flatten(result)
        launches = self.runner.launches()
        if not launches:
            raise Broken("it launches no kernel")
        names = [name for name, value in header["arguments"] if value == "tensor"]
        self._inspect(outputs, dict(zip(names, guarded, strict=True)))
        about, packed = tensors.pack(outputs)
        self.earlier = [(one, one.clone()) for one in outputs]
        return {"structure": structure, "outputs": about, "launches": launches}, packed

    def _inspect(self, outputs: list[torch.Tensor], guarded: dict[str, Guarded]) -> None:
        for name, one in guarded.items():
            changed = one.changed()
            if changed:
                raise Broken(f"it writes {changed} {name}")
            if any(one.shares_memory(output) for output in outputs):
                raise Broken(f"it returns {name} itself, or a view of it")
        for output, copy in self.earlier:
            if tensors.difference(copy, output, 0):
                raise Broken("a later call changes what an earlier call returned")
        if not all(self.runner.wrote(output) for output in outputs if output.numel()):
            raise Broken("what it returns was not written by a kernel")


def main() -> None:
    """Serve until there are no more frames."""
    pipe = wire.Pipe()
    torch.set_num_threads(1)
    # Memory that nobody wrote to is NaN, or the largest integer.
    # (torch.use_deterministic_algorithms says the same, but imports its compiler for a second.)
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    torch._C._set_deterministic_fill_uninitialized_memory(True)
    calls: _Calls | None = None
    while True:
        try:
            header, data = pipe.read()
        except EOFError:
            return
        path = calls.runner.path if calls else "/tmp/candidate.py"  # noqa: S108
        try:
            if header["do"] == "open":
                calls = _Calls(header, data)
                pipe.write({"event": "opened"})
                continue
            assert calls is not None
            answer, outputs = calls.call(header, data)
            pipe.write({"event": "result", "index": header["index"], **answer}, outputs)
        except Exception as error:
            launches = calls.runner.launches() if calls else []
            found = explain(error, path)
            found["broken"] = found["reason"].startswith("Broken: ")
            found["reason"] = found["reason"].removeprefix("Broken: ")
            names = {type(error).__name__, type(error.__cause__).__name__}
            found["reason"] = _PIPELINE.sub("", found["reason"])
            found["typing"] = bool(names & {"TypingError", "LoweringError", "UnsupportedError"})
            pipe.write({"event": "failed", "launches": launches, **found})
        sys.stderr.flush()


if __name__ == "__main__":
    main()
