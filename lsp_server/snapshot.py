"""What of a document a request is about, frozen at the moment the request came in.

Rule: pure; text in, text out. Windows are cut here, line ends made `\\n` for the model here, and
here alone is decided what is not completed at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from lsp_server import ignore, status
from lsp_server.documents import Document
from lsp_server.settings import Multiline, Settings
from lsp_server.toggles import Toggles

MAX_DOCUMENT = 10_000_000  # characters; above it nothing is suggested
MAX_BEFORE = 64 * 1024  # characters of text before the gap that the manager is sent
MAX_AFTER = 16 * 1024
STEP = 8 * 1024  # the window's start moves in such steps, so that it doesn't slide with each key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A gap in a document. Texts have `\\n` line ends, whatever the document has."""

    uri: str
    path: str
    language_id: str
    revision: int
    offset: int  # where the gap begins
    before: str
    after: str
    line_ending: str

    @property
    def rest_of_line(self) -> str:
        """What stands behind the gap on its line."""
        return self.after.partition("\n")[0]


def take(
    document: Document, start: int, end: int | None = None, lead: str = "", trail: str = ""
) -> Snapshot:
    """The gap from offset `start` to `end` (default: `start`).

    As if `lead` stood before the gap and `trail` behind it.
    """
    end = start if end is None else end
    before = document.text[_window_start(document, start) : start] + lead
    after = trail + document.text[end : _window_end(document, end)]
    return Snapshot(
        uri=document.uri,
        path=document.path,
        language_id=document.language_id,
        revision=document.revision,
        offset=start,
        before=_newlines(before),
        after=_newlines(after),
        line_ending=document.line_ending,
    )


def refusal(document: Document) -> str | None:
    """Why nothing of this document may be sent to a model, however it was asked for."""
    if len(document.text) > MAX_DOCUMENT:
        return status.TOO_LARGE.format(len(document.text) / 1e6, MAX_DOCUMENT / 1e6)
    if secret := ignore.refusal(document.path):
        return status.SECRET.format(secret)
    return status.KEPT_BACK.format(document.kept_back) if document.kept_back else None


def switched_off(document: Document, settings: Settings, toggles: Toggles) -> str | None:
    """Why nothing is suggested in this document while typing."""
    if not (settings.enabled and toggles.all_on):
        return status.OFF
    language = document.language_id
    if language in settings.disabled_languages or not toggles.language_on(language):
        return status.LANGUAGE_OFF.format(language)
    if settings.disabled_files and ignore.matches(settings.disabled_files, document.path):
        return status.FILE_OFF
    return None if toggles.document_on(document.uri) else status.DOCUMENT_OFF


def single_line(snapshot: Snapshot, multiline: Multiline, *, automatic: bool) -> bool:
    """Whether the suggestion must stay on its line."""
    if multiline is Multiline.AUTO:
        return automatic and bool(snapshot.rest_of_line.strip())
    return multiline is Multiline.NEVER


def _window_start(document: Document, start: int) -> int:
    if start <= MAX_BEFORE:
        return 0
    earliest = -(-(start - MAX_BEFORE) // STEP) * STEP
    at_line = document.line_start_at_or_after(earliest)
    # One line longer than the window is cut anywhere.
    return earliest if at_line is None or at_line > start else at_line


def _window_end(document: Document, end: int) -> int:
    latest = end + MAX_AFTER
    if latest >= len(document.text):
        return len(document.text)
    at_line = document.line_start_at_or_before(latest)
    return at_line if at_line > end else latest


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
