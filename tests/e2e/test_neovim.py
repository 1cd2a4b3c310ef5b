"""Neovim with the plugin in a real terminal: keys in, the screen and the buffer out.

Most tests have the real language server, manager and starter model behind them; those of what no
model does on demand (several suggestions of given texts, late answers) a scripted server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynvim", reason="pynvim is not installed")
pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from tests.conftest import Env, private_env, stop_manager
from tests.e2e.neovim import KEYS, PATTERN, PLUGIN, Neovim, Start, argv, start, version

__all__ = ["argv", "start"]

engine = pytest.mark.engine
pytestmark = pytest.mark.timeout(120)
ESCAPE, CTRL_U = "\x1b", "\x15"
SERVER = Path(__file__).with_name("scripted_server.py")

OTHERS = ("dismiss", "suggest")
TAB, WORD, LINE, NEXT, PREVIOUS, DISMISS = "\t", "\x06", "\n", "\x0e", "\x10", "\x18"
SUGGEST = "\x02"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Env]:
    """An environment whose manager serves all tests here."""
    env = private_env(tmp_path_factory.mktemp("midspan"))
    shutil.copy(tiny_model, env["MIDSPAN_MODELS_DIR"])
    yield env
    stop_manager(env)


class Script:
    """What the scripted server answers, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, str(SERVER), str(folder)]

    def answer(
        self, *items: str, delay: float = 0, replace: int = 0, **commands: dict[str, Any]
    ) -> None:
        script = {"items": items, "delay": delay, "replace": replace, "commands": commands}
        (self.folder / "script.json").write_text(json.dumps(script))

    def told(self, method: str) -> list[dict[str, Any]]:
        lines = (self.folder / "told.jsonl").read_text("utf-8").splitlines()
        messages = [json.loads(line) for line in lines]
        return [found["params"] for found in messages if found.get("method") == method]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    folder = tmp_path / "script"
    folder.mkdir()
    script = Script(folder)
    script.answer()
    return script


# --- the real server ---------------------------------------------------------------------------


@engine
def test_typing_shows_ghost_text_and_tab_inserts_it(start: Start) -> None:
    neovim = start()
    neovim.type("ret")
    ghost = neovim.wait_ghost()
    assert ghost.startswith("urn first")
    screen = neovim.terminal.screen
    row = screen.buffer[screen.cursor.y]
    assert row[screen.cursor.x].fg != row[screen.cursor.x - 1].fg  # it looks like no text
    assert neovim.cursor_line == "    ret"
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line == "    ret" + ghost)
    compile("\n".join(neovim.lines), "new.py", "exec")
    neovim.type(ESCAPE + "u")  # what was accepted, and not what was typed
    neovim.terminal.wait(lambda: neovim.cursor_line == "    ret")


@engine
def test_typing_on_keeps_the_ghost_text_and_another_text_takes_it_away(start: Start) -> None:
    neovim = start()
    neovim.type("ret")
    ghost = neovim.wait_ghost()
    neovim.type(ghost[0])
    assert neovim.ghost == ghost[1:]
    neovim.type("§§")
    neovim.terminal.wait(lambda: ghost[1:] not in neovim.shown_line)


