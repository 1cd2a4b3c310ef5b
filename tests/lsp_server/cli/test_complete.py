from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends.errors import BadRequest
from lsp_server.cli.complete import Place, offset_of, parse_place
from lsp_server.cli.exits import Exit
from lsp_server.documents import Document

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

CODE = '''"""Shapes."""


class Square:
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side * self.side

    def perimeter(self):
        return\x20
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "shapes.py"
    file.write_text(CODE)
    (tmp_path / ".env").write_text("KEY=1\n")
    return file


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a.py:1:2", Place(Path("a.py"), 1, 2)),
        ("dir/a b.py:12:34", Place(Path("dir/a b.py"), 12, 34)),
        ("odd:name.py:3:4", Place(Path("odd:name.py"), 3, 4)),  # colons in the name
    ],
)
def test_parse_place_reads_file_line_column(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["a.py", "a.py:1", ":1:2", "a.py:x:2", "a.py:1:-2", "a.py:1:²"])
def test_parse_place_refuses_what_is_no_place(text: str) -> None:
    with pytest.raises(BadRequest, match="FILE:LINE:COL"):
        parse_place(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "offset"),
    [
        ("ab\ncd\n", 1, 1, 0),
        ("ab\ncd\n", 1, 3, 2),  # behind the last character
        ("ab\ncd\n", 2, 2, 4),
        ("ab\ncd\n", 3, 1, 6),  # the empty line that a final line end opens
        ("ab\r\ncd", 2, 3, 6),
        ("ab\rcd", 2, 1, 3),
        ("a\u2028b", 1, 4, 3),  # no line end in LSP or in editors
        ("😀x", 1, 2, 1),  # characters, not UTF-16 units
        ("", 1, 1, 0),
    ],
)
def test_offset_of_counts_as_editors_show(text: str, line: int, column: int, offset: int) -> None:
    document = Document("f", text, 1, "", "utf-32")
    assert offset_of(document, Place(Path("f"), line, column)) == offset


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (0, 1, "lines are 1 to 2"),
        (3, 1, "lines are 1 to 2"),
        (1, 0, "columns are 1 to 3"),
        (1, 4, "columns are 1 to 3"),
    ],
)
def test_offset_of_refuses_places_outside(line: int, column: int, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        offset_of(Document("f", "ab\nc", 1, "", "utf-32"), Place(Path("f"), line, column))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing.py:1:1", "cannot be read"),
        (".:1:1", "is a directory"),
        ("shapes.py:99:1", "Line 99 is outside"),
        ("shapes.py:1:99", "Column 99 is outside"),
        ("shapes.py", "FILE:LINE:COL"),
        (".env:1:1", "secret"),  # never leaves the process, also when asked for by hand
    ],
)
def test_complete_explains_bad_arguments_without_starting_a_manager(
    midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: OneObject,
    code: Path,
    place: str,
    said: str,
) -> None:
    done = run_midspan(["complete", place, "--json"], midspan_env, cwd=code.parent)
    assert done.returncode == Exit.USAGE
    assert said in one_object(done.stdout)["error"]["message"]
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert os.listdir(midspan_env["MIDSPAN_RUNTIME_DIR"]) == []


@pytest.mark.engine
def test_complete_json_has_every_field_and_reuses_the_prompt(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, code: Path
) -> None:
    arguments = ["complete", f"{code}:12:16", "--json"]
    first = run_midspan(arguments, shared_midspan_env)
    assert first.returncode in (Exit.OK, Exit.NO_SUGGESTION), first.stderr
    answer = one_object(first.stdout)
    assert {"text", "model", "finish_reason", "usage", "timings"} <= set(answer)
    assert answer["model"] == "starter"
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert answer["usage"]["completion_tokens"] > 0
    again = one_object(run_midspan(arguments, shared_midspan_env).stdout)
    assert again["text"] == answer["text"]
    assert again["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert again["usage"]["cached_tokens"] >= again["usage"]["prompt_tokens"] - 2


@pytest.mark.engine
def test_complete_shows_the_lines_around(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, code: Path
) -> None:
    # Where a model has something to say depends on the model.
    for column in (27, 16, 21, 9, 12):
        place = f"{code}:9:{column}"  # return self.side * self.side
        done = run_midspan(["complete", place, "--json"], shared_midspan_env)
        if text := one_object(done.stdout)["text"]:
            break
    assert text
    shown = run_midspan(["complete", place], shared_midspan_env)
    assert shown.returncode == Exit.OK, shown.stderr
    line = CODE.splitlines()[8][: column - 1] + text.split("\n")[0]
    assert f"    9 {line}" in shown.stdout
    assert "    5     def __init__(self, side):" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.engine
def test_complete_names_an_unknown_model(
    shared_midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, code: Path
) -> None:
    done = run_midspan(
        ["complete", f"{code}:9:21", "--model", "no-such", "--json"], shared_midspan_env
    )
    assert done.returncode == Exit.USAGE
    assert one_object(done.stdout)["error"]["kind"] == "unknown_model"
    assert "no-such" in done.stderr


@pytest.mark.engine
def test_complete_reports_a_corrupt_model(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, code: Path
) -> None:
    broken = Path(midspan_env["MIDSPAN_MODELS_DIR"], "broken.gguf")
    broken.write_bytes(b"GGUF\x03\x00\x00\x00 and then nothing")
    env = midspan_env | {"MIDSPAN_COMPLETION_MODEL": "broken"}
    done = run_midspan(["complete", f"{code}:9:21", "--json"], env)
    assert done.returncode == Exit.UNAVAILABLE
    assert one_object(done.stdout)["error"]["kind"] == "model_file"
    assert "Traceback" not in done.stderr


def test_complete_without_an_engine_says_which_extra_to_add(
    midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: OneObject,
    code: Path,
    tmp_path: Path,
) -> None:
    # Stands for an environment that nothing to run a GGUF was ever installed in.
    hidden = "import sys\nsys.modules['llama_cpp'] = sys.modules['xllamacpp'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_midspan(["complete", f"{code}:9:21", "--json"], midspan_env | {"PYTHONPATH": path})
    assert done.returncode == Exit.UNAVAILABLE
    error = one_object(done.stdout)["error"]
    assert error["kind"] == "engine_missing"
    assert 'pip install "midspan[llama-cpp]"' in error["message"]


def test_complete_survives_a_manager_that_cannot_start(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, code: Path
) -> None:
    folder = Path(midspan_env["MIDSPAN_RUNTIME_DIR"])
    folder.chmod(0o755)  # others could enter: refused
    done = run_midspan(["complete", f"{code}:9:21", "--json"], midspan_env)
    folder.chmod(0o700)
    assert done.returncode == Exit.UNAVAILABLE
    error = one_object(done.stdout)["error"]
    assert error["kind"] == "manager_unavailable"
    assert "MIDSPAN_RUNTIME_DIR" in error["message"]
