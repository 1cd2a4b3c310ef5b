"""A folder with a PyTorch function, and kernels of it that somebody has evidence for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lsp_server.features import kernel_documents
from lsp_server.kernels import evidence as evidences
from lsp_server.kernels import files, reference
from lsp_server.kernels.task import Candidate, Check, Evidence, Language, Level, Result, Task

REFERENCE = """\
import torch


def scale(x: torch.Tensor) -> torch.Tensor:
    # x: (N,) float32
    return x * 2
"""
NAME = "scale_c.py"
CODE = "import torch\n\n\ndef scale(x):\n    out = torch.empty_like(x)\n    return out\n"
PASSED = tuple(
    Check(level, Result.PASSED, "12 cases, float32", cases=12)
    for level in (Level.PARSES, Level.ALLOWED, Level.COMPILES, Level.CORRECT, Level.ROBUST)
)
WRONG = (
    *PASSED[:3],
    Check(
        Level.CORRECT,
        Result.FAILED,
        reason="the result is wrong",
        line=5,
        counterexample="N = 7, float32, seed 1",
    ),
)


@dataclass(frozen=True)
class Folder:
    """`path` has `ops.py`."""

    path: Path

    @property
    def reference(self) -> str:
        return (self.path / "ops.py").as_uri()

    @property
    def kernel(self) -> str:
        return (self.path / NAME).as_uri()

    def task(self) -> Task:
        return reference.task(REFERENCE, "scale", Language.C)

    def text(self, code: str = CODE) -> str:
        return files.kernel_text(self.task(), Candidate(code, "template:scale"), "ops.py")

    def known(self, checks: tuple[Check, ...], code: str = CODE) -> None:
        found = Evidence("", Language.C, checks, evidences.versions(()))
        kernel_documents.keep(found, code, self.task())


def made(path: Path) -> Folder:
    path.mkdir()
    (path / "ops.py").write_text(REFERENCE, encoding="utf-8")
    return Folder(path)
