"""Types a passage of a file into a language server and takes the ghost text that is right.

Rule: the typist knows the file, so a suggestion is accepted exactly if the file really goes on
like that; otherwise the next character is typed. Must not know how it is shown.
"""

from __future__ import annotations

import ast
import io
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import BadRequest, MidspanError
from lsp_server.cli.editor import Editor
from lsp_server.cli.files import language_id
from lsp_server.documents import Change, Document, Place

MIN_LINES, MAX_LINES = 6, 20  # of a function chosen by itself
STRETCH_LINES = 12  # of what is typed of a file with no Python function
AUTOMATIC = 2  # LSP's trigger kind for completions that come while typing


@dataclass(frozen=True, slots=True)
class Passage:
    """What is typed: `body`, between `head` and `tail`; `tail` begins with a line end or is ""."""

    path: Path
    name: str
    head: str
    body: str
    tail: str

    @property
    def text(self) -> str:
        """The whole file."""
        return self.head + self.body + self.tail


@dataclass(frozen=True, slots=True)
class Step:
    """One keystroke's outcome, and what the typist does about it."""

    typed: str  # of the body so far
    ghost: str  # the suggestion shown after it, "" where there is none
    accepted: bool  # Tab is the next key
    ms: float  # from the keystroke to the answer


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session came to. Shares are of the body's characters."""

    characters: int
    keystrokes: int
    shown: int
    accepted: int
    accepted_characters: int
    latency_p50_ms: float
    latency_p95_ms: float

    @property
    def accepted_share(self) -> float:
        """The share of characters that were accepted, 0 to 1."""
        return self.accepted_characters / self.characters

    @property
    def saved_share(self) -> float:
        """The share of keystrokes saved against typing every character, 0 to 1."""
        return 1 - self.keystrokes / self.characters


