from __future__ import annotations

import ast
import sys
import types

import pytest

from backends.errors import BadRequest
from lsp_server.kernels.insertion import Edit, insert, line_without, without
from lsp_server.kernels.task import Language, Parameter, Task

REFERENCE = '''\
"""A module."""

from __future__ import annotations

import torch


def scale(x: torch.Tensor, w: torch.Tensor, eps: float = 1e-5, dim: int = -1) -> torch.Tensor:
    """Scale the rows."""
    # As in the paper.
    return x / (x.abs().amax(dim, keepdim=True) + eps) * w
'''
PARAMETERS = (
    Parameter("x", "tensor", ("M", "N")),
    Parameter("w", "tensor", ("N",)),
    Parameter("eps", "float", value=1e-5),
    Parameter("dim", "int", value=-1),
)


def task(name: str = "scale", parameters=PARAMETERS, language: Language = Language.C) -> Task:
    return Task(name, "", parameters, language)


def one(name: str = "f", language: Language = Language.C) -> Task:
    return task(name, (Parameter("x", "tensor", ("N",)),), language)


def applied(text: str, edits: tuple[Edit, ...]) -> str:
    lines = text.split("\n")
    for edit in edits:
        line = lines[edit.line - 1] if edit.line <= len(lines) else ""
        lines[edit.line - 1 : edit.line] = [
            line[: edit.column] + edit.text + line[max(edit.end_column, edit.column) :]
        ]
    return "\n".join(lines)


def test_insert_keeps_the_reference_as_the_way_for_everything_else():
    text = applied(REFERENCE, insert(REFERENCE, task(), "scale_c", ["float32", "float16"]))
    head, body = REFERENCE.split('rows."""\n')
    assert text.startswith(head)
    assert text.endswith(body[body.index("    return x /") :])
    assert ast.parse(text)
    assert without(text) == REFERENCE


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch):
    """The reference with the call in it, and the calls that the kernel got."""
    calls = []
    kernel = types.ModuleType("scale_c")
    kernel.scale = lambda *given: calls.append(given) or "kernel"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scale_c", kernel)
    text = applied(REFERENCE, insert(REFERENCE, task(), "scale_c", ["float32", "float16"]))
    space: dict = {}
    exec(compile(text, "scale.py", "exec"), space)
    return space["scale"], calls


@pytest.mark.kernels
def test_inserted_call_takes_what_was_verified_and_nothing_else(scale):
    import torch

    call, calls = scale
    x, w = torch.rand(3, 5), torch.rand(5)
    assert isinstance(call(x, w), str)
    assert isinstance(call(x.half(), w.half()), str)
    assert isinstance(call(x.t().contiguous().t(), w), str)
    assert calls[0] == (x, w, 1e-5, -1)
    del calls[:]
    others = {
        "another dtype": (x.double(), w.double()),
        "two dtypes": (x.double(), w),
        "another rank": (torch.rand(2, 3, 5), w),
        "a size that is broadcast": (x, torch.rand(1)),
        "nothing": (torch.rand(0, 5), w),
        "another device": (x.to("meta"), w.to("meta")),
        "needs a gradient": (x.clone().requires_grad_(), w),
    }
    for why, (a, b) in others.items():
        assert isinstance(call(a, b), torch.Tensor), why
    assert isinstance(call(x, torch.rand(3, 1), dim=0), torch.Tensor)
    assert calls == []
    with torch.no_grad():
        assert call(x.clone().requires_grad_(), w) == "kernel"


@pytest.mark.kernels
def test_what_does_not_fit_the_kernel_goes_to_the_reference(scale, monkeypatch: pytest.MonkeyPatch):
    import torch

    def kernel(*given):
        raise ValueError("rows of 1 to 4 elements fit this kernel")

    monkeypatch.setattr(sys.modules["scale_c"], "scale", kernel)
    call, _ = scale
    assert isinstance(call(torch.rand(3, 5), torch.rand(5)), torch.Tensor)


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("head", "guessed"),
    [("x, b=None", False), ("x, b: torch.Tensor | None", False), ("x, b", True)],
)
def test_what_is_no_tensor_goes_to_the_reference(
    monkeypatch: pytest.MonkeyPatch, head: str, guessed: bool
):
    import torch

    kernel = types.ModuleType("f_c")
    kernel.f = lambda *given: "kernel"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "f_c", kernel)
    text = f"import torch\n\n\ndef f({head}):\n    return x if b is None else x + b\n"
    tensors = [Parameter(name, "tensor", ("N",), guessed=guessed) for name in "xb"]
    new = applied(text, insert(text, task("f", tuple(tensors)), "f_c", ["float32"]))
    space: dict = {}
    exec(compile(new, "f.py", "exec"), space)
    x = torch.rand(3)
    assert space["f"](x, None) is x
    assert space["f"](x, x) == "kernel"
    if guessed:
        assert torch.equal(space["f"](x, 0.5), x + 0.5)