@engine
def test_time_from_the_key_to_visible_ghost_text(
    start: Start, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    neovim = start()
    neovim.type("r")
    neovim.wait_ghost()
    times = []
    keys = [key for name in ("total", "count", "value") for key in (name, *f"return {name}")]
    for key in keys:
        if len(key) > 1:  # another function, as anybody would begin it
            line = f"{ESCAPE}o\r{CTRL_U}def {key}_of(items):\r{CTRL_U}    {key} = 0\r{CTRL_U}    "
            neovim.type(line)
            neovim.terminal.pump(0.5)
            continue
        # Text typed along would be repainted without anybody being asked.
        neovim.type(DISMISS)
        neovim.wait_no_ghost()
        times += neovim.times_to_ghost(key, patience=3)
    times.sort()
    asked = sum(len(key) == 1 for key in keys)
    p50, p95 = (times[int(part * (len(times) - 1))] for part in (0.5, 0.95))
    name = ".".join(map(str, version(argv)))
    with capsys.disabled():
        sys.stdout.write(
            f"\nNeovim {name}, starter model, key to visible ghost text: {len(times)} of {asked} "
            f"keys, p50 {p50:.0f} ms, p95 {p95:.0f} ms\n"
        )
    assert len(times) >= asked // 4
    assert p50 < 5000  # it hangs


@engine
def test_words_are_accepted_one_by_one(start: Start) -> None:
    neovim = start()
    neovim.type("ret")
    ghost = neovim.wait_ghost()
    words = re.findall(r"\s*\S+", ghost)
    for count in range(1, 3):
        neovim.type(WORD)
        line = "    ret" + "".join(words[:count])
        neovim.terminal.wait(lambda line=line: neovim.cursor_line == line)
        neovim.wait_ghost_of("".join(words[count:]))


@engine
def test_dismissed_ghost_text_stays_away_until_the_next_key(start: Start) -> None:
    neovim = start()
    neovim.type("re")
    neovim.wait_ghost()
    neovim.type(DISMISS)
    neovim.wait_no_ghost()
    neovim.terminal.pump(0.5)
    assert not neovim.visible()
    neovim.type("t")
    assert neovim.wait_ghost()


@engine
def test_tab_is_a_tab_where_there_is_no_suggestion(start: Start) -> None:
    neovim = start("", init=KEYS + "vim.g.midspan_enabled = false\nvim.o.expandtab = false\n")
    neovim.type(TAB + "x")
    assert neovim.cursor_line.strip() == "x"
    assert neovim.cursor_line != "x"


@engine
def test_model_is_switched_by_command_and_the_status_line_shows_it(
    start: Start, tiny_model: Path
) -> None:
    neovim = start()
    neovim.type("ret")
    neovim.wait_ghost()
    assert tiny_model.stem in neovim.api.call("getcompletion", "Midspan use ", "cmdline")
    neovim.type(f"{ESCAPE}:Midspan use {tiny_model.stem}\r")
    neovim.wait_message(f"{tiny_model.stem} completes now")
    assert neovim.lua("return require('midspan').statusline()") == f"midspan: {tiny_model.stem}"
    neovim.type(":Midspan status\r")
    neovim.wait_message(f"Normal, model {tiny_model.stem}")
    neovim.type(":Midspan use starter\r")
    neovim.wait_message("starter completes now")
    neovim.type("A")
    assert neovim.wait_ghost()


@engine
def test_unknown_names_are_told(start: Start) -> None:
    neovim = start()
    neovim.type(f"{ESCAPE}:Midspan use nothing-like-it\r")
    neovim.wait_message("nothing-like-it")
    neovim.type(":Midspan nonsense\r")
    neovim.wait_message("there is no `:Midspan nonsense`; there are apply, cancel, complete")
    neovim.type(":Midspan toggle nonsense\r")
    neovim.wait_message("`toggle` takes all, buffer or filetype")
    neovim.type(":Midspan models\r")
    neovim.wait_message("starter (in use")


@engine
def test_toggle_takes_suggestions_away_and_brings_them_back(start: Start) -> None:
    neovim = start()
    neovim.type("re")
    neovim.wait_ghost()
    for scope in ("all", "buffer", "filetype"):
        neovim.type(f"{ESCAPE}:Midspan toggle {scope}\r")
        neovim.wait_message("are off")
        assert neovim.lua("return require('midspan').statusline()") == "midspan: off"
        neovim.type("A")
        neovim.terminal.pump(0.6)
        assert not neovim.visible()
        neovim.type(f"{ESCAPE}:Midspan toggle {scope}\r")
        neovim.wait_message("are on")
        neovim.type("A")
        assert neovim.wait_ghost()
        neovim.lua("told = {}")


@engine
def test_code_actions_fill_in_and_complete_a_function(start: Start) -> None:
    neovim = start(PATTERN + "return \n\n\ndef divide(first, second):\n    pass\n")
    neovim.type(ESCAPE)
    neovim.api.current.window.cursor = (10, 10)
    neovim.type(":Midspan fill\r")
    neovim.terminal.wait(lambda: neovim.lines[9] != "    return ", 60)
    assert neovim.lines[9].startswith("    return first")
    neovim.api.current.window.cursor = (len(neovim.lines), 4)
    neovim.type(":Midspan complete-function\r")
    neovim.terminal.wait(lambda: "pass" not in "\n".join(neovim.lines), 60)
    compile("\n".join(neovim.lines), "new.py", "exec")
    neovim.api.current.window.cursor = (3, 0)
    neovim.type(":Midspan complete-function\r")
    neovim.wait_message("the cursor is in no function")
    neovim.type(":Midspan kernel triton\r")
    neovim.wait_message("There is no function at line 3.")


@engine
def test_edit_says_that_the_starter_cannot_chat(start: Start) -> None:
    neovim = start(PATTERN + "return first * second\n")
    neovim.type(f"{ESCAPE}:Midspan edit Say what it returns.\r")
    neovim.wait_message("starter can't chat")
    assert neovim.api.eval("tabpagenr('$')") == 1
    assert neovim.lines[-1] == "    return first * second"


def type_until_ghost(neovim: Neovim, gone: int | None = None) -> None:
    """Type new lines until one gets ghost text, from another manager than the one `gone`."""
    for number in range(30):
        neovim.type(f"{ESCAPE}o\r{CTRL_U}def f{number}(first, second):\r{CTRL_U}    ret")
        neovim.terminal.pump(1.5)
        if neovim.visible() and neovim.manager_pid() not in (None, gone):
            return
        neovim.type("urn first + second")
    status = neovim.lua("return require('midspan').status()")
    raise AssertionError(f"{status}; the screen:\n{neovim.terminal.text}")


@engine
def test_killed_server_and_manager_come_back_while_typing_goes_on(start: Start) -> None:
    neovim = start()
    neovim.type("r")
    neovim.wait_ghost()
    server = neovim.server_pid()
    os.kill(server, signal.SIGKILL)
    neovim.type("e")
    neovim.wait_attached()
    type_until_ghost(neovim)
    assert neovim.server_pid() != server
    manager = neovim.manager_pid()
    assert manager is not None
    os.kill(manager, signal.SIGKILL)
    type_until_ghost(neovim, gone=manager)
    assert neovim.cursor_line.endswith("ret")
    assert neovim.wait_ghost().startswith("urn")  # for the text as it is now


@engine
def test_crlf_emoji_and_tabs_survive_an_accept(start: Start, tmp_path: Path) -> None:
    text = PATTERN.replace("    ", "\t").replace("def add", "# 😀 字 é\ndef add")
    neovim = start(text.replace("\n", "\r\n"))
    neovim.type("ret")
    ghost = neovim.wait_ghost()
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line == "\tret" + ghost)
    neovim.type(f"{ESCAPE}:w\r")
    written = tmp_path / "new.py"
    neovim.terminal.wait(lambda: written.read_bytes().endswith(ghost.encode() + b"\r\n"))
    assert b"\n" not in written.read_bytes().replace(b"\r\n", b"")
    assert written.read_bytes().startswith("# 😀 字 é\r\n".encode())


