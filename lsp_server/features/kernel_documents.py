"""An open kernel file, the reference that stands beside it, and what is known of the two.

Rule: reads and decides, changes nothing. What a file says of itself only names a file of the same
folder; whether it is verified is what this machine has evidence for.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from backends.errors import BadRequest
from lsp_server.documents import Document
from lsp_server.kernels import evidence as evidences
from lsp_server.kernels import files, reference
from lsp_server.kernels.files import Marker
from lsp_server.kernels.task import Candidate, Evidence, Task
from lsp_server.snapshot import refusal

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

logger = logging.getLogger(__name__)

MAX_REFERENCE = 2_000_000  # bytes of a reference that is read from disk
UNCHECKED = "not verified on this machine as it is now"
CHANGED = "stale: changed since it was verified"
REFERENCE_CHANGED = "stale: {} changed since the kernel was verified"


@dataclass(frozen=True, slots=True)
class KernelFile:
    """An open kernel file. Without a task, `problem` says why there is none."""

    document: Document
    marker: Marker
    reference: Document | None
    task: Task | None
    problem: str
    evidence: Evidence | None

    @property
    def code(self) -> str:
        """The kernel, without the comment above it."""
        return files.code_of(self.document.text)

    @property
    def candidate(self) -> Candidate:
        """The kernel as it stands in the file, whoever wrote it."""
        return Candidate(self.code, self.marker.origin or "editor")

    @property
    def verified(self) -> bool:
        """Whether this very text was shown to compute what the reference does now."""
        return self.evidence is not None and self.evidence.verified

    @property
    def can_be_called(self) -> bool:
        """Whether the reference is a function by this name; a Module's forward is none."""
        name = re.escape(self.marker.function)
        text = "" if self.reference is None else self.reference.text
        return re.search(rf"^def {name}\b", text, re.MULTILINE) is not None

    @property
    def is_changed(self) -> bool:
        """Whether the kernel was edited after it was written here."""
        return self.marker.code != files.digest(self.code)

    @property
    def is_unchecked(self) -> bool:
        """Whether it is as it was written, for the same reference, and yet without evidence."""
        same = self.task is not None and self.marker.source == files.digest(self.task.source)
        return self.evidence is None and same and not self.is_changed

    @property
    def statement(self) -> str:
        """What is known, for people."""
        if self.task is None:
            return self.problem
        if self.evidence is not None:
            return evidences.statement(self.evidence)
        if self.is_changed:
            return CHANGED
        return UNCHECKED if self.is_unchecked else REFERENCE_CHANGED.format(self.task.name)


def keep(evidence: Evidence, code: str, task: Task) -> None:
    """Keep evidence; a full disk costs no more than having to verify again."""
    try:
        evidences.keep(evidence, code, task)
    except OSError as exc:
        logger.warning("evidence could not be kept (%s)", exc.strerror)


def sibling(uri: str, name: str) -> str:
    """Return the URI of a file in the folder of `uri`."""
    return f"{uri.rpartition('/')[0]}/{quote(name)}"


def read(ls: MidspanServer, document: Document) -> KernelFile | None:
    """Return what is known of an open document; None if it is no kernel file."""
    marker = files.read(document.text)
    if marker is None:
        return None
    found = beside(ls, document, marker.reference)
    if isinstance(found, str):
        return KernelFile(document, marker, None, None, found, None)
    try:
        task = reference.task(
            found.text, marker.function, marker.language, marker.shapes, found.path
        )
    except BadRequest as exc:
        return KernelFile(document, marker, found, None, str(exc), None)
    known = evidences.known(files.code_of(document.text), task)
    return KernelFile(document, marker, found, task, "", known)


def beside(ls: MidspanServer, document: Document, name: str) -> Document | str:
    """Return a file of the document's folder, as the editor has it or else as it is on disk.

    Or why it cannot be had: it may be one that nothing is to be made of.
    """
    uri = sibling(document.uri, name)
    found = ls.documents.get(uri)
    if found is None:
        if not uri.startswith("file:"):
            return f"Open {name} first."
        text = _text(Path(document.path).with_name(name))
        if text is None:
            return f"{name}, which the kernel was made of, is not there or cannot be read."
        found = ls.documents.unopened(uri, text, "python")
    if reason := refusal(found):
        return f"{name}: {reason}."
    return found


def in_package(document: Document) -> bool:
    """Whether the document is a module of a package."""
    return Path(document.path).with_name("__init__.py").exists()


def _text(path: Path) -> str | None:
    """The text of a file; None for what is no text, too large, or a link to another folder."""
    try:
        stays = path.resolve().parent == path.parent.resolve()
        if not (stays and path.is_file() and path.stat().st_size <= MAX_REFERENCE):
            return None
        return path.read_bytes().decode("utf-8")  # with its own line ends
    except (OSError, ValueError):
        return None
