"""Writes the ready-made contrast pairs from small templates of our own.

    python -m tests.steering_pairs

Each pair shows two functions, written with and without what the set is about, and then the
beginning of a third. A test fails while the files differ from what is written here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.steering.pairs import Line

FOLDER = Path(__file__).parents[1] / "backends" / "steering" / "sets"
PAIRS = 60
SHOWN = {"brevity": 3}  # functions before the one that is asked for; of other sets 2


@dataclass(frozen=True)
class Function:
    """A function's parts; `short` and `long` are bodies that do the same.

    `ending` does what is left to do after the first line of `long`, in one line.
    """

    name: str
    parameters: tuple[tuple[str, str], ...]  # name, type
    result: str
    says: str
    short: str
    long: str
    ending: str

    @property
    def brief(self) -> str:
        """A body that begins as the long one does."""
        return f"{self.long.splitlines()[0]}\n{self.ending}"

    def signature(self, *, hints: bool = False) -> str:
        shown = ", ".join(f"{name}: {kind}" if hints else name for name, kind in self.parameters)
        arrow = f" -> {self.result}" if hints else ""
        return f"def {self.name}({shown}){arrow}:\n"


# Of a noun N and an adjective A: name, parameters, result, docstring, short body, long body, and
# how the long one ends when it ends after its first line.
TEMPLATES: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    (
        "count_{n}s",
        "{n}s:list[str]",
        "int",
        "Return how many {n}s there are.",
        "return len({n}s)",
        "count = 0\nfor {n} in {n}s:\n    count += 1\nreturn count",
        "return count + len({n}s)",
    ),
    (
        "find_{n}",
        "{n}s:dict[str,str], key:str",
        "str | None",
        "Return the {n} under a key, or None.",
        "return {n}s.get(key)",
        "found = None\nif key in {n}s:\n    found = {n}s[key]\nreturn found",
        "return {n}s.get(key, found)",
    ),
    (
        "is_{a}_{n}",
        "{n}:str",
        "bool",
        "Return whether the {n} is {a}.",
        'return {n}.startswith("{a}")',
        'prefix = "{a}"\nif {n}.startswith(prefix):\n    return True\nelse:\n    return False',
        "return {n}.startswith(prefix)",
    ),
    (
        "{a}_{n}s",
        "{n}s:list[str], limit:int",
        "list[str]",
        "Return the first {a} {n}s.",
        "return sorted({n}s)[:limit]",
        "result = []\nfor {n} in sorted({n}s):\n    if len(result) < limit:\n"
        "        result.append({n})\nreturn result",
        "return result + sorted({n}s)[:limit]",
    ),
    (
        "read_{n}",
        "path:str",
        "str",
        "Read the {n} from a file.",
        "return open(path).read()",
        "file = open(path)\ntry:\n    text = file.read()\nfinally:\n    file.close()\nreturn text",
        "return file.read()",
    ),
    (
        "longest_{n}",
        "{n}s:list[str]",
        "str",
        "Return the longest {n}.",
        "return max({n}s, key=len)",
        'longest = ""\nfor {n} in {n}s:\n    if len({n}) > len(longest):\n'
        "        longest = {n}\nreturn longest",
        "return max({n}s, key=len, default=longest)",
    ),
    (
        "join_{n}s",
        "{n}s:list[str], separator:str",
        "str",
        "Join the {n}s into one text.",
        "return separator.join({n}s)",
        'text = ""\nfor index, {n} in enumerate({n}s):\n    if index > 0:\n'
        "        text += separator\n    text += {n}\nreturn text",
        "return text + separator.join({n}s)",
    ),
    (
        "total_{n}_size",
        "{n}s:list[bytes]",
        "int",
        "Return the size of all {n}s together.",
        "return sum(map(len, {n}s))",
        "total = 0\nfor {n} in {n}s:\n    size = len({n})\n    total = total + size\nreturn total",
        "return total + sum(map(len, {n}s))",
    ),
    (
        "has_{a}_{n}",
        "{n}s:set[str]",
        "bool",
        "Return whether a {n} is {a}.",
        'return "{a}" in {n}s',
        'found = False\nfor {n} in {n}s:\n    if {n} == "{a}":\n        found = True\nreturn found',
        'return found or "{a}" in {n}s',
    ),
    (
        "rename_{n}",
        "{n}:str, old:str, new:str",
        "str",
        "Give the {n} its new name.",
        "return {n}.replace(old, new)",
        "parts = {n}.split(old)\nrenamed = parts[0]\nfor part in parts[1:]:\n"
        "    renamed += new + part\nreturn renamed",
        "return new.join(parts)",
    ),
)
NOUNS = (
    *("user", "order", "token", "label", "message", "ticket", "sensor", "recipe", "invoice"),
    *("planet", "letter", "image", "channel", "column", "package", "bridge", "garden", "lesson"),
    *("signal", "window", "record", "branch", "folder", "player"),
)
ADJECTIVES = ("new", "valid", "open", "recent", "hidden", "local", "empty", "final")


def functions() -> Iterator[Function]:
    """Yield functions for ever, none like the one before."""
    numbers = random.Random(1)
    made = [(row, noun) for row in range(len(TEMPLATES)) for noun in NOUNS]
    while True:
        numbers.shuffle(made)
        for row, noun in made:
            words = {"n": noun, "a": numbers.choice(ADJECTIVES)}
            name, parameters, *rest = (part.format(**words) for part in TEMPLATES[row])
            named = [part.split(":") for part in parameters.split(", ")]
            kinds = tuple((one, kind.replace(",", ", ")) for one, kind in named)
            yield Function(name, kinds, *rest)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _docstrings(shown: list[Function], asked: Function) -> Line:
    with_it, without = (
        "\n\n".join(
            one.signature() + (f'    """{one.says}"""\n' if yes else "") + _indented(one.short)
            for one in shown
        )
        for yes in (True, False)
    )
    end = f"\n\n{asked.signature()}"
    return Line(with_it + end, without + end, wanted='    """', unwanted="    return")


