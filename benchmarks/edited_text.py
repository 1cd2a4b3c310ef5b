"""A text as an editor has it, edited at random: what a language server's copy is compared with.

Rule: naive on purpose. The text is a string that is cut and joined; a position is counted out of
the encoded line. Shares no code with `lsp_server.documents`, which it is there to find wrong.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass, field
from typing import Any

ENCODINGS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
LINE_ENDS = {"lf": ["\n"], "crlf": ["\r\n"], "cr": ["\r"], "mixed": ["\n", "\r\n", "\r"]}
# What ends no line but looks like it (VT, FF, FS, NEL, U+2028, U+2029), and characters of one to
# four bytes and one or two units: accents, combining ones, wide ones, emoji, joined ones, NUL, BOM.
PIECES = (
    *"abcdefgh   \t(){}:=.,_",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "é",
    "e\u0301",
    "ß",
    "字",
    "\uac00",
    "\U00020bb7",
    "😀",
    "👩‍💻",
    "🇪🇺",
    "\x00",
    "\ufeff",
    "return ",
)
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass
class EditedText:
    """The editor's side: `edit` changes the text and returns what a client sends about it."""

    encoding: str
    text: str = ""
    lines_from: list[str] = field(default_factory=lambda: LINE_ENDS["lf"])

    def place(self, offset: int) -> dict[str, int]:
        """Return the position of `offset` as the wire has it."""
        before = _LINE_END.split(self.text[:offset])
        codec, size = ENCODINGS[self.encoding]
        return {"line": len(before) - 1, "character": len(before[-1].encode(codec)) // size}

    def between(self, offset: int) -> int:
        """Return `offset`, or the one before where it is inside a CRLF: there is no position."""
        return offset - (self.text[offset - 1 : offset + 1] == "\r\n")

    def edit(self, start: int, end: int, new: str, beyond: int = 0) -> dict[str, Any]:
        """Replace `start`..`end`; where `end` is at its line's end, say so many units further."""
        start, end = sorted((self.between(start), self.between(end)))
        change = {"range": {"start": self.place(start), "end": self.place(end)}, "text": new}
        if self.text[end : end + 1] in ("", "\r", "\n"):
            change["range"]["end"]["character"] += beyond  # type: ignore[index]
        self.text = self.text[:start] + new + self.text[end:]
        return change

    def replace_all(self, new: str) -> dict[str, Any]:
        """Take a new text as a whole."""
        self.text = new
        return {"text": new}

    def digest(self) -> str:
        """Return the SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class RandomEdits:
    """Edits as people and their tools make them; the same for the same seed."""

    def __init__(self, text: EditedText, seed: int, length: int = 1500) -> None:
        self._text = text
        self._random = random.Random(seed)
        self._length = length  # about which the text stays
        self._cursor = 0

    def words(self, most: int) -> str:
        """Return some text of up to `most` pieces, line ends among them."""
        pieces = [*PIECES, *self._text.lines_from * 6]
        return "".join(self._random.choices(pieces, k=self._random.randint(0, most)))

    def batch(self) -> list[dict[str, Any]]:
        """Return the changes of one notification: mostly one, sometimes several, rarely all."""
        draw = self._random.random()
        if draw < 0.01:
            return [self._text.replace_all(self.words(self._length))]
        if draw < 0.02:  # a full sync between two edits
            return [self._one(), self._text.replace_all(self.words(self._length)), self._one()]
        return [self._one() for _ in range(1 if draw < 0.8 else self._random.randint(2, 6))]

    def _one(self) -> dict[str, Any]:
        text, draw = self._text, self._random.random()
        size = len(text.text)
        if draw < 0.6:  # typing on, or deleting back
            at = min(self._cursor, size)
            end, new = (at, self.words(2)) if draw < 0.45 else (max(at - 1, 0), "")
        else:
            at, end = self._random.randint(0, size), self._random.randint(0, size)
            if size < 2 * self._length:
                end = min(max(end, at - 40), at + 40)
            new = self.words(30)
        change = text.edit(at, end, new, beyond=self._random.choice((0, 0, 0, 1, 1000)))
        self._cursor = min(at, end) + len(new)
        return change
