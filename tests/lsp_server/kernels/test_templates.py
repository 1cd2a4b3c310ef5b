"""What templates make of real functions: all of it read, a few of each way really verified."""

from __future__ import annotations

import ast
import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from lsp_server.kernels import allowlist, reference
from lsp_server.kernels.judge import Judge
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.loaders import source_of
from lsp_server.kernels.task import Evidence, Language, Result, Task
from lsp_server.kernels.templates import library
from lsp_server.kernels.verify import parse, verify
from tests.lsp_server.kernels.real_functions import HEAD, ROWS, Row

CASES = [(name, language) for name in ROWS for language in Language]


def task_of(name: str, language: Language) -> Task:
    row = ROWS[name]
    return reference.task(row.text, row.name or name, language, row.shapes)


def of(source: str, language: Language = Language.TRITON, shapes: str = "") -> library.Made:
    return library.make(reference.task(HEAD + source, "f", language, shapes))


@pytest.mark.parametrize(("name", "language"), CASES)
def test_templates_carry_what_they_know_and_refuse_the_rest(name: str, language: Language) -> None:
    row: Row = ROWS[name]
    task = task_of(name, language)
    made = library.make(task)
    if language.value not in row.languages.split():
        assert made.candidate is None
        assert row.why in made.reason or "plain CUDA" in made.reason
        return
    assert made.candidate is not None, made.reason
    check, tree = parse(task, made.candidate.code)
    assert check.result is Result.PASSED, check.reason
    assert tree is not None
    allowed = allowlist.check(tree, task)
    assert allowed.result is Result.PASSED, (allowed.reason, allowed.line)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_templates_c_sources_compile_without_a_warning(tmp_path: Path) -> None:
    whole = []
    for name in ROWS:
        made = library.make(task_of(name, Language.C))
        if made.candidate is not None:
            found = source_of(ast.parse(made.candidate.code))
            assert found is not None
            whole.append(found[0])
    assert len(whole) > 40
    file = tmp_path / "kernels.c"
    file.write_text("\n".join(whole))
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run(["cc", *options, str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x: Tensor):\n    y = x\n    y += 1\n    return y\n", "in place"),
        ("def f(x: Tensor):\n    y = x.T\n    y += 1\n    return y\n", "in place"),
        ("def f(x: Tensor):\n    h = x.exp()\n    y = h\n    y += 1\n    return y * h\n", "and h"),
        ("def f(x: Tensor):\n    h = x.exp()\n    y = h.T\n    h += 1\n    return y\n", "and y"),
        (
            "def g(y):\n    z = y\n    z += 1\n    return z\n\n"
            "def f(x: Tensor):\n    h = x.exp()\n    return g(h) * h\n",
            "and h",
        ),
        ("def f(x: Tensor):\n    return torch.linalg.norm(x, 2)\n", "norms of matrices"),
        ("def f(x: Tensor):\n    return x\n", "returns one of its parameters"),
        ("def f(x: Tensor):\n    return x.sum(0) + x.sum(1)\n", "different dimensions"),
        ("def f(x: Tensor, w: Tensor):\n    return (x @ w).softmax(-1)\n", "matrix product"),
        ("def f(x: Tensor, w: Tensor):\n    return x.exp() @ w\n", "computed first"),
        ("def f(x: Tensor):\n    return x.reshape(-1) * 2\n", "reshape"),
        ("def f(x: Tensor):\n    return x[0] * 2\n", "part of a tensor"),
        ("def f(x: Tensor):\n    return torch.exp(x, out=x)\n", "with these arguments"),
        ("def f(x: Tensor):\n    return x.var()\n", "more than once"),
        ("def f(x: Tensor):\n    return F.rms_norm(x, (x.shape[-1],))\n", "pass one"),
        ("def f(out: Tensor):\n    return torch.exp(out)\n", "the name out"),
        ("def f(x: Tensor):\n    return x if x.mean() > 0 else -x\n", "branches"),
        ("def f(x: Tensor):\n    return f(x) + 1\n", "calls itself"),
        ("def f(x: Tensor):\n    return torch.where(x > 0, 1.0, 0.0)\n", "dtype"),
    ],
)
def test_templates_refuse_what_they_are_not_sure_of(source: str, reason: str) -> None:
    shapes = "x: (N, N)" if "sum(0)" in source or "exp() @" in source else ""
    shapes += ", w: (N, N)" if "exp() @" in source else ""
    shapes = "x: (N, D)" if "linalg" in source else shapes
    made = of(source, shapes=shapes)
    assert made.candidate is None
    assert reason in made.reason


def test_templates_square_matrices_do_not_confuse_rows_with_columns() -> None:
    """Where both sizes have one name, only the dimensions themselves tell them apart."""
    made = of("def f(x: Tensor):\n    return x / x.sum(0)\n", shapes="x: (N, N)")
    assert made.candidate is not None
    assert ".permute(1, 0)" in made.candidate.code


