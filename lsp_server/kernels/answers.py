"""The code in what a model answered.

Rule: pure; text in, text out. Code is cut out and never changed: no blank line is dropped and
nothing is put in order. What a model thought before its answer is no part of it.
"""

from __future__ import annotations

import ast
import re

_FENCE = re.compile(
    r"^ {0,3}(?P<mark>`{3,}|~{3,})[^\n]*\n(?P<code>.*?)(?:^ {0,3}(?P=mark)|\Z)", re.M | re.S
)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.S)


def code(answer: str, name: str) -> str:
    r"""Return the code of an answer: the last block that defines `name`, else the last block.

    An answer with no block is code itself where it defines `name`; otherwise there is none, and
    the result is empty. Line ends are `\n`.
    """
    text = answer.replace("\r\n", "\n")
    # A model whose template opens the thought itself only closes it.
    _, closed, rest = text.rpartition("</think>")
    text = rest if closed and "<think>" not in text else _THOUGHT.sub("", text)
    defines = re.compile(rf"^(?:async )?def {re.escape(name)}\b", re.M)
    blocks = [found["code"] for found in _FENCE.finditer(text)]
    chosen = next((block for block in reversed(blocks) if defines.search(block)), "")
    if not chosen and blocks:
        chosen = blocks[-1]
    if not chosen and defines.search(text):
        chosen = text
    return f"{chosen.strip(chr(10)).rstrip()}\n" if chosen.strip() else ""


def filled(prefix: str, middle: str, suffix: str) -> str:
    """Return a skeleton with what a model that only completes wrote into it.

    A model that does not know where to end goes on with another function: what stands behind the
    last whole statement that fits is left off.
    """
    lines = middle.replace("\r\n", "\n").split("\n")
    for end in range(len(lines), 0, -1):
        body = "\n".join(lines[:end]).rstrip()
        whole = f"{prefix}{body}\n{suffix}"
        try:
            ast.parse(whole)
        except (SyntaxError, ValueError, RecursionError):
            continue
        return whole
    return f"{prefix}{middle.rstrip()}\n{suffix}"