@engine
def test_ghost_text_in_the_middle_of_a_line_moves_its_rest_aside(start: Start) -> None:
    neovim = start(PATTERN + "return first \nprint(multiply(1, 2))\n", name="middle.py")
    neovim.type(ESCAPE)
    neovim.api.current.window.cursor = (10, 0)
    neovim.type("A[]" + ESCAPE + "i* se")
    ghost = neovim.wait_ghost()
    assert ghost.endswith("]")
    assert neovim.cursor_line.endswith("[* se]")
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line.endswith("* se" + ghost))


@engine
def test_checkhealth_tells_what_is_right(start: Start) -> None:
    neovim = start()
    neovim.type("ret")
    neovim.wait_ghost()
    neovim.type(f"{ESCAPE}:checkhealth midspan\r")
    neovim.terminal.wait(lambda: "midspan: keys" in "\n".join(neovim.lines))
    report = "\n".join(neovim.lines)
    assert re.search(r"OK:?\W+Neovim 0\.\d+\.\d+: .*draws the ghost text", report)
    assert re.search(r"OK:?\W+the options are right", report)
    assert re.search(r"OK:?\W+client \d+, positions in utf-", report)
    assert re.search(r"OK:?\W+Normal, model starter", report)
    assert "ERROR" not in report


def test_checkhealth_tells_what_is_wrong(argv: list[str], tmp_path: Path, env: Env) -> None:
    neovim = Neovim.start(argv, tmp_path, env, cmd=["no-such-midspan", "lsp"], debounce_ms="soon")
    try:
        neovim.type(":checkhealth midspan\r")
        neovim.terminal.wait(lambda: "midspan: keys" in "\n".join(neovim.lines))
        report = "\n".join(neovim.lines)
        assert re.search(r"ERROR:?\W+`debounce_ms` must be a number of milliseconds", report)
        assert re.search(r"ERROR:?\W+the command `no-such-midspan` was not found", report)
    finally:
        neovim.close()


