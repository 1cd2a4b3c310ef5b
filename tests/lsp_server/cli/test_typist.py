from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends.errors import BadRequest
from lsp_server.cli.editor import Editor
from lsp_server.cli.exits import Exit
from lsp_server.cli.typist import Passage, Step, choose, summarize, type_passage

SCRIPTED = (sys.executable, "-m", "tests.lsp_server.cli.scripted_server")

FILE = '''import os


def short():
    return 1


class Tree:
    @property
    def height(self):
        """The height."""
        heights = [child.height for child in self.children]
        if not heights:
            return 1
        return 1 + max(heights)


def last():
    return 2
'''


def test_choose_takes_the_first_function_of_a_handy_size() -> None:
    passage = choose(Path("tree.py"), FILE)
    assert passage.name == "Tree.height"
    assert passage.body.startswith("    @property\n")
    assert passage.body.endswith("return 1 + max(heights)")
    assert passage.tail.startswith("\n\n\ndef last")
    assert passage.text == FILE


def test_choose_counts_lines_as_python_does() -> None:
    passage = choose(Path("tree.py"), "x = 1\n\x0c\n# \u2028\n" + FILE, "last")
    assert passage.body == "def last():\n    return 2"


def test_choose_takes_the_named_function() -> None:
    passage = choose(Path("tree.py"), FILE, "last")
    assert (passage.body, passage.tail) == ("def last():\n    return 2", "\n")


def test_choose_refuses_an_unknown_function() -> None:
    with pytest.raises(BadRequest, match="no function named nothing"):
        choose(Path("tree.py"), FILE, "nothing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.rs", "fn main() {\n    body();\n}\n"),  # no Python
        ("a.py", "def broken(:\n    pass\n"),  # no Python that can be parsed
        ("a.py", "x = 1\ny = 2\n"),  # no function
    ],
)
def test_choose_takes_a_stretch_of_any_other_file(name: str, text: str) -> None:
    passage = choose(Path(name), text)
    assert passage.name.startswith("lines ")
    assert passage.body
    assert passage.text == text


@pytest.mark.parametrize("text", ["", "x", "\n\n\n\n"])
def test_choose_refuses_a_file_with_nothing_to_type(text: str) -> None:
    with pytest.raises(BadRequest):
        choose(Path("a.txt"), text)


async def _steps(passage: Passage, **script: str) -> tuple[list[Step], Editor]:
    editor = await Editor.start(SCRIPTED, {"BODY": passage.body, **script})
    async with editor:
        return [step async for step in type_passage(editor, passage)], editor


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
async def test_typist_accepts_what_the_file_holds(tmp_path: Path, ending: str) -> None:
    body = "def café():\n    return '😀' + x".replace("\n", ending)
    passage = Passage(tmp_path / "a.py", "café", f"x = 1{ending}", body, f"{ending}y = 2{ending}")
    steps, editor = await _steps(passage)
    assert steps[-1].typed == body
    accepted = [step for step in steps if step.accepted]
    assert len(accepted) == 3
    assert all(body.startswith(step.typed + step.ghost) for step in accepted)
    assert not any(step.typed.endswith("\r") for step in steps)
    assert len(steps) - 1 == len(accepted)  # each key was followed by an accept
    # The command that comes with an item is run on every accept.
    told = [method for method, _ in editor.notifications if method == "window/logMessage"]
    assert len(told) == len(accepted)


async def test_typist_types_on_where_suggestions_are_wrong(tmp_path: Path) -> None:
    passage = Passage(tmp_path / "a.py", "f", "", "def f():\n    return 12345", "\n")
    steps, _ = await _steps(passage, WRONG_AT="0")
    assert not any(step.accepted for step in steps)
    assert all(step.ghost == "wrong" for step in steps[:-1])
    assert len(steps) == len(passage.body) + 1
    summary = summarize(passage, steps)
    assert summary.keystrokes == summary.characters == len(passage.body)
    assert (summary.accepted_share, summary.saved_share) == (0, 0)


def test_summarize_counts_an_accept_as_one_keystroke() -> None:
    passage = Passage(Path("a"), "f", "", "abcdefgh", "")
    steps = [
        Step("a", "x", False, 10.0),
        Step("ab", "cdef", True, 30.0),
        Step("abcdefg", "", False, 20.0),
        Step("abcdefgh", "", False, 20.0),
        Step("abcdefgh", "", False, 0.0),
    ]
    summary = summarize(passage, steps)
    assert (summary.shown, summary.accepted, summary.accepted_characters) == (2, 1, 4)
    assert summary.keystrokes == 5
    assert summary.accepted_share == 0.5
    assert summary.saved_share == 1 - 5 / 8
    assert (summary.latency_p50_ms, summary.latency_p95_ms) == (20.0, 30.0)


@pytest.mark.engine
def test_demo_types_a_held_out_function_with_the_real_server(
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    done = run_midspan(["demo", "--json"], shared_midspan_env)
    assert done.returncode == Exit.OK, done.stderr
    answer = one_object(done.stdout)
    assert answer["model"] == "starter"
    assert answer["shown"] > 0
    assert answer["keystrokes"] == (
        answer["characters"] - answer["accepted_characters"] + answer["accepted"]
    )
    assert answer["latency_p95_ms"] >= answer["latency_p50_ms"] > 0
    counted = run_midspan(["stats", "--json"], shared_midspan_env)
    assert one_object(counted.stdout)["total"]["answers"] == 0  # nobody typed


@pytest.mark.engine
def test_demo_plain_is_readable_without_a_terminal(
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "tree.py").write_text(FILE)
    picture = tmp_path / "demo.svg"
    done = run_midspan(
        ["demo", str(tmp_path / "tree.py"), "--plain", "--svg", str(picture)], shared_midspan_env
    )
    assert done.returncode == Exit.OK, done.stderr
    assert "tree.py · Tree.height: " in done.stdout
    assert "\x1b" not in done.stdout
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    assert "height" in drawn
    assert "cdn" not in drawn  # a README's picture fetches nothing
