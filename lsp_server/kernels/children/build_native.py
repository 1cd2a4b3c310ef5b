"""Compiles C or CUDA source; nothing of it is run.

Rule: warnings are errors; what the object code asks of other libraries is reported, and judged
elsewhere. Frames: `build` {source, language} answers `built` {failure or null, undefined, defined,
preload, summary} with the library as payload. Runs in the sandbox only.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from lsp_server.kernels.children import wire

_FOLDER = Path("/tmp")  # noqa: S108
_STRICT = ["cc", "-std=c11", "-O2", "-Wall", "-Werror", "-c", "kernel.c", "-o", "kernel.o"]
_SANITISED = [
    *("cc", "-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", "-shared", "-fPIC"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("kernel.c", "-o", "kernel.so", "-lm"),
]
_CUDA = ["nvcc", "-O3", "-cubin", "-Xptxas", "-v", "kernel.cu", "-o", "kernel.cubin"]
_CUDA_LIBRARY = ["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "kernel.cu"]
_ERROR = re.compile(r"kernel\.cu?[(:](\d+)(?::(\d+)|\))\s*:? (?:fatal )?error:? (.*)")


class _Refused(Exception):
    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def _run(command: list[str]) -> str:
    done = subprocess.run(  # noqa: S603
        command, cwd=_FOLDER, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise _Refused(done.stderr + done.stdout)
    return done.stderr + done.stdout


def _c(source: str) -> tuple[dict[str, Any], bytes]:
    (_FOLDER / "kernel.c").write_text(source, encoding="utf-8")
    _run(_STRICT)
    symbols = [line.split() for line in _run(["nm", "kernel.o"]).splitlines() if line.strip()]
    undefined = [words[-1] for words in symbols if words[-2] in "Uwv"]
    defined = [words[-1] for words in symbols if words[-2] == "T"]
    _run(_SANITISED)
    preload = _run(["cc", "-print-file-name=libasan.so"]).strip()
    about = {
        "undefined": undefined,
        "defined": defined,
        "preload": preload,
        "summary": "this processor",
    }
    return about, (_FOLDER / "kernel.so").read_bytes()


def _cuda(source: str, targets: list[str], device: bool) -> tuple[dict[str, Any], bytes]:
    (_FOLDER / "kernel.cu").write_text(source, encoding="utf-8")
    said = ""
    for target in targets:
        said = _run([*_CUDA, f"-arch={target}"])
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", said)]
    summary = ", ".join(targets)
    if registers:
        summary += f" ({max(registers)} registers, {max(spilled, default=0)} bytes spilled)"
    library = b""
    if device:
        _run([*_CUDA_LIBRARY, "-o", "kernel.so"])
        library = (_FOLDER / "kernel.so").read_bytes()
    return {"undefined": [], "defined": None, "preload": "", "summary": summary}, library


def main() -> None:
    """Answer one request."""
    pipe = wire.Pipe()
    header, _ = pipe.read()
    try:
        if header["language"] == "c":
            about, library = _c(header["source"])
        else:
            about, library = _cuda(header["source"], header["targets"], header["device"])
        pipe.write({"event": "built", "failure": None, **about}, library)
    except _Refused as refused:
        found = _ERROR.search(refused.output)
        failure = {
            "reason": found[3] if found else refused.output.strip()[-1000:],
            "line": int(found[1]) if found else 0,
            "column": int(found[2] or 0) if found else 0,
        }
        pipe.write({"event": "built", "failure": failure})


if __name__ == "__main__":
    main()
