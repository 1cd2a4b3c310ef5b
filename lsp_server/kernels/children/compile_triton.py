"""Compiles Triton kernels for named devices, none of which need be here.

Rule: just the argument types and constants that the host code launched with. Frames: `compile`
{source, launches, targets} answers `compiled` {failure or null, count}. Runs in the sandbox only.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lsp_server.kernels.children import wire
from lsp_server.kernels.children.modules import explain, load

# Shared memory that one block may have, in bytes, where the compiler does not check it itself.
_SHARED = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "gfx942": 65_536}


def _target(name: str) -> Any:
    if name.startswith("gfx"):
        return GPUTarget("hip", name, 64)
    return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)


def _constant(value: Any) -> Any:
    return getattr(tl, str(value["dtype"]).rpartition(".")[2]) if isinstance(value, dict) else value


def _compile(function: Any, launch: dict[str, Any], target: str) -> None:
    constants = {name: _constant(value) for name, value in launch["constants"].items()}
    signature = {
        name: "constexpr" if name in constants else launch["types"][name]
        for name in launch["order"]
    }
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=_target(target), options=launch["options"])
    most = _SHARED.get(target)
    if most is not None and compiled.metadata.shared > most:
        raise ValueError(f"it needs {compiled.metadata.shared} bytes of shared memory, of {most}")


def _kernel(module: dict[str, Any], name: str) -> Any:
    found = module[name]
    while not isinstance(found, triton.JITFunction):
        found = found.fn
    return found


def _failure(
    error: Exception, function: Any, launch: dict[str, Any], target: str
) -> dict[str, Any]:
    text = str(error)
    place = re.search(r"^at (\d+):(\d+):", text, re.MULTILINE)
    first = int(function.starting_line_number)
    # The compiler counts from the line of `def`, below the decorators.
    source = function.raw_src if isinstance(function.raw_src, list) else [function.raw_src]
    lines = "".join(source).splitlines()
    first += next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    return {
        "kernel": launch["kernel"],
        "target": target,
        "reason": _message(error)[:500],
        "line": first + int(place[1]) - 1 if place else 0,
        "column": int(place[2]) + 1 if place else 0,
    }


def _message(error: BaseException) -> str:
    """What the innermost error says, without the lines of code it is shown with."""
    found = ""
    current: BaseException | None = error
    while current is not None:
        said = getattr(current, "error_message", None) or str(current)
        lines = [line for line in str(said).splitlines() if line.strip(" ^")]
        if getattr(current, "error_message", None) or not str(said).startswith("at "):
            found = "\n".join(lines) or found
        else:
            found = found or lines[-1]
        current = current.__cause__
    return found or type(error).__name__


def _all(header: wire.Header) -> dict[str, Any]:
    triton.autotune = lambda *_, **__: lambda kernel: kernel
    try:
        module, _ = load("candidate", header["source"])
    except Exception as error:
        return {"failure": {"kernel": "", "target": "", "column": 0, **explain(error)}, "count": 0}
    count = 0
    for launch in header["launches"]:
        function = _kernel(module, launch["kernel"])
        for target in header["targets"]:
            try:
                _compile(function, launch, target)
            except Exception as error:
                return {"failure": _failure(error, function, launch, target), "count": count}
            count += 1
    return {"failure": None, "count": count}


def main() -> None:
    """Answer one request."""
    pipe = wire.Pipe()
    warnings.simplefilter("ignore")
    header, _ = pipe.read()
    pipe.write({"event": "compiled", **_all(header)})


if __name__ == "__main__":
    main()
