"""The written test passes for right kernels and fails for wrong ones, under plain pytest."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lsp_server.kernels import test_source
from lsp_server.kernels.task import Language, Parameter, Task
from tests.lsp_server.kernels.golden import GOLDEN, tensor
from tests.lsp_server.kernels.golden import task as make_task

pytestmark = pytest.mark.kernels

MODULES = {"relu": "relu_triton", "norm": "norm_triton", "numba": "rows_numba", "c": "scale_c"}


def run(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run([*command, "."], cwd=folder, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout


def test_written_tests_tell_right_from_wrong(tmp_path: Path) -> None:
    for name, module in MODULES.items():
        golden = GOLDEN[name]
        (tmp_path / f"{module}.py").write_text(golden.code)
        text = test_source.write(golden.task, module, golden.code)
        (tmp_path / f"test_{module}.py").write_text(text)
    # The same kernel with the numbers of another.
    wrong = GOLDEN["relu"]
    (tmp_path / "wrong.py").write_text(wrong.code.replace("x < 0, 0.0", "x < 0, -1.0"))
    (tmp_path / "test_wrong.py").write_text(test_source.write(wrong.task, "wrong", wrong.code))
    code, output = run(tmp_path)
    failed = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert code == 1, output
    assert failed
    assert all("test_wrong.py::test_relu_agrees" in line for line in failed), output
    assert " passed" in output


CLASHING = """
import torch

DEVICE, CASES, TOLERANCE = 0.0, 1.0, None


def tensor(x):
    return -x.abs()


def inputs(x):
    return tensor(x) + DEVICE


def found(x, original, rms=1.0):
    assert_same = torch.exp(inputs(x)) * original
    return assert_same * CASES
"""


def test_test_and_reference_may_use_the_same_names(tmp_path: Path) -> None:
    scale = GOLDEN["c"]
    parameters = (scale.task.parameters[0], Parameter("original", "float", value=2.0))
    task = Task("found", CLASHING, parameters, Language.C)
    for module, wrong in (("found_c", ""), ("wrong_c", " * 1.5")):
        code = scale.code.replace("def scale(x, by=2.0)", "def found(x, original)")
        code = code.replace("c_float(by)", f"c_float(original{wrong})")
        (tmp_path / f"{module}.py").write_text(code)
        (tmp_path / f"test_{module}.py").write_text(test_source.write(task, module))
    code, output = run(tmp_path)
    failed = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert code == 1, output
    assert failed
    assert all("test_wrong_c.py::test_found_agrees" in line for line in failed), output
    assert "passed" in output


def test_test_puts_imports_from_the_future_first() -> None:
    task = make_task("f", "x + 1", tensor("x", "N", 128), Parameter("flag", "bool", value=True))
    source = f"from __future__ import annotations\n{task.source}"
    written = test_source.write(
        type(task)(task.name, source, task.parameters, task.language), "f_c"
    )
    compile(written, "test_f.py", "exec")
    tree = ast.parse(written)
    assert isinstance(tree.body[1], ast.ImportFrom)
    assert '"flag": True,' in written
    assert 'tensor((sizes["N"], 128), dtype or torch.float32, layout, seed)' in written


def test_test_names_neither_midspan_nor_a_path() -> None:
    for name, golden in GOLDEN.items():
        written = test_source.write(golden.task, name)
        assert "import lsp_server" not in written
        assert "import midspan" not in written
        ast.parse(written)
