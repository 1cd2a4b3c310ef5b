"""The open documents: their text, exactly as the editor has it, and positions in it.

Rule: the only place that turns an editor's line and character into an offset and back. An offset
counts code points of `Document.text`; a character counts the client's units (utf-8, -16 or -32).
Lines end at `\\r\\n`, `\\n` or `\\r` and nowhere else. Standard library only; knows no pygls.
"""

from __future__ import annotations

import contextlib
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote, urlsplit

logger = logging.getLogger(__name__)

_LINE_END = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_UTF8_CONTINUATION = bytes(range(0x80, 0xC0))
HUGE_TEXT = 1_000_000  # characters; what each edit of such a text copies is worth keeping


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the client's terms: a line and a count of its units, both from 0."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class Change:
    """One edit: put `text` where `start`..`end` was; both None: it is the whole new text."""

    text: str
    start: Place | None = None
    end: Place | None = None


class Document:
    """One open document. `revision` counts applied changes, whatever versions the client sends."""

    def __init__(
        self, uri: str, text: str, version: int, language_id: str, encoding: str = "utf-16"
    ) -> None:
        self.uri = uri
        self.version = version
        self.language_id = language_id
        self.encoding = encoding
        self.revision = 0
        self.kept_back = ""  # why its repository does not want it shown to a model
        self._set_text(text)

    @property
    def path(self) -> str:
        """The path in the URI, decoded; for `untitled:` and the like what follows the scheme.

        Where there is no URI, all that is there.
        """
        try:
            return unquote(urlsplit(self.uri).path)
        except ValueError:
            return unquote(self.uri)

    @property
    def line_ending(self) -> str:
        r"""The document's own line ending: that of its first line; `\n` where it has one line."""
        found = _LINE_END.search(self.text)
        return found.group() if found else "\n"

    @property
    def line_count(self) -> int:
        """How many lines; at least 1, and a line end at the end opens an empty last one."""
        return len(self._starts)

    def offset(self, place: Place) -> int:
        """Where `place` is in `text`. Past a line's end: its end. Past the last line: the end.

        Inside a character (half a surrogate pair, a continuation byte): before it.
        """
        if place.line >= len(self._starts):
            return len(self.text)
        start, end = self.line_bounds(place.line)
        return start + self._points(start, end, place.character)

    def place(self, offset: int) -> Place:
        """The position of `offset`, in the client's units."""
        line = bisect_right(self._starts, offset) - 1
        start = self._starts[line]
        return Place(line, self._units(self.text[start:offset]))

    def line_of(self, offset: int) -> int:
        """The line, from 0, that `offset` is in."""
        return bisect_right(self._starts, offset) - 1

    def line_bounds(self, line: int) -> tuple[int, int]:
        """The offsets where `line` starts and where it ends, its line end not counted."""
        start = self._starts[line]
        if line + 1 == len(self._starts):
            return start, len(self.text)
        end = self._starts[line + 1] - 1
        if end > start and self.text[end] == "\n" and self.text[end - 1] == "\r":
            end -= 1
        return start, end

    def line_start_at_or_after(self, offset: int) -> int | None:
        """The first line start not before `offset`; None where there is none."""
        at = bisect_left(self._starts, offset)
        return self._starts[at] if at < len(self._starts) else None

    def line_start_at_or_before(self, offset: int) -> int:
        """The last line start not after `offset`."""
        return self._starts[bisect_right(self._starts, offset) - 1]

    def apply(self, change: Change) -> None:
        """Apply one edit."""
        self.revision += 1
        if change.start is None or change.end is None:
            self._set_text(change.text)
            return
        start, end = self.offset(change.start), self.offset(change.end)
        self._replace(min(start, end), max(start, end), change.text)

    def _set_text(self, text: str) -> None:
        if len(text) > HUGE_TEXT:
            _keep_freed_memory()
        self.text = text
        self._known: tuple[int, int, int] | None = None
        self._astral = not text.isascii() and _ASTRAL.search(text) is not None
        self._starts = [0, *(found.end() for found in _LINE_END.finditer(text))]

    def _replace(self, start: int, end: int, new: str) -> None:
        if self._known is not None and start < self._known[0] + self._known[2]:
            self._known = None
        self.text = "".join((self.text[:start], new, self.text[end:]))  # one copy of the whole
        after = start + len(new)
        seam = self.text[max(start - 1, 0) : after + 1]
        if not seam.isascii():
            if _SURROGATE.search(seam):  # two halves, typed apart, may have become one character
                both = self.text.encode("utf-16-le", "surrogatepass")
                self._set_text(both.decode("utf-16-le", "surrogatepass"))
                return
            self._astral = self._astral or _ASTRAL.search(seam) is not None
        self._reindex(start, end, after)

    def _reindex(self, start: int, end: int, after: int) -> None:
        # Whether a line starts at s depends on the characters s-1 and s alone: what starts before
        # `start` stays, what starts behind the old `end` moves, and only what is between is read.
        starts = self._starts
        first = bisect_left(starts, max(start, 1))
        behind = bisect_right(starts, max(end, 0), lo=first)
        between = [
            found.end()
            for found in _LINE_END.finditer(self.text, max(start - 1, 0), after + 1)
            if start <= found.end() <= after
        ]
        shift = after - end
        moved = [s + shift for s in starts[behind:]] if shift else starts[behind:]
        starts[first:] = between + moved

    def _points(self, start: int, end: int, units: int) -> int:
        """How many characters of the line `start`..`end` the first `units` units cover."""
        length = end - start
        if self._one_unit_each():
            return min(units, length)
        # In a line of millions of such characters, edits are near one another: count from the
        # last known place, which is (line start, units, points) with nothing changed before it.
        line, units_before, before = start, 0, 0
        if self._known is not None and self._known[0] == line and self._known[1] <= units:
            _, units_before, before = self._known
        points, counted = self._count(line + before, end, units - units_before)
        self._known = line, units_before + counted, before + points
        return before + points

    def _count(self, start: int, end: int, units: int) -> tuple[int, int]:
        """How many characters the first `units` units cover, and how many units these have."""
        piece = self.text[start : min(end, start + units)]
        if piece.isascii():
            return len(piece), len(piece)
        if self.encoding == "utf-8":
            data = piece.encode("utf-8", "surrogatepass")
            whole = data[:units]
            while len(data) > len(whole) and data[len(whole)] in _UTF8_CONTINUATION:
                whole = whole[:-1]  # back to before the character that `units` ends in
            return len(whole.translate(None, _UTF8_CONTINUATION)), len(whole)
        data = piece.encode("utf-16-le", "surrogatepass")
        inside = len(data) > 2 * units and data[2 * units + 1] & 0xFC == 0xDC
        whole = data[: 2 * (units - inside)]
        return len(whole.decode("utf-16-le", "surrogatepass")), len(whole) // 2

    def _units(self, piece: str) -> int:
        if self._one_unit_each() or piece.isascii():
            return len(piece)
        if self.encoding == "utf-8":
            return len(piece.encode("utf-8", "surrogatepass"))
        return len(piece.encode("utf-16-le", "surrogatepass")) // 2

    def _one_unit_each(self) -> bool:
        # str.isascii() reads a flag: this is what keeps an edit of a 10 MB line cheap.
        if self.encoding == "utf-32" or self.text.isascii():
            return True
        return self.encoding == "utf-16" and not self._astral


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep some 64 MiB of what is freed instead of giving it back.

    An edit copies the whole text. Given back at each edit, and asked for anew at the next, the
    pages' zeroing by the kernel costs four times what the copying does. glibc only; else nothing.
    """
    import ctypes  # few editors ever open a text like that

    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 64 << 20)
        mallopt(mmap_threshold, 32 << 20)


Refusal = Callable[[str, str], str | None]  # (path, language id) → why not, if not


class Documents:
    """The open documents by URI. Changes that cannot be meant are ignored, with a log line."""

    def __init__(self, refusal: Refusal = lambda path, language_id: None) -> None:
        self.encoding = "utf-16"  # what the client and we agreed on in `initialize`
        self._refusal = refusal  # of the repository that a document is in
        self._open: dict[str, Document] = {}

    def get(self, uri: str) -> Document | None:
        """The open document `uri`; None where the client has not opened it."""
        return self._open.get(_key(uri))

    def all(self) -> list[Document]:
        """Every open document."""
        return list(self._open.values())

    def open(self, uri: str, text: str, version: int, language_id: str) -> Document:
        """Open a document, or take a new text for an open one."""
        document = Document(uri, text, version, language_id, self.encoding)
        self._open[_key(uri)] = document
        self.check_repositories()
        return document

    def unopened(self, uri: str, text: str, language_id: str) -> Document:
        """Return a document that is not open, with what its repository says of it."""
        document = Document(uri, text, 0, language_id, self.encoding)
        document.kept_back = self._refusal(document.path, language_id) or ""
        return document

    def check_repositories(self) -> None:
        """Ask again of every open document whether its repository keeps it back."""
        for document in self._open.values():
            reason = self._refusal(document.path, document.language_id)
            document.kept_back = reason or ""

    def change(self, uri: str, version: int, changes: Iterable[Change]) -> bool:
        """Apply the changes of one notification, in order; False if they were ignored."""
        document = self._open.get(_key(uri))
        if document is None:
            logger.warning("ignored a change of %s, which is not open", uri)
            return False
        if version < document.version:
            logger.warning(
                "ignored a change of %s to version %d, older than %d",
                uri,
                version,
                document.version,
            )
            return False
        for change in changes:
            document.apply(change)
        document.version = version
        return True

    def close(self, uri: str) -> None:
        """Forget a document."""
        self._open.pop(_key(uri), None)


def _key(uri: str) -> str:
    # Clients write the same URI as file:///c%3A/x and file:///c:/x.
    return unquote(uri)
