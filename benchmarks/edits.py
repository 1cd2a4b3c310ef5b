"""`midspan bench edits`: documents under edits, over the wire of the real language server.

Three questions. After thousands of random edits in every position encoding and with every line
ending, is the server's text the editor's? How long do 1,000 edits take? How long does one edit of
a single line of 10 MB take? The last two beside a bare pygls server, which takes turns with ours.

The text is compared by its digest (`midspan.documents`); an edit's time is from sending it to the
answer of a request sent right behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.edited_text import ENCODINGS, LINE_ENDS, EditedText, RandomEdits
from benchmarks.report import quantile, report
from lsp_server.cli.editor import MIDSPAN_LSP, Editor, ServerError

BARE_PYGLS = (sys.executable, "-P", "-m", "benchmarks.bare_pygls")
SERVERS = {"midspan": MIDSPAN_LSP, "bare_pygls": BARE_PYGLS}
URI = "file:///bench/edited.py"
CHECK_EVERY = 20  # notifications
HUGE = 10_000_000  # bytes of the one line, in UTF-8
BARE_EDITS = 3  # of a huge line: bare pygls takes seconds for one
# What the huge line is made of.
HUGE_LINES = {"ascii": "x", "wide": "字", "emoji": "x😀"}
Progress = Callable[[str], None]


class Differs(Exception):  # noqa: N818 - what was found, not an error of the benchmark
    """The server's text is not the editor's."""


async def start(command: Sequence[str], encoding: str, env: Mapping[str, str]) -> Editor:
    """Start a server that counts in `encoding`, and starts no model."""
    editor = await Editor.start(command, env)
    params = {
        "processId": None,
        "rootUri": None,
        "capabilities": {"general": {"positionEncodings": [encoding]}},
        "initializationOptions": {"autostart": False, "prefetch": False, "ledger": False},
    }
    await editor.request("initialize", params)
    await editor.notify("initialized", {})
    return editor


async def open_document(editor: Editor, text: str, version: int = 1) -> None:
    """Open the one document, or open it anew."""
    item = {"uri": URI, "languageId": "python", "version": version, "text": text}
    await editor.notify("textDocument/didOpen", {"textDocument": item})


async def change(editor: Editor, version: int, changes: Sequence[Mapping[str, Any]]) -> None:
    """Send one notification of changes."""
    document = {"uri": URI, "version": version}
    params = {"textDocument": document, "contentChanges": list(changes)}
    await editor.notify("textDocument/didChange", params)


async def compare(editor: Editor, text: EditedText, after: int) -> None:
    """Raise Differs where the server has another text than `text` after so many edits."""
    answer = await editor.request("workspace/executeCommand", {"command": "midspan.documents"})
    (found,) = answer["documents"]
    if (found["sha256"], found["characters"]) != (text.digest(), len(text.text)):
        raise Differs(f"after {after} edits")


async def same_text(
    encoding: str, ending: str, edits: int, seed: int, env: Mapping[str, str]
) -> dict[str, Any]:
    """Edit at random and compare; return how many edits, and where they differed first."""
    text = EditedText(encoding, lines_from=LINE_ENDS[ending])
    random_edits = RandomEdits(text, seed)
    text.text = random_edits.words(300)
    done = notifications = compared = 0
    differs = None
    started = time.perf_counter()
    async with await start(MIDSPAN_LSP, encoding, env) as editor:
        await open_document(editor, text.text)
        try:
            while done < edits:
                batch = random_edits.batch()
                done, notifications = done + len(batch), notifications + 1
                await change(editor, notifications + 1, batch)
                if notifications % CHECK_EVERY == 0 or done >= edits:
                    compared += 1
                    await compare(editor, text, done)
        except Differs as exc:
            differs = str(exc)
    return {
        "encoding": encoding,
        "line_ending": ending,
        "edits": done,
        "notifications": notifications,
        "compared": compared,
        "differs": differs,
        "seconds": round(time.perf_counter() - started, 2),
    }


async def handled(editor: Editor) -> None:
    """Wait until a server, ours or not, has handled what it was sent."""
    with contextlib.suppress(ServerError):  # every server answers this one, with an error
        await editor.request("workspace/executeCommand", {"command": "no.such.command"})


async def many_edits(
    command: Sequence[str], edits: int, seed: int, env: Mapping[str, str]
) -> float:
    """Return the milliseconds that a server takes for so many edits of a file of 1,000 lines."""
    opened = "".join(f"value_{n} = compute(value_{n}, {n})  # naïve\n" for n in range(1000))
    text = EditedText("utf-16", opened)
    cursor = len(text.text) // 2
    changes = []
    for n in range(edits):  # typing, and a line break now and then
        new = "\n" if n % 40 == 39 else "abcdefgé"[(n + seed) % 8]
        changes.append(text.edit(cursor, cursor, new))
        cursor += 1
    async with await start(command, "utf-16", env) as editor:
        await open_document(editor, opened)
        await handled(editor)
        started = time.perf_counter()
        for version, one in enumerate(changes, 2):
            await change(editor, version, [one])
        await handled(editor)
        return 1000 * (time.perf_counter() - started)


async def huge_line(
    command: Sequence[str], piece: str, edits: int, env: Mapping[str, str]
) -> list[float]:
    """Return the milliseconds that each of some edits in the middle of a huge line takes."""
    text = piece * (HUGE // len(piece.encode()))
    middle = len(text.encode("utf-16-le")) // 4
    times = []
    async with await start(command, "utf-16", env) as editor:
        await open_document(editor, text)
        await handled(editor)
        for n in range(edits):
            place = {"line": 0, "character": middle + n}
            started = time.perf_counter()
            await change(editor, n + 2, [{"range": {"start": place, "end": place}, "text": "y"}])
            await handled(editor)
            times.append(1000 * (time.perf_counter() - started))
    return times


async def _run(
    edits: int, runs: int, huge_edits: int, seed: int, env: Mapping[str, str], progress: Progress
) -> dict[str, Any]:
    texts: list[dict[str, Any]] = []
    for encoding in ENCODINGS:
        for ending in LINE_ENDS:
            texts.append(await same_text(encoding, ending, edits, seed + len(texts), env))
            progress(f"{encoding}, {ending}: {texts[-1]['differs'] or 'the same text'}")
    thousand: dict[str, list[float]] = {name: [] for name in SERVERS}
    for n in range(runs):
        for name, command in SERVERS.items():
            thousand[name].append(await many_edits(command, 1000, n, env))
        progress(f"1,000 edits, run {n + 1} of {runs}")
    huge: dict[str, dict[str, Any]] = {}
    for kind, piece in HUGE_LINES.items():
        huge[kind] = {}
        for name, command in SERVERS.items():
            count = huge_edits if name == "midspan" else min(huge_edits, BARE_EDITS)
            huge[kind][name] = _times(await huge_line(command, piece, count, env))
            progress(f"a line of 10 MB ({kind}), {name}: {huge[kind][name]}")
    return {
        "same_text": {
            "edits": sum(row["edits"] for row in texts),
            "compared": sum(row["compared"] for row in texts),
            "differing": [row for row in texts if row["differs"]],
            "combinations": texts,
        },
        "thousand_edits_ms": {name: _times(times) for name, times in thousand.items()},
        "huge_line_edit_ms": huge,
    }


def _times(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 2),
        "p95": round(quantile(values, 0.95), 2),
        "max": round(max(values), 2),
        "runs": len(values),
    }


def run(
    *,
    edits: int = 10_000,
    runs: int = 5,
    huge_edits: int = 50,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object; `edits` is for each combination."""
    with tempfile.TemporaryDirectory(prefix="midspan-bench-") as folder:
        env = {"MIDSPAN_RUNTIME_DIR": f"{folder}/run", "MIDSPAN_STATE_DIR": f"{folder}/state"}
        results = asyncio.run(_run(edits, runs, huge_edits, seed, env, progress))
    parameters = {"edits": edits, "runs": runs, "huge_edits": huge_edits, "seed": seed}
    return report("edits", parameters, results)