def choose(path: Path, text: str, function: str | None = None) -> Passage:
    """Choose what to type: `function`, else the first Python function of a handy size.

    Without either, a stretch of lines from the file's middle. Raises BadRequest.
    """
    found = _functions(text) if path.suffix == ".py" else []
    if function is not None:
        found = [row for row in found if row[0] == function]
        if not found:
            raise BadRequest(f"{path} has no function named {function}.")
    else:
        found = [row for row in found if MIN_LINES <= row[2] - row[1] <= MAX_LINES]
    lines = list(io.StringIO(text, newline=""))  # str.splitlines also splits at form feeds
    if found:
        name, first, end = found[0]
    elif len(lines) >= 2:
        first = min(len(lines) // 2, len(lines) - 1)
        end = min(first + STRETCH_LINES, len(lines))
        name = f"lines {first + 1} to {end}"
    else:
        raise BadRequest(f"{path} is too short to type from.")
    body = "".join(lines[first:end])
    kept = body.rstrip()
    if not kept:
        raise BadRequest(f"{path} has nothing but blank lines to type there.")
    tail = body[len(kept) :] + "".join(lines[end:])
    return Passage(path, name, "".join(lines[:first]), kept, tail)


def _functions(text: str) -> list[tuple[str, int, int]]:
    """Return (qualified name, first line, line after the last), from 0, of every function."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    found: list[tuple[str, int, int]] = []

    def visit(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{inside}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                    found.append((name, first - 1, child.end_lineno or first))
                name += "."
            visit(child, name)

    visit(tree, "")
    return found


async def type_passage(editor: Editor, passage: Passage) -> AsyncIterator[Step]:
    """Open the file without the passage, type it, and yield a step after every keystroke.

    `editor` is not initialised yet. Raises MidspanError if the server's text and ours differ.
    """
    # What a program accepts is nothing that `midspan stats` should tell of its user.
    answer = await editor.initialize({"ledger": False})
    encoding = answer["capabilities"].get("positionEncoding", "utf-16")
    await editor.notify("initialized", {})
    uri = passage.path.resolve().as_uri()
    language = language_id(passage.path)
    document = Document(uri, passage.head + passage.tail, 1, language, encoding)
    await editor.notify(
        "textDocument/didOpen",
        {
            "textDocument": {
                "uri": uri,
                "languageId": language,
                "version": 1,
                "text": document.text,
            }
        },
    )
    hands = _Hands(editor, document, passage)
    typed = ""
    while len(typed) < len(passage.body):
        started = time.perf_counter()
        # One key makes both characters of a Windows line end.
        key = 2 if passage.body.startswith("\r\n", len(typed)) else 1
        typed = await hands.insert(typed, passage.body[len(typed) : len(typed) + key])
        item = await hands.ask(typed)
        ms = 1000 * (time.perf_counter() - started)
        ghost = hands.ghost(typed, item) if item else ""
        right = len(ghost) > 1 and passage.body.startswith(typed + ghost)
        yield Step(typed, ghost, right, ms)
        if right and item is not None:
            typed = await hands.insert(typed, ghost)
            if command := item.get("command"):  # what an editor runs on accept
                await editor.request(
                    "workspace/executeCommand",
                    {"command": command["command"], "arguments": command.get("arguments", [])},
                )
    yield Step(typed, "", False, 0.0)
    if document.text != passage.text:
        raise MidspanError("What was typed is not the file; please report this.")


class _Hands:
    """Edits and requests at the cursor, which stands behind what is typed."""

    def __init__(self, editor: Editor, document: Document, passage: Passage) -> None:
        self._editor = editor
        self._document = document
        self._start = len(passage.head)

    async def insert(self, typed: str, text: str) -> str:
        """Insert `text` at the cursor, in the editor and in our copy; return what is typed now."""
        place = self._document.place(self._start + len(typed))
        self._document.version += 1
        self._document.apply(Change(text, place, place))
        await self._editor.notify(
            "textDocument/didChange",
            {
                "textDocument": {
                    "uri": self._document.uri,
                    "version": self._document.version,
                },
                "contentChanges": [
                    {"range": {"start": _wire(place), "end": _wire(place)}, "text": text}
                ],
            },
        )
        return typed + text

    async def ask(self, typed: str) -> dict[str, Any] | None:
        """Ask for inline completion at the cursor; None where there is none."""
        place = self._document.place(self._start + len(typed))
        result = await self._editor.request(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": self._document.uri},
                "position": _wire(place),
                "context": {"triggerKind": AUTOMATIC},
            },
        )
        items = result["items"] if isinstance(result, dict) else result
        return items[0] if items else None

    def ghost(self, typed: str, item: dict[str, Any]) -> str:
        """Return what accepting `item` would add at the cursor; "" if it changes anything else."""
        cursor = self._start + len(typed)
        text, span = str(item["insertText"]), item.get("range")
        if span is None:
            return text
        start = self._document.offset(Place(**span["start"]))
        end = self._document.offset(Place(**span["end"]))
        before, after = self._document.text[start:cursor], self._document.text[cursor:end]
        if start > cursor or end < cursor or not text.startswith(before):
            return ""
        return text[len(before) : len(text) - len(after)] if text.endswith(after) else ""


def _wire(place: Place) -> dict[str, int]:
    return {"line": place.line, "character": place.character}


def summarize(passage: Passage, steps: Sequence[Step]) -> Summary:
    """Return the figures of a whole session, whose last step is the finished text."""
    accepted = [step for step in steps if step.accepted]
    times = sorted(step.ms for step in steps[:-1])
    typed = len(steps) - 1  # characters typed one by one
    return Summary(
        characters=len(passage.body),
        keystrokes=typed + len(accepted),
        shown=sum(1 for step in steps if step.ghost),
        accepted=len(accepted),
        accepted_characters=sum(len(step.ghost) for step in accepted),
        latency_p50_ms=times[len(times) // 2],
        latency_p95_ms=times[min(len(times) - 1, int(len(times) * 0.95))],
    )