@pytest.mark.parametrize("language", [Language.TRITON, Language.CUDA])
def test_gpu_kernels_are_called_for_gpu_tensors_alone(language):
    text = "import torch\n\n\ndef f(x):\n    return x\n"
    edits = insert(text, one(language=language), f"f_{language}", ["float32"])
    assert "x.is_cuda\n" in applied(text, edits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch as t\ndef f(x):\n    return x\n", "x.dtype == t.float32"),
        ("import torch.nn\ndef f(x):\n    return x\n", "x.dtype == torch.float32"),
        ("from .a import b\nimport torch\ndef f(x):\n    return x\n", "from .f_c import f as f_c"),
        ("import torch\ndef f(x, *, out=None): \n    return x\n", "return f_c(x)\n"),
        ("import torch\ndef f(x, *, out=None): \n    return x\n", "and out is None\n"),
        ("import torch\ndef f(x, how='tanh'): \n    return x\n", "and how == 'tanh'\n"),
        ("import torch\ndef f(x): return x\n", "def f(x):\n    if (\n"),
        ("import torch\nclass é: pass\ndef f(é, x):  return é\n", "def f(é, x):\n    if (\n"),
        ("import torch\ndef f(x):\n\tx = x\n\treturn x\n", "def f(x):\n\tif (\n\t    x.device"),
        (
            "from torch import Tensor\ndef f(x):\n    return x\n",
            "import torch\nfrom torch import Tensor",
        ),
        (
            '"""D."""\nfrom __future__ import annotations\ndef f(x):\n    return x\n',
            "annotations\n\nimport torch\n",
        ),
        ('"""D."""\n\ndef f(x):\n    return x\n', '"""D."""\n\nimport torch\n'),
        ("@jit\ndef f(x):\n    return x\n", "import torch\n\n\n@jit\n"),
        (
            "import torch\ndef f(x):\n    @torch.jit.script\n    def g(): ...\n    return g\n",
            "does not fit the kernel\n    @torch",
        ),
    ],
)
def test_insert_fits_the_file(text: str, expected: str):
    new = applied(text, insert(text, one(), "f_c", ["float32"]))
    assert ast.parse(new)
    assert expected in new
    assert ast.unparse(ast.parse(text)) in ast.unparse(ast.parse(without(new))).replace(
        "import torch\n", "", "import torch\n" not in text
    )


def test_kernel_is_given_what_it_was_tried_with():
    text = "import torch\ndef scale(x, how='a', w=None, *, eps, dim=-1):\n    return x\n"
    new = applied(text, insert(text, task(), "scale_c", ["float32"]))
    assert "return scale_c(x, w=w, eps=eps, dim=dim)\n" in new
    assert "and how == 'a'\n" in new


def test_insert_in_a_package_imports_from_it():
    text = "import torch\ndef f(x):\n    return x\n"
    new = applied(text, insert(text, one(), "f_c_2", ["float32"], in_package=True))
    assert "from .f_c_2 import f as f_c_2" in new
    assert without(new) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def f(x:\n", "no valid Python"),
        ("import torch\ndef g(x):\n    return x\n", "no function at the top"),
        ("import torch\ndef f(*x):\n    return x\n", "any number of arguments"),
        ('import torch\ndef f(x): "d"; return x\n', "a line of its own"),
    ],
)
def test_insert_says_why_it_cannot(text: str, why: str):
    with pytest.raises(BadRequest, match=why):
        insert(text, one(), "f_c", ["float32"])


def test_insert_is_done_once():
    text = "import torch\ndef f(x):\n    return x\n"
    new = applied(text, insert(text, one(), "f_c", ["float32"]))
    with pytest.raises(BadRequest, match="calls a kernel already"):
        insert(new, one(), "f_c", ["float32"])


CALL = """\
def f(x):
    if x:
        from a_c import f as g

        try:
            return g(x)
        except ValueError:
            pass
    return x
"""
OTHERS = [
    CALL.replace("pass", "return 1"),
    CALL.replace("a_c", "a_d"),
    CALL.replace("g(x)", "h(x)"),
    CALL.replace("        try", "        x = 1\n        try"),
    CALL.replace("    return x\n", "    else:\n        x = 1\n    return x\n"),
    CALL.replace("(x):", "(x:"),
    CALL.replace("def f(x):", "while 1:"),
]


def test_without_takes_out_what_looks_like_a_call_that_was_inserted():
    assert without(CALL) == "def f(x):\n    return x\n"


@pytest.mark.parametrize("text", OTHERS)
def test_without_leaves_other_code_alone(text: str):
    assert without(text) == text


def test_lines_are_found_again_without_the_call():
    text = "import torch\n\n\ndef f(x):\n    return x\n\n\ndef g(x):\n    return x\n"
    new = applied(text, insert(text, one(), "f_c", ["float32"])).split("\n")
    plain = text.split("\n")
    for number, line in enumerate(new, 1):
        found = plain[line_without("\n".join(new), number) - 1]
        assert found == line or (found == "    return x" and 4 < number < len(new) - 4)