def test_lsp_enable_alone_starts_the_server(start: Start, argv: list[str]) -> None:
    if version(argv) < (0, 11):
        pytest.skip("vim.lsp.enable is of Neovim 0.11")
    neovim = start(init=KEYS + "vim.lsp.enable('midspan')\n", autostart=False)
    assert neovim.lua("return #vim.lsp.get_clients()") == 1
    neovim.type(f"{ESCAPE}:edit other.py\r")
    neovim.wait_attached()
    assert neovim.lua("return #vim.lsp.get_clients()") == 1


# --- the scripted server -----------------------------------------------------------------------


def test_events_are_told_as_the_user_sees_and_accepts(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command)
    script.answer("wört 😀 two three")
    neovim.type(" ")
    neovim.wait_ghost_of("wört 😀 two three")
    neovim.terminal.wait(lambda: script.told("textDocument/didShowCompletion"))
    (shown,) = script.told("textDocument/didShowCompletion")
    assert shown["item"]["command"]["arguments"] == ["id-0"]
    for line in ("x wört", "x wört 😀"):
        neovim.type(WORD)
        neovim.terminal.wait(lambda line=line: neovim.cursor_line.startswith(line))
    partial = "textDocument/didPartiallyAcceptCompletion"
    neovim.terminal.wait(lambda: len(script.told(partial)) >= 2)
    lengths = [params["acceptedLength"] for params in script.told(partial)]
    assert lengths == [4, 7]  # UTF-16 units of the item so far
    assert not script.told("workspace/executeCommand")
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line == "x wört 😀 two three")
    neovim.terminal.wait(lambda: script.told("workspace/executeCommand"))
    (accepted,) = script.told("workspace/executeCommand")
    assert accepted == {"command": "midspan.didAccept", "arguments": ["id-0"]}


def test_lines_are_accepted_one_by_one(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command)
    script.answer("one:\r\n\ttwo\r\nthree")
    neovim.type(" ")
    neovim.wait_ghost_of("one:")
    _, column = neovim.terminal.find("two")
    assert column == neovim.api.eval("&tabstop")
    for lines in (["x one:"], ["x one:", "\ttwo"], ["x one:", "\ttwo", "three"]):
        script.answer()
        neovim.type(LINE)
        neovim.terminal.wait(lambda lines=lines: neovim.lines == lines)
    neovim.wait_no_ghost()


