"""`midspan kernel` as a process: what it prints, writes and returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BadRequest
from lsp_server.cli.exits import Exit
from lsp_server.cli.kernel import parse_target
from lsp_server.kernels import evidence, files

pytestmark = pytest.mark.kernels

SOURCE = """\
import torch
from torch import Tensor


def scale(x: Tensor, factor: float = 0.5) -> Tensor:
    # x: (N, 3)
    return x * factor


def running(x: Tensor):
    return x.cumsum(-1)
"""


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("kernels") / "ops.py"
    file.write_text(SOURCE)
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.py::f", (Path("a.py"), "f")),
        ("b/a.py::Net.forward", (Path("b/a.py"), "Net.forward")),
        ("a.py:12", (Path("a.py"), 12)),
        ("c:/a.py::f", (Path("c:/a.py"), "f")),
    ],
)
def test_kernel_target_is_a_file_and_a_function(text: str, expected: tuple[Path, object]) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["a.py", "a.py::", "::f", "a.py:0", "a.py:x", ""])
def test_kernel_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="FILE::FUNCTION"):
        parse_target(text)


def test_kernel_of_a_template_is_verified_and_written_with_its_test(
    ops: Path,
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., Any],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    arguments = ["kernel", f"{ops}::scale", "--language", "c", "--no-model", "--write", "--json"]
    done = run_midspan(arguments, shared_midspan_env, timeout=250)
    assert done.returncode == Exit.OK, done.stderr
    found = one_object(done.stdout)
    assert found["success"]
    assert found["origin"] == "template:elementwise"
    assert found["shapes"] == "x: (N, 3) float32, factor: 0.5"
    assert found["guessed"] == []
    assert found["files"] == [str(ops.with_name(n)) for n in ("scale_c.py", "test_scale_c.py")]
    assert "template: " in done.stderr

    text = ops.with_name("scale_c.py").read_text()
    marker = files.read(text)
    assert marker is not None
    assert (marker.function, marker.reference) == ("scale", "ops.py")
    assert files.code_of(text) == found["code"]

    # What an editor would find for the file.
    from lsp_server.kernels import reference
    from lsp_server.kernels.task import Language

    subject = evidence.subject(reference.task(SOURCE, "scale", Language.C))
    folder = Path(shared_midspan_env["MIDSPAN_STATE_DIR"]) / "kernels"
    kept = evidence.Store(folder).find(found["code"], subject)
    assert kept is not None
    assert kept.verified

    # A file of somebody's own is never written over.
    ops.with_name("scale_c.py").write_text("MINE = 1\n")
    again = run_midspan(arguments, shared_midspan_env, timeout=250)
    assert again.returncode == Exit.FAILURE
    assert "is no kernel of scale" in again.stderr
    assert ops.with_name("scale_c.py").read_text() == "MINE = 1\n"


def test_kernel_that_no_template_knows_says_why_and_ends_with_its_own_code(
    ops: Path,
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., Any],
    one_object: Callable[[str], dict[str, Any]],
) -> None:
    arguments = ["kernel", f"{ops}::running", "--no-model", "--json", "--write"]
    done = run_midspan(arguments, shared_midspan_env)
    assert done.returncode == Exit.NO_SUGGESTION
    found = one_object(done.stdout)
    assert not found["success"]
    assert "cumsum" in found["message"]
    assert found["files"] == []
    assert found["guessed"] == ["x"]


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("ops.py::nothing", [], "no function 'nothing'"),
        ("ops.py:3", [], "no function at line 3"),
        ("missing.py::f", [], "cannot be read"),
        ("ops.py::scale", ["--shapes", "y: (3,)"], "no parameter 'y'"),
        ("ops.py::scale", ["--language", "fortran"], "fortran"),
    ],
)
def test_kernel_arguments_that_are_wrong_are_usage(
    ops: Path,
    shared_midspan_env: dict[str, str],
    run_midspan: Callable[..., Any],
    target: str,
    options: list[str],
    said: str,
) -> None:
    done = run_midspan(["kernel", str(ops.with_name(target)), *options], shared_midspan_env)
    assert done.returncode == Exit.USAGE
    assert said in done.stderr