def _type_hints(shown: list[Function], asked: Function) -> Line:
    with_it, without = (
        "\n\n".join(one.signature(hints=yes) + _indented(one.short) for one in shown)
        for yes in (True, False)
    )
    name, kind = asked.parameters[0]
    end = f"\n\ndef {asked.name}({name}"
    rest = asked.signature().partition(f"({name}")[2]
    return Line(with_it + end, without + end, wanted=f": {kind}", unwanted=rest.rstrip("\n"))


def _brevity(shown: list[Function], asked: Function) -> Line:
    with_it, without = (
        "\n\n".join(
            f'{one.signature()}    """{one.says}"""\n{_indented(one.brief if yes else one.long)}'
            for one in shown
        )
        for yes in (True, False)
    )
    # Where a body is under way: at its beginning a small model returns at once, steered or not.
    first, *rest = asked.long.splitlines()
    end = f'\n\n{asked.signature()}    """{asked.says}"""\n{_indented(first)}'
    brief, long = _indented(asked.ending), _indented("\n".join(rest))
    return Line(with_it + end, without + end, wanted=brief, unwanted=long)


SETS: dict[str, Callable[[list[Function], Function], Line]] = {
    "docstrings": _docstrings,
    "type-hints": _type_hints,
    "brevity": _brevity,
}


def lines(name: str) -> bytes:
    """Return the file of the set `name`."""
    source = functions()
    made = []
    for _ in range(PAIRS):
        *shown, asked = (next(source) for _ in range(SHOWN.get(name, 2) + 1))
        made.append(msgspec.json.encode(SETS[name](shown, asked)) + b"\n")
    return b"".join(made)


if __name__ == "__main__":
    for set_name in SETS:
        (FOLDER / f"{set_name}.jsonl").write_bytes(lines(set_name))