def test_suggestions_are_cycled(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command, ghost_text="own")
    script.answer("one", "two", "three")
    neovim.type(" ")
    neovim.wait_ghost_of("one")
    for key, shown in ((NEXT, "two (2/3)"), (NEXT, "three (3/3)"), (NEXT, "one (1/3)")):
        neovim.type(key)
        neovim.wait_ghost_of(shown)
    neovim.type(PREVIOUS + PREVIOUS)
    neovim.wait_ghost_of("two (2/3)")
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line == "x two")
    neovim.terminal.wait(lambda: script.told("workspace/executeCommand"))
    assert script.told("workspace/executeCommand")[0]["arguments"] == ["id-1"]


def test_suggestions_are_asked_for_by_hand(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command, ghost_text="own", debounce_ms=5000)
    script.answer("one", "two")
    neovim.type(" ")
    neovim.terminal.pump(0.5)
    assert not neovim.visible()
    neovim.type(SUGGEST)
    neovim.wait_ghost_of("one")
    kinds = [p["context"]["triggerKind"] for p in script.told("textDocument/inlineCompletion")]
    assert kinds == [1]


def test_subcommands_and_their_arguments_are_completed(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command)

    def completed(line: str) -> list[str]:
        return list(neovim.api.call("getcompletion", line, "cmdline"))

    every = completed("Midspan ")
    assert {"models", "status", "toggle", "kernel", "edit", "pull", "cancel"} <= set(every)
    assert completed("Midspan to") == ["toggle"]
    assert completed("Midspan toggle ") == ["all", "buffer", "filetype"]
    assert completed("1,2Midspan ed") == ["edit"]
    assert completed("Midspan kernel ") == ["c", "cuda", "numba", "triton"]
    assert completed("Midspan kernel c x") == []
    help_text = (PLUGIN / "doc" / "midspan.txt").read_text()
    assert [name for name in every if f"Midspan {name}" not in help_text] == []


def kernel_answer(folder: Path, **more: object) -> dict[str, Any]:
    texts = {"add_triton.py": "# kernel\n", "test_add_triton.py": "# its test\n"}
    return {
        "success": True,
        "name": "add_triton",
        "message": "add was verified",
        "statement": "verified on CPU interpreter, 24 cases",
        "files": [{"uri": (folder / name).as_uri(), "text": text} for name, text in texts.items()],
        **more,
    }


def test_kernel_is_shown_before_its_files_are_written(
    start: Start, script: Script, tmp_path: Path
) -> None:
    neovim = start("def add(x):\n    return x", cmd=script.command)
    guess = {"name": "add", "shapes": "x: (N,) float32", "guessed": True}
    answer = kernel_answer(tmp_path)
    script.answer(**{"midspan.kernel.shapes": guess, "midspan.kernel.generate": answer})
    neovim.type(f"{ESCAPE}:Midspan kernel\r")
    neovim.terminal.wait("2: c")
    neovim.type("2\r")
    neovim.terminal.wait("Shapes: x: (N,) float32")
    neovim.type("\x08" * len("float32") + "float16\r")
    neovim.wait_message("verified on CPU interpreter, 24 cases; `:Midspan apply` writes the files")
    asked = script.told("workspace/executeCommand")[-1]
    assert asked["arguments"] == [
        {
            "uri": (tmp_path / "new.py").as_uri(),
            "line": 1,
            "language": "c",
            "shapes": "x: (N,) float16",
        }
    ]
    neovim.terminal.wait("# its test")
    neovim.terminal.wait("# kernel")
    assert not (tmp_path / "add_triton.py").exists()
    (tmp_path / "test_add_triton.py").write_text("mine")
    neovim.type(":Midspan apply\r")
    neovim.wait_message("test_add_triton.py is there by now")
    assert not (tmp_path / "add_triton.py").exists()
    (tmp_path / "test_add_triton.py").unlink()
    neovim.type(":Midspan apply\r")
    neovim.terminal.wait(lambda: neovim.api.eval("expand('%:t')") == "add_triton.py")
    assert (tmp_path / "add_triton.py").read_bytes() == b"# kernel\n"
    assert (tmp_path / "test_add_triton.py").read_bytes() == b"# its test\n"
    assert neovim.api.eval("tabpagenr('$')") == 1


