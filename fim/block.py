"""Where a completion leaves the block that it was asked for, told while it is written.

Rule: pure; reads indentation and the words that lines begin with. The engines stop there, so that
nobody waits for text that would not be shown, and `postprocess` cuts there.
"""

from __future__ import annotations

import re

# Words that continue a block at the indentation of its header.
_CONTINUES = re.compile(
    r"\s*(?:[)\]}]|(?:else|elif|except|finally|catch|case|default|when|rescue|ensure|end|then|fi"
    r"|done|esac|until)\b|while\b.*;\s*$)"
)
_DEFINES = re.compile(
    r"\s*(?:@\w|(?:async|export|pub|public|private|protected|static|abstract|override|def|class|fn"
    r"|func|function|impl|struct|enum|interface|trait|type|namespace|module)\b)"
)
_OPENS_BLOCK = re.compile(r"[:{]\s*$")
_PIECES = re.compile(r"[^\n]*\n|[^\n]+")
# The beginning of a line that says what the patterns above say of all of it.
_TELLING = re.compile(r"\s*(?:(?!while\b)\w+\W|@.|[^\s\w@])", re.S)


class Block:
    """The block that the cursor is in, or the one that the completion began.

    Goes through a completion's lines, each of which is told once.
    """

    def __init__(self, line: str) -> None:
        """Begin with the cursor's line, with what the completion adds to it."""
        # On an empty line with no indentation, the completion's next line says how deep we are.
        self._base = _depth(line) if line else None
        self._inner, self._one_unit = _unit(line)

    def may_leave(self, line: str) -> bool:
        """Tell whether a line that begins so can be outside, by its depth alone."""
        return bool(line.strip()) and self._base is not None and _depth(line) <= self._base

    def leaves(self, line: str) -> bool:
        """Take the next line; return whether it is outside."""
        depth = _depth(line)
        if not line.strip():
            return False
        if self._base is None:
            self._base, (self._inner, self._one_unit) = depth, _unit(line)
        elif depth > self._base:
            self._inner = True
        elif _CONTINUES.match(line):
            self._base, self._inner, self._one_unit = depth, True, True
        else:
            return depth < self._base or bool(
                self._inner and (self._one_unit or _DEFINES.match(line))
            )
        return False


class BlockStream:
    """Follows a completion that comes in pieces, up to where it leaves its block.

    A line that may be outside is held back until its first word is known, and blank lines until
    what follows them is.
    """

    def __init__(self, line: str) -> None:
        """Begin with the cursor's line up to the cursor."""
        self._line = line  # the one that is being written
        self._block: Block | None = None  # from the second line on
        self._told = False  # whether the block knows the line
        self._held = ""
        self.ended = False

    def push(self, text: str) -> str:
        """Add text; return what is settled by it. Once `ended` is set nothing more is."""
        shown = ""
        for piece in _PIECES.findall(text):
            shown += self._push(piece)
            if self.ended:
                break
        return shown

    def flush(self) -> str:
        """Return what was held back, unless it is outside."""
        self._tell()
        return self._held

    def _push(self, piece: str) -> str:
        """Add a piece of a line, its end included; return what is settled by it."""
        over = piece.endswith("\n")
        self._line += piece.removesuffix("\n")
        self._held += piece.removesuffix("\n")
        if over or (_TELLING.match(self._line) and not self._is_inside()):
            self._tell()
        shown = ""
        if self._is_inside():
            shown, self._held = self._held, ""
        if over and not self.ended:
            self._block = self._block or Block(self._line)
            self._line, self._held, self._told = "", self._held + "\n", False
        return shown

    def _is_inside(self) -> bool:
        """Whether the line is known to be part of the block, as far as it is written."""
        if self._block is None:
            return True
        depth_tells = not self._block.may_leave(self._line)
        return bool(self._line.strip()) and (self._told or depth_tells)

    def _tell(self) -> None:
        if self._block is not None and not self._told:
            self._told = True
            if self._block.leaves(self._line):
                self.ended, self._held = True, ""


def _depth(line: str) -> int:
    """Return the indentation of `line` in columns, a tab to four."""
    return len(line[: len(line) - len(line.lstrip())].expandtabs(4))


def _unit(header: str) -> tuple[bool, bool]:
    """Tell whether `header` opens a block, and whether it begins what is complete in itself.

    That is a definition, and at the top level anything with an indented block.
    """
    opens = bool(_OPENS_BLOCK.search(header))
    return opens, _depth(header) == 0 or (opens and bool(_DEFINES.match(header)))
