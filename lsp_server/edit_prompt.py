"""What a chat model is asked to edit code, and which text its answer gives.

Rule: pure; text in, text out, `\\n` line ends. Knows neither LSP nor how a model is reached.
"""

from __future__ import annotations

import re

MAX_BEFORE = 6000  # characters of the file shown before the part to edit
MAX_AFTER = 3000

_SYSTEM = (
    "You edit source code. You are shown a part of a file and told what to do with the lines "
    "between <edit> and </edit>. Answer with what shall stand there instead: all of these lines, "
    "changed or not, in one fenced code block, with their indentation. Neither repeat the code "
    "around them nor explain anything."
)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n", re.MULTILINE)
_INDENT = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)


def messages(
    before: str, selected: str, after: str, *, path: str, language: str, prompt: str
) -> list[dict[str, str]]:
    """Return the conversation that asks for the edit of `selected`, which is whole lines."""
    before = before[-MAX_BEFORE:].partition("\n")[2] if len(before) > MAX_BEFORE else before
    after = after[:MAX_AFTER].rpartition("\n")[0] if len(after) > MAX_AFTER else after
    block = selected if selected.endswith("\n") else f"{selected}\n"
    text = (
        f"{path} ({language}):\n\n{before}<edit>\n{block}</edit>\n{after}\n\n"
        f"What to do with the lines between <edit> and </edit>: {prompt}"
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]


def replacement(answer: str, selected: str) -> str:
    """Return what `answer`, which may still be incomplete, puts in the place of `selected`.

    That is its first fenced block or, where it has none, all of it; indented as `selected` is if
    the model lost the indentation, and with a line end behind it if `selected` has one.
    """
    lines = _fenced(answer).strip("\n").rstrip()
    if not lines:
        return ""
    wanted, given = _common_indent(selected), _common_indent(lines)
    if wanted and not given:
        lines = re.sub(r"^(?=.*\S)", wanted, lines, flags=re.MULTILINE)
    return lines + "\n" if selected.endswith("\n") else lines


def _fenced(answer: str) -> str:
    opening = _FENCE.search(answer)
    if opening is None:
        # A fence that has only begun is no code yet.
        return "" if answer.lstrip().startswith(("`", "~")) else answer
    inside = answer[opening.end() :]
    closing = re.search(rf"^ {{0,3}}{re.escape(opening[1])}", inside, re.MULTILINE)
    return inside if closing is None else inside[: closing.start()]


def _common_indent(text: str) -> str:
    # Lines that are all blank, as one to be filled in, say it by their own length.
    return min(_INDENT.findall(text), key=len, default=text.rstrip("\n"))