def test_kernel_that_cannot_be_made_is_told(start: Start, script: Script, tmp_path: Path) -> None:
    neovim = start("def add(x):\n    return x", cmd=script.command)
    neovim.type(f"{ESCAPE}:Midspan kernel pascal\r")
    neovim.wait_message("`kernel` takes triton, c, numba, cuda, not pascal")
    failed = kernel_answer(tmp_path, success=False, files=[], message="no kernel of add is right")
    script.answer(**{"midspan.kernel.generate": failed})
    neovim.type(":Midspan kernel triton x: (N, 8) float16, y: (8,)\r")
    neovim.wait_message("no kernel of add is right")
    asked = script.told("workspace/executeCommand")[-1]["arguments"][0]
    assert asked["shapes"] == "x: (N, 8) float16, y: (8,)"
    there = kernel_answer(tmp_path, files=[])
    script.answer(**{"midspan.kernel.generate": there})
    neovim.type(":Midspan kernel triton x: (N, 8) float16\r")
    neovim.wait_message("add_triton.py is there already, with the same kernel: verified on")


def type_for_late_answer(neovim: Neovim, script: Script, answer: str) -> None:
    """Type a key; what it asked for is under way and comes a second later."""
    asked = "textDocument/inlineCompletion"
    neovim.terminal.wait(lambda: script.told(asked))
    before = len(script.told(asked))
    script.answer(answer, delay=1.0)
    neovim.type(" ")
    neovim.terminal.wait(lambda: len(script.told(asked)) > before)


def test_late_answers_are_dropped_and_earlier_requests_cancelled(
    start: Start, script: Script
) -> None:
    neovim = start("x", cmd=script.command)
    type_for_late_answer(neovim, script, "stale")
    script.answer("fresh")
    neovim.type("y")
    neovim.wait_ghost_of("fresh")
    neovim.terminal.pump(1.2)
    assert neovim.ghost == "fresh"
    assert script.told("$/cancelRequest")


def test_a_suggestion_that_is_dismissed_before_it_is_there_stays_away(
    start: Start, script: Script
) -> None:
    neovim = start("x", cmd=script.command)
    type_for_late_answer(neovim, script, "late")
    neovim.type(DISMISS)
    neovim.terminal.pump(1.5)
    assert not neovim.visible()
    assert neovim.ghost == ""
    script.answer("next")
    neovim.type("y")
    neovim.wait_ghost_of("next")


def test_text_behind_the_cursor_is_replaced(start: Start, script: Script) -> None:
    neovim = start("f()", cmd=script.command)
    script.answer("call())", replace=1)
    neovim.type("\x1b[D")
    neovim.wait_ghost_of("call())")
    neovim.type(TAB)
    neovim.terminal.wait(lambda: neovim.cursor_line == "f(call())")


def test_nothing_is_sent_where_suggestions_are_not_wanted(start: Start, script: Script) -> None:
    neovim = start("x", cmd=script.command, filetypes={"markdown": False})
    script.answer("ghost")
    neovim.type(" ")
    neovim.wait_ghost_of("ghost")
    neovim.type(f"{ESCAPE}:edit notes.md\r")
    neovim.type("Asecret ")
    neovim.type(f"{ESCAPE}:set nomodified | enew | set buftype=prompt\rAsecret ")
    neovim.type(f"{ESCAPE}:enew! | let b:midspan_enabled = v:false | setf python\r")
    neovim.type("Asecret ")
    neovim.terminal.pump(0.5)
    assert not neovim.visible()
    assert "secret" not in (script.folder / "told.jsonl").read_text("utf-8")


