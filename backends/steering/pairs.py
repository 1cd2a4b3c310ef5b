"""Contrast pairs: what a steering vector is made from, and what it is measured with.

Rule: reads and cuts texts; must not know models. A file has a JSON object on each line:

    {"positive": text, "negative": text, "wanted": text, "unwanted": text}

The first two show what is wanted and what is not. Pairs whose texts end alike differ in style, and
both of the others say how a text might go on; where these are left out, the texts begin alike and
what follows is what they differ in.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from backends.errors import BadRequest

READY_MADE: Final = ("docstrings", "type-hints", "brevity")
MIN_PAIRS: Final = 8
MAX_PAIRS: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
# What a cut may stand in the middle of: other tokens than those of the whole.
_WORD: Final = re.compile(r"[ \t]*\w*\Z")


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line of a file."""

    positive: str
    negative: str
    wanted: str = ""
    unwanted: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, and after `prompt` two ways to go on: `wanted` and `unwanted`."""

    positive: str
    negative: str
    prompt: str
    wanted: str
    unwanted: str


def read(source: str) -> tuple[Pair, ...]:
    """Return the ready-made set of that name, or the pairs of the file. Raises BadRequest."""
    try:
        if source in READY_MADE:
            data = (resources.files("backends.steering") / "sets" / f"{source}.jsonl").read_bytes()
        else:
            data = _read(Path(source).expanduser())
    except OSError as exc:
        ready = ", ".join(READY_MADE)
        raise BadRequest(
            f"The pairs {source} can't be read: {exc.strerror}. Give a JSONL file, or one of the "
            f"ready-made sets: {ready}."
        ) from exc
    lines = [line for line in data.splitlines() if line.strip()]
    if not MIN_PAIRS <= len(lines) <= MAX_PAIRS:
        raise BadRequest(f"{source} has {len(lines)} pairs; {MIN_PAIRS} to {MAX_PAIRS} are needed.")
    return tuple(_pair(source, number, line) for number, line in enumerate(lines, 1))


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        data = file.read(MAX_BYTES + 1) or b""
    if len(data) > MAX_BYTES:
        raise BadRequest(f"{path} is larger than {MAX_BYTES // 2**20} MiB.")
    return data


def _pair(source: str, number: int, data: bytes) -> Pair:
    try:
        line = msgspec.json.decode(data, type=Line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise BadRequest(f"{source}, line {number}: {exc}.") from exc
    problem = ""
    if line.positive == line.negative:
        problem = "'positive' and 'negative' are the same"
    elif bool(line.wanted) != bool(line.unwanted):
        problem = "'wanted' and 'unwanted' go together"
    elif not line.positive.strip() or not line.negative.strip():
        problem = "'positive' and 'negative' must hold text"
    if problem:
        raise BadRequest(f"{source}, line {number}: {problem}.")
    if line.wanted:
        return Pair(line.positive, line.negative, line.negative, line.wanted, line.unwanted)
    prompt = common_start(line.positive, line.negative)
    wanted, unwanted = line.positive[len(prompt) :], line.negative[len(prompt) :]
    if not prompt or not wanted or not unwanted:
        raise BadRequest(
            f"{source}, line {number}: without 'wanted' and 'unwanted', the texts must begin alike "
            "and end differently."
        )
    return Pair(line.positive, line.negative, prompt, wanted, unwanted)


def common_start(one: str, other: str) -> str:
    """Return what two texts begin with alike, up to where a token may end.

    >>> common_start("def f():\\n    return 1", "def f():\\n    result = 1")
    'def f():\\n'
    """
    unlike = (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    common = one[: next(unlike, min(len(one), len(other)))]
    return _WORD.sub("", common)
