"""Typing, as a list of keys: what the editor would ask after each one.

Rule: pure and seeded; made from any source file, or read from a trace file (JSON lines of `Key`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TYPO_RATE = 0.12
JUMP_EVERY = 6  # keys
PASTED_LINES = 12
DOCUMENTS = 8


@dataclass(frozen=True, slots=True)
class Key:
    """The state after a key: the text around the cursor in `document`."""

    scenario: str
    document: str
    prefix: str
    suffix: str


def linear(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """Type a piece of the file where it stands."""
    start = _place(source, keys, rng)
    for n in range(keys):
        yield Key("linear", "linear", source[: start + n], source[start + keys :])


def typos(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """Type with wrong keys now and then, each taken back at once."""
    start = _place(source, keys, rng)
    at = start
    while keys > 0:
        if rng.random() < TYPO_RATE:
            wrong = source[start:at] + rng.choice("qwxz")
            yield Key("typos", "typos", source[:start] + wrong, source[start + 200 :])
            keys -= 1
        yield Key("typos", "typos", source[:at], source[start + 200 :])
        at, keys = at + 1, keys - 1


def jumps(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """Type at two places by turns, a few keys each."""
    text = source
    places = sorted(_place(source, keys, rng) for _ in range(2))
    places[1] = max(places[1], places[0] + 500)
    for n in range(keys):
        turn = n // JUMP_EVERY % 2
        letter = source[(places[turn] + n) % len(source)]
        at = min(places[turn], len(text))
        text = text[:at] + letter + text[at:]
        places = [place + 1 if place >= at else place for place in places]
        yield Key("jumps", "jumps", text[: at + 1], text[at + 1 :])


def round_robin(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """One key in each of eight documents, again and again."""
    shift = len(source) // DOCUMENTS // 2
    texts = [source[i * shift :] for i in range(DOCUMENTS)]
    starts = [_place(text, keys, rng) for text in texts]
    for n in range(keys):
        i, step = n % DOCUMENTS, n // DOCUMENTS
        at = starts[i] + step
        after = texts[i][starts[i] + keys // DOCUMENTS + 1 :]
        yield Key("round_robin", f"round_robin_{i}", texts[i][:at], after)


def paste(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """Paste some lines, then type on after them."""
    start = _place(source, keys, rng)
    lines = source.splitlines(keepends=True)
    pasted = "".join(lines[len(lines) // 3 :][:PASTED_LINES])
    for n in range(keys):
        yield Key("paste", "paste", source[:start] + pasted + source[start:][:n], source[start:])


def accept(source: str, keys: int, rng: random.Random) -> Iterator[Key]:
    """Accept a line's rest, type a little, accept again: the text grows in leaps."""
    start = _place(source, keys * 8, rng)
    at, end = start, start + keys * 8
    for n in range(keys):
        yield Key("accept", "accept", source[:at], source[end:])
        line_end = source.find("\n", at)
        at = line_end + 1 if n % 4 == 3 and 0 <= line_end < end else min(at + 1, end)


SCENARIOS: Mapping[str, Callable[[str, int, random.Random], Iterator[Key]]] = {
    "linear": linear,
    "typos": typos,
    "jumps": jumps,
    "round_robin": round_robin,
    "paste": paste,
    "accept": accept,
}


def generate(source: str, keys: int, seed: int, scenarios: tuple[str, ...]) -> list[Key]:
    """Return `keys` keys of each scenario."""
    rng = random.Random(seed)
    return [key for name in scenarios for key in SCENARIOS[name](source, keys, rng)]


def read(path: Path) -> list[Key]:
    """Read a trace file."""
    return [Key(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, keys: list[Key]) -> None:
    """Write a trace file that `read` reads."""
    path.write_text("".join(json.dumps(asdict(key)) + "\n" for key in keys), encoding="utf-8")


def _place(source: str, keys: int, rng: random.Random) -> int:
    """Return the start of a line in the middle of `source`, `keys` characters before its end."""
    low, high = len(source) // 3, max(len(source) // 3 + 1, len(source) - keys - 500)
    at = rng.randrange(low, high) if high > low else low
    return source.rfind("\n", 0, at) + 1
