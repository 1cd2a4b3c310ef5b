"""What the user is told about the server's state, and why there is no suggestion.

Rule: one value, sent whenever it changes; the sentences for the user stand here. How it travels
is `features/status.py`'s. Knows no pygls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from backends import errors


class Kind(StrEnum):
    """Copilot's four."""

    NORMAL = "Normal"
    WARNING = "Warning"
    ERROR = "Error"
    INACTIVE = "Inactive"


@dataclass(frozen=True, slots=True)
class Status:
    """`message` is about the server, `reason` about the last request that gave no suggestion."""

    kind: Kind = Kind.INACTIVE
    busy: bool = False
    message: str = ""
    model: str = ""
    reason: str = ""


OFF = "suggestions are switched off"
LANGUAGE_OFF = "suggestions are switched off for {}"
FILE_OFF = "suggestions are switched off for such files (disabledFiles)"
DOCUMENT_OFF = "suggestions are switched off for this document"
NOT_OPEN = "the editor has not opened this document"
TOO_LARGE = "the document is too large ({:.0f} MB; the limit is {:.0f} MB)"
SECRET = "{}, so it is not shown to a model"  # noqa: S105 - a sentence
KEPT_BACK = "{}, so it is not shown to a model"
MOVED_ON = "the document changed meanwhile"
EMPTY = "the model had nothing to add"
BUG = "midspan failed; its log says where"

# Errors that keep suggestions away until the user does something, and how they are shown.
# The first class that matches counts.
_KINDS: tuple[tuple[type[errors.MidspanError], Kind], ...] = (
    (errors.NoFim, Kind.INACTIVE),
    (errors.WorkerDied, Kind.WARNING),
    (errors.WorkerTimeout, Kind.WARNING),
    (errors.BadRequest, Kind.WARNING),
    (errors.MidspanError, Kind.ERROR),
)


class StatusReporter:
    """Holds the status; calls `send` with each change, from `open` on."""

    def __init__(self, send: Callable[[Status], None]) -> None:
        self._send = send
        self._opened = False
        self._busy: list[list[str]] = []
        self.current = Status()

    def open(self) -> None:
        """The client may be sent notifications from now on."""
        self._opened = True
        self._send(self.current)

    def ready(self, model: str) -> None:
        """All is well with `model`."""
        self._set(kind=Kind.NORMAL, message="", reason="", model=model)

    def inactive(self, message: str) -> None:
        """Switched off, or not started yet."""
        self._set(kind=Kind.INACTIVE, message=message)

    def answered(self, model: str) -> None:
        """A suggestion was made."""
        self.ready(model or self.current.model)

    def known(self) -> None:
        """There is a suggestion, for which nobody was asked: this tells nothing of the server."""
        self._set(reason="")

    def none(self, reason: str) -> None:
        """There is no suggestion, for a reason that is no fault."""
        self._set(reason=reason)

    def failed(self, error: errors.MidspanError) -> None:
        """There is no suggestion because of `error`."""
        kind = next(kind for cls, kind in _KINDS if isinstance(error, cls))
        self._set(kind=kind, message=str(error), reason=str(error))

    @contextmanager
    def working(self, message: str, *, delay_s: float = 0.0) -> Iterator[None]:
        """Show that something is under way, once it has been for `delay_s`."""
        entry = [message]  # two of the same message are two entries
        shown = asyncio.get_running_loop().call_later(delay_s, self._begin, entry)
        try:
            yield
        finally:
            shown.cancel()
            if any(each is entry for each in self._busy):
                self._busy = [each for each in self._busy if each is not entry]
                self._set()

    def _begin(self, entry: list[str]) -> None:
        self._busy.append(entry)
        self._set()

    def _set(self, **changes: object) -> None:
        before = self.current
        # replace() takes fields of any type and dataclass fields are all we pass
        self.current = replace(before, busy=bool(self._busy), **changes)  # type: ignore[arg-type]
        if self._opened and self.current != before:
            self._send(self.current)

    @property
    def doing(self) -> str:
        """What is under way, "" for nothing."""
        return self._busy[-1][0] if self._busy else ""
