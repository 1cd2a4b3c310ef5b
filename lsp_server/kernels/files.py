"""The files that a kernel is written to: their names, and the comment that says what it is.

Rule: pure, standard library. A marker is a claim of whoever wrote the file: it says where to look
for the reference, and proves nothing. Must not know editors.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from lsp_server.kernels.task import Candidate, Language, Task

TITLES = {
    Language.TRITON: "Triton",
    Language.C: "C",
    Language.NUMBA: "Numba",
    Language.CUDA: "CUDA",
}
_MARK = "# midspan-kernel: "
_HEAD_LINES = 40  # a licence may have been put above
_FILE_NAME = re.compile(r"[^/\\\0]{1,255}\.pyi?")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a kernel file says of itself. `code` and `source` are digests of when it was written."""

    reference: str  # the name of a file in the same folder
    function: str
    language: Language
    shapes: str = ""  # as people write them
    origin: str = ""
    code: str = ""
    source: str = ""


def module_name(name: str, language: Language, number: int = 1) -> str:
    """Return the module that a kernel is written to: `softmax_triton`, then `softmax_triton_2`."""
    return f"{name}_{language}" + (f"_{number}" if number > 1 else "")


def test_module_name(module: str) -> str:
    """Return the module of a kernel's test."""
    return f"test_{module}"


def digest(text: str) -> str:
    """Return a short digest of a source, whatever its line ends."""
    return hashlib.sha256(canonical(text).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def canonical(code: str) -> str:
    r"""Return `code` with `\n` line ends, and one at its end: what evidence is kept for."""
    return code.replace("\r\n", "\n").replace("\r", "\n").rstrip() + "\n"


def kernel_text(task: Task, candidate: Candidate, reference: str, shapes: str = "") -> str:
    """Return the file of a kernel; `reference` is the name of the reference's file."""
    code = canonical(candidate.code)
    marker = {
        "reference": reference,
        "function": task.name,
        "language": task.language.value,
        "shapes": shapes,
        "origin": candidate.origin,
        "code": digest(code),
        "source": digest(task.source),
    }
    told = json.dumps({key: value for key, value in marker.items() if value}, ensure_ascii=False)
    title = f"# A {TITLES[task.language]} kernel for {task.name} in {reference}, made by midspan."
    return f"{title}\n{_MARK}{told}\n{code}"


def read(text: str) -> Marker | None:
    """Return what a kernel file says of itself; None of any other file."""
    line = _marker_line(text)
    if line is None:
        return None
    try:
        raw = json.loads(text.split("\n")[line].removeprefix(_MARK))
        fields = {name: str(raw[name]) for name in asdict(_EMPTY) if name in raw}
        marker = Marker(**{**fields, "language": Language(fields["language"])})  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    # Another folder is nothing that a file may point to: a repository could name anyone's.
    if not _FILE_NAME.fullmatch(marker.reference) or not marker.function.isidentifier():
        return None
    return marker


def code_of(text: str) -> str:
    """Return the code of a kernel file, without its comment: what evidence is kept for."""
    line = _marker_line(text)
    if line is None:
        return canonical(text)
    lines = canonical(text).split("\n")
    del lines[_first(lines, line) : line + 1]
    return canonical("\n".join(lines))


def line_in_file(text: str, line: int) -> int:
    """Return which line of a kernel file a line of its code is; both from 1."""
    marker = _marker_line(text)
    if marker is None:
        return line
    first = _first(text.split("\n"), marker)
    return line if line <= first else line + marker + 1 - first


def _first(lines: list[str], marker: int) -> int:
    """The first line of the comment whose last is the marker's."""
    return marker - 1 if marker and lines[marker - 1].startswith("# A ") else marker


def _marker_line(text: str) -> int | None:
    if _MARK not in text:
        return None
    head = text.split("\n", _HEAD_LINES)[:_HEAD_LINES]
    return next((at for at, line in enumerate(head) if line.startswith(_MARK)), None)


_EMPTY = Marker("", "", Language.C)
