"""`midspan demo [FILE]`: a function typed into the real language server, live in the terminal.

Must not know the protocol: `typist` types, this shows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsp_server.cli.exits import Exit
from lsp_server.cli.files import read_text, write_text
from lsp_server.cli.output import json_option, print_json, progress
from lsp_server.cli.typist import Passage, Step, Summary, choose, summarize, type_passage

if TYPE_CHECKING:
    from rich.console import RenderableType

# Held out of the starter model's training, see benchmarks/holdout.py.
DEFAULT_MODULE, DEFAULT_FUNCTION = "mailbox", "MaildirMessage.add_flag"

LINES_BEFORE, LINES_AFTER = 8, 4  # shown around what is typed
ACCEPT_PAUSE_S = 0.6  # so that the eye can read what is about to be accepted

Show = Callable[[Step, list[Step]], None]


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--function", help="The function to type, for example Class.method.")
@click.option(
    "--speed",
    type=click.FloatRange(0),
    help="Characters per second; 0: as fast as answers come.  [default: 15, 0 if not live]",
)
@click.option("--plain", is_flag=True, help="Print a line for each accepted suggestion.")
@click.option("--svg", type=click.Path(path_type=Path), help="Save a picture of the session.")
@json_option
def demo(
    file: Path | None,
    function: str | None,
    speed: float | None,
    plain: bool,
    svg: Path | None,
    as_json: bool,
) -> int:
    """Type a function of FILE into the language server and show its ghost text, live.

    A suggestion is accepted when it is what the file really holds, else typing goes on. Without
    FILE, a file is taken from the standard library that the starter model has never seen.
    """
    path = file or _default_file()
    passage = choose(
        path, read_text(path), function or (DEFAULT_FUNCTION if file is None else None)
    )
    live = not as_json and not plain and _is_terminal()
    pace = speed if speed is not None else (15.0 if live else 0.0)
    if as_json:
        model, steps = asyncio.run(_session(passage, pace, lambda step, steps: None))
    elif live:
        model, steps = _live(passage, pace)
    else:
        model, steps = asyncio.run(_session(passage, pace, _print_accepted))
    summary = summarize(passage, steps)
    if as_json:
        print_json(_as_json(passage, model, summary))
    else:
        click.echo(summary_text(passage, model, summary))
    if svg is not None:
        _save_svg(svg, passage, model, steps, summary)
    return Exit.OK


def _default_file() -> Path:
    from benchmarks.holdout import held_out_modules

    return held_out_modules()[DEFAULT_MODULE][0]


def _is_terminal() -> bool:
    from rich.console import Console

    return Console().is_terminal


async def _session(passage: Passage, pace: float, show: Show) -> tuple[str, list[Step]]:
    """Type the passage; return the model's name and every step."""
    from backends.client import ManagerClient
    from lsp_server.cli.editor import Editor

    progress("Starting the model …")
    client = ManagerClient(client_name="midspan-demo")
    try:
        # Waits until a model is loaded, and says why where none can be.
        warm_up = {"input_prefix": "def ", "input_suffix": "\n", "n_predict": 1}
        model = str((await client.infill(warm_up))["model"])
    finally:
        await client.close()
    steps: list[Step] = []
    async with await Editor.start() as editor:
        async for step in type_passage(editor, passage):
            steps.append(step)
            show(step, steps)
            if pace:
                pause = ACCEPT_PAUSE_S if step.accepted else 1 / pace
                await asyncio.sleep(max(0.0, pause - step.ms / 1000))
    return model, steps


def _live(passage: Passage, pace: float) -> tuple[str, list[Step]]:
    from rich.live import Live

    with Live(auto_refresh=False, vertical_overflow="crop") as screen:

        def show(step: Step, steps: list[Step]) -> None:
            screen.update(frame(passage, step, steps), refresh=True)

        return asyncio.run(_session(passage, pace, show))


def _print_accepted(step: Step, _: list[Step]) -> None:
    if step.accepted:
        line = step.typed.rpartition("\n")[2].strip()
        click.echo(f"{step.ms:6.0f} ms  {line}[{step.ghost}]".replace("\n", "⏎"))


def frame(passage: Passage, step: Step, steps: list[Step]) -> RenderableType:
    """Return the picture of one moment: the code, ghost text in grey, accepted text in green."""
    from rich.panel import Panel
    from rich.syntax import Syntax

    before = "".join(passage.head.splitlines(keepends=True)[-LINES_BEFORE:])
    after = "".join(passage.tail.splitlines(keepends=True)[: 1 + LINES_AFTER]).rstrip()
    lexer = Syntax.guess_lexer(str(passage.path))
    code = before + step.typed + step.ghost + after
    shown = Syntax("", lexer, theme="ansi_dark").highlight(code)
    shown.rstrip()
    for earlier in steps:
        if earlier.accepted and earlier is not step:
            start = len(before) + len(earlier.typed)
            shown.stylize("bold green", start, start + len(earlier.ghost))
    cursor = len(before) + len(step.typed)
    shown.stylize("italic not bold bright_black", cursor, cursor + len(step.ghost))
    shown.stylize("reverse", cursor, cursor + 1)
    accepted = sum(len(earlier.ghost) for earlier in steps if earlier.accepted)
    latency = f"{step.ms:.0f} ms · " if step.ms else ""  # the finished text asks for nothing
    return Panel(
        shown,
        title=f"{passage.path.name} · {passage.name}",
        subtitle=f"{latency}{accepted} of {len(passage.body)} characters accepted",
        border_style="green" if step.accepted else "bright_black",
        padding=(0, 1),
    )


def summary_text(passage: Passage, model: str, summary: Summary) -> str:
    """Return the closing lines for people."""
    return "\n".join(
        (
            f"{passage.path.name} · {passage.name}: {summary.characters} characters, model {model}",
            f"  suggestions   {summary.shown} shown, {summary.accepted} accepted",
            f"  accepted      {summary.accepted_characters} characters "
            f"({summary.accepted_share:.0%})",
            f"  keystrokes    {summary.keystrokes} instead of {summary.characters} "
            f"({summary.saved_share:.0%} saved)",
            f"  latency       {summary.latency_p50_ms:.0f} ms median, "
            f"{summary.latency_p95_ms:.0f} ms p95, from keystroke to answer",
        )
    )


def _as_json(passage: Passage, model: str, summary: Summary) -> dict[str, Any]:
    return {
        "file": str(passage.path),
        "function": passage.name,
        "model": model,
        **asdict(summary),
        "accepted_share": round(summary.accepted_share, 4),
        "saved_share": round(summary.saved_share, 4),
    }


def _save_svg(out: Path, passage: Passage, model: str, steps: list[Step], summary: Summary) -> None:
    """Save the moment of the longest accepted suggestion, and the summary under it."""
    import io

    from rich.console import Console

    index = max(range(len(steps)), key=lambda i: len(steps[i].ghost) * steps[i].accepted)
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
    console.print(frame(passage, steps[index], steps[: index + 1]))
    console.print(summary_text(passage, model, summary), highlight=False)
    picture = console.export_svg(title="midspan demo")
    # rich links a font from a CDN; the picture makes do with the reader's own.
    write_text(out, re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))