@pytest.mark.parametrize("body", ["x.T + b", "(x.T + b).sum()", "(x.T + b).sum(-1)"])
def test_templates_pass_sizes_from_before_a_tensor_is_reordered(body: str) -> None:
    made = of(f"def f(x: Tensor, b: Tensor):\n    return {body}\n", shapes="x: (A, B), b: (A,)")
    assert made.candidate is not None
    moved = "x = x.permute(1, 0).contiguous()"
    assert "x.shape" not in made.candidate.code.split(moved)[1]


def test_templates_write_the_same_for_other_ways_to_say_it() -> None:
    ways = [
        "def f(x: Tensor):\n    return x.exp() + 1\n",
        "def f(x: Tensor):\n    return torch.exp(x) + 1\n",
        "def f(x: Tensor):\n    return torch.add(torch.Tensor.exp(x), 1)\n",
        "def g(y):\n    return y.exp()\n\ndef f(x: Tensor):\n    return g(x) + 1\n",
    ]
    made = [of(source).candidate for source in ways]
    assert len({one.code for one in made if one is not None}) == 1
    assert None not in made


def test_templates_take_what_is_changed_in_place_and_nobody_elses() -> None:
    alone = "def f(x: Tensor):\n    y = x.exp()\n    y += 1\n    return y\n"
    assert of(alone).candidate is not None
    made_anew = "def f(x: Tensor):\n    h = x.exp()\n    y = h * 2\n    y += 1\n    return y * h\n"
    assert of(made_anew).candidate is not None
    sizes = "def f(x: Tensor):\n    n = x.shape[0]\n    m = n\n    m += 1\n    return x * n + m\n"
    assert of(sizes).candidate is not None


def test_templates_know_the_norms_of_linalg_from_those_of_torch() -> None:
    """torch.linalg.norm(x, 1) of a matrix is its greatest column's, torch.norm(x, 1) all of it."""
    rows = of("def f(x: Tensor):\n    return torch.linalg.norm(x, ord=2, dim=-1)\n")
    same = of("def f(x: Tensor):\n    return torch.norm(x, dim=-1)\n")
    assert rows.candidate is not None
    assert rows.candidate == same.candidate
    whole = of("def f(x: Tensor):\n    return torch.linalg.norm(x)\n", shapes="x: (N, D)")
    assert whole.candidate is not None


def test_templates_hold_to_the_value_that_decided_a_branch() -> None:
    made = of("def f(x: Tensor, up: bool = True):\n    return x.exp() if up else x.sin()\n")
    assert made.candidate is not None
    assert "if up is not True:" in made.candidate.code
    assert "tl.sin" not in made.candidate.code


@pytest.mark.parametrize("default", ['"it\'s"', "'\"'", "('a', 'b')", "('\"', \"'\")", "'\\n'"])
def test_templates_name_any_default_in_their_refusals(default: str) -> None:
    made = of(f"def f(x: Tensor, how={default}):\n    return x.exp()\n")
    assert made.candidate is not None
    tree = ast.parse(made.candidate.code)
    said = [ast.literal_eval(node.args[0]) for node in _errors(tree)]
    value = ast.literal_eval(default)
    shown = value if isinstance(value, str) else repr(value)
    assert f"this kernel of f is for how={shown}" in said


def _errors(tree: ast.Module) -> list[ast.Call]:
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return [error for error in raised if isinstance(error, ast.Call)]


# One of each way of running, in the language that shows most.
VERIFIED = [
    ("softmax_channels", Language.C),
    ("linear_relu", Language.C),
    ("gelu", Language.C),
    ("l2_normalize", Language.NUMBA),
    ("rms_norm", Language.TRITON),
    ("mse", Language.TRITON),
]


@pytest.fixture(scope="module")
def verified() -> dict[str, Evidence]:
    """All are verified once, two at a time."""

    async def all_of_them() -> dict[str, Evidence]:
        turn = asyncio.Semaphore(2)

        async def one(name: str, language: Language) -> tuple[str, Evidence]:
            task = task_of(name, language)
            made = library.make(task)
            assert made.candidate is not None
            async with turn, Judge.open(task, Limits()) as judge:
                # One target shows that it compiles.
                limits = Limits(targets=("sm_90",))
                return name, await verify(task, made.candidate, limits=limits, judge=judge)

        return dict(await asyncio.gather(*(one(*case) for case in VERIFIED)))

    return asyncio.run(all_of_them())


@pytest.mark.kernels
@pytest.mark.parametrize(("name", "language"), VERIFIED)
def test_templates_kernels_are_verified(
    verified: dict[str, Evidence], name: str, language: Language
) -> None:
    evidence = verified[name]
    assert evidence.failure is None, evidence.failure
    assert evidence.verified