def test_server_that_keeps_ending_is_left_off(argv: list[str], tmp_path: Path, env: Env) -> None:
    (tmp_path / "new.py").write_text("x")
    broken = [sys.executable, "-c", "import sys; sys.exit(3)"]
    neovim = Neovim.start(argv, tmp_path, env, "new.py", cmd=broken)
    try:
        neovim.wait_message("the language server keeps ending")
        neovim.type("Atyping goes on")
        neovim.terminal.wait(lambda: neovim.cursor_line == "xtyping goes on")
    finally:
        neovim.close()


# --- the plugin's files ------------------------------------------------------------------------


def test_no_key_is_mapped_and_wrong_options_are_told(
    argv: list[str], tmp_path: Path, env: Env
) -> None:
    code = """
    local function maps()
      local found = {}
      for _, mode in ipairs({ 'n', 'i', 'v', 's', 'o', 'c', 't' }) do
        for _, map in ipairs(vim.api.nvim_get_keymap(mode)) do
          found[#found + 1] = mode .. ' ' .. map.lhs
        end
      end
      return found
    end
    local before = maps()
    vim.cmd('runtime plugin/midspan.lua')
    require('midspan').setup({})
    local added = vim.tbl_filter(function(map)
      return not vim.tbl_contains(before, map)
    end, maps())
    local told = {}
    vim.notify = function(message) told[#told + 1] = message end
    require('midspan').setup({ debounce = 1, keys = { accept = 1 }, ghost_text = 'blue' })
    require('midspan').setup({ keys = { accept = '<Tab>' } })
    added[#added + 1] = vim.fn.maparg('<Tab>', 'i', false, true).desc
    io.stdout:write(vim.fn.json_encode({ added, told }))
    """
    file = tmp_path / "check.lua"
    file.write_text(code)
    done = subprocess.run(
        [
            *(*argv, "--headless", "--clean", "--cmd", f"set rtp^={PLUGIN} noloadplugins"),
            *("-c", f"luafile {file}", "-c", "qa!"),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    added, told = json.loads(done.stdout)
    assert sorted(added[:-1]) == sorted(
        f"i <Plug>(midspan-{name})"
        for name in ("accept", "accept-word", "accept-line", "next", "previous", *OTHERS)
    )
    assert added[-1] == "midspan: accept"
    (message,) = told
    assert "there is no option `debounce`; the options are autostart, cmd" in message
    assert "`keys` must be a table of keys by action" in message
    assert "`ghost_text` must be 'auto', 'native' (Neovim 0.12), 'own' or 'off'" in message


def test_every_help_tag_that_is_referred_to_exists(argv: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "doc"
    shutil.copytree(PLUGIN / "doc", folder, ignore=shutil.ignore_patterns("tags"))
    subprocess.run(
        [*argv, "--headless", "--clean", "-c", f"helptags {folder}", "-c", "qa!"],
        check=True,
        timeout=60,
    )
    tags = {line.split("\t")[0] for line in (folder / "tags").read_text().splitlines()}
    texts = [path.read_text() for path in (*PLUGIN.rglob("*.lua"), *PLUGIN.rglob("*.txt"))]
    used = {
        tag
        for text in texts
        for pair in re.findall(r"\|(midspan[\w-]*)\||:help (midspan[\w-]*)", text)
        for tag in pair
        if tag
    }
    assert used
    assert used <= tags


def test_lua_is_free_of_warnings() -> None:
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        pytest.skip("luacheck is not installed: apt-get install lua-check")
    done = subprocess.run(
        [luacheck, "--no-color", "."], cwd=PLUGIN, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
