from __future__ import annotations

import ast

import pytest

from backends.errors import BadRequest
from lsp_server.kernels import inputs, reference
from lsp_server.kernels.reference import Reference, Refusal
from lsp_server.kernels.task import Language, Parameter
from tests.lsp_server.kernels.real_functions import HEAD, ROWS


def found(source: str, name: str = "f", shapes: str = "") -> reference.Task:
    return reference.task(HEAD + source, name, Language.TRITON, shapes)


def shape_of(parameters: tuple[Parameter, ...], name: str) -> tuple[int | str, ...]:
    return next(one.shape for one in parameters if one.name == name)


@pytest.mark.kernels
@pytest.mark.parametrize("name", ROWS)
def test_reference_of_a_real_function_is_a_module_that_stands_alone(name: str) -> None:
    row = ROWS[name]
    task = reference.task(row.text, row.name or name, Language.TRITON, row.shapes)
    module: dict[str, object] = {}
    exec(compile(task.source, name, "exec"), module)
    assert callable(module[task.name])
    assert all(one.shape or one.kind != "tensor" for one in task.parameters)


def test_reference_is_found_from_every_line_of_its_function_and_from_no_other() -> None:
    text = (
        "import torch\n\n\n@torch.no_grad()\ndef f(x):\n    y = x.exp()\n\n"
        "    return torch.sin(y)\n\n\nz = 1\n"
    )
    lines = range(1, text.count("\n") + 1)
    at = {line: reference.find(text, line) for line in lines}
    assert [line for line in lines if isinstance(at[line], Reference)] == [4, 5, 6, 7, 8]
    one = at[6]
    assert isinstance(one, Reference)
    assert (one.name, one.line, one.end_line) == ("f", 4, 8)
    assert "no_grad" not in one.source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x: Tensor):\n    print(x)\n    return x\n", "calls print"),
        ("def f(x: Tensor):\n    x += 1\n    return x\n", "in place"),
        ("def f(x: Tensor):\n    x.mul_(2)\n    return x\n", "in place"),
        ("def f(x: Tensor):\n    x[0] = 1\n    return x\n", "writes into"),
        ("def f(x: Tensor):\n    return F.dropout(x)\n", "random"),
        ("def f(x: Tensor):\n    return x + torch.rand_like(x)\n", "random"),
        ("def f(*x: Tensor):\n    return x[0]\n", "any number of arguments"),
        ("async def f(x: Tensor):\n    return x\n", "asynchronous"),
        ("def f(x: Tensor):\n    yield x\n", "generator"),
        ("def f(x: Tensor):\n    x.exp()\n", "returns nothing"),
        ("N = []\ndef f(x: Tensor):\n    global N\n    return x\n", "global"),
        ("import os\ndef f(x: Tensor):\n    return x * len(os.environ)\n", "needs os"),
        ("from .a import g\ndef f(x: Tensor):\n    return g(x)\n", "another file"),
        ("def f(x: Tensor):\n    return missing(x)\n", "does not define"),
        ("TABLE = open('a')\ndef f(x: Tensor):\n    return x * TABLE\n", "no constant"),
        ("def f(n: int):\n    return torch.zeros(n)\n", "no tensor"),
        ("@cached\ndef f(x: Tensor):\n    return x\n", "decorator cached"),
        ("def f(x: Tensor, how: str):\n    return x\n", "neither a tensor nor a number"),
    ],
)
def test_reference_that_cannot_stand_alone_is_refused_with_the_reason(
    source: str, reason: str
) -> None:
    text = HEAD + source
    at = reference.find(text, text.count("\n"))
    assert isinstance(at, Refusal)
    assert at.torch
    assert reason in at.reason
    with pytest.raises(BadRequest, match=reason):
        found(source)


@pytest.mark.parametrize(
    "text", ["def f(a, b):\n    return a + b\n", "x = 1\n", "def f(:\n", "", "\0"]
)
def test_reference_where_there_is_no_pytorch_is_told_apart(text: str) -> None:
    at = reference.find(text, 1)
    assert isinstance(at, Refusal)
    assert not at.torch


def test_reference_takes_helpers_and_constants_along_in_their_order() -> None:
    source = (
        "A = 2.0\nB = A * math.pi\nUNUSED = 3\n\ndef helper(x):\n    return x * B\n\n"
        "def f(x: Tensor):\n    # a comment that stays\n    return helper(x)\n"
    )
    taken = found(source).source
    names = [ast.unparse(node).split("(")[0] for node in ast.parse(taken).body]
    assert [name for name in names if "import" not in name] == [
        "A = 2.0",
        "B = A * math.pi",
        "def helper",
        "def f",
    ]
    assert "# a comment that stays" in taken
    assert "import torch\n" not in taken  # not needed
    assert "UNUSED" not in taken


def test_reference_does_not_depend_on_its_place_in_the_file() -> None:
    source = "def f(x: Tensor):\n    return x.exp()\n"
    assert found(source).source == found("\n\n\nOTHER = 1\n" + source).source


def test_reference_of_a_modules_forward_gets_what_the_module_holds_as_parameters() -> None:
    task = found(ROWS["rms_norm"].source, "RMSNorm")
    assert task.name == "rms_norm"
    assert [(one.name, one.kind, one.shape, one.value) for one in task.parameters] == [
        ("x", "tensor", ("N", "dim"), None),
        ("weight", "tensor", ("dim",), None),
        ("eps", "float", (), 1e-6),
    ]
    assert task.parameters[0].dtype == "float16"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return self.conv(x)", "self.conv"),
        ("return self.helper(x)", "self.helper"),
        ("return x * self.scale", "self.scale"),
        ("return g(self, x)", "self as a whole"),
    ],
)
def test_reference_of_a_forward_that_needs_more_of_self_is_refused(body: str, reason: str) -> None:
    source = (
        "class Block(nn.Module):\n    def __init__(self, scale):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 3)\n        self.scale = scale\n"
        f"    def forward(self, x):\n        {body}\n"
    )
    with pytest.raises(BadRequest, match=reason):
        found(source, "Block")


def test_reference_of_a_linear_layer_becomes_a_function_of_its_weights() -> None:
    source = (
        "class Mlp(nn.Module):\n    def __init__(self, d, h):\n        super().__init__()\n"
        "        self.up = nn.Linear(d, h)\n        self.act = nn.SiLU()\n"
        "    def forward(self, x):\n        return self.act(self.up(x))\n"
    )
    task = found(source, "Mlp", "x: (N, d)")
    assert [(one.name, one.shape) for one in task.parameters] == [
        ("x", ("N", "d")),
        ("up_weight", ("h", "d")),
        ("up_bias", ("h",)),
    ]


@pytest.mark.parametrize(
    ("head", "shape", "dtype"),
    [
        ('def f(x: Float[Tensor, "n 64"]):', ("n", 64), "float32"),
        ('def f(x: Float16[Tensor, "n d"] | None):', ("n", "d"), "float16"),
        ("def f(x: Tensor):\n    # x: (N, 128) float16", ("N", 128), "float16"),
        ("def f(\n    x: Tensor,  # (B, T, D) bfloat16\n):", ("B", "T", "D"), "bfloat16"),
        (
            'def f(x: Tensor):\n    """Do it.\n\n    x: a (N, D) tensor\n    """',
            ("N", "D"),
            "float32",
        ),
        (
            'def f(x: Tensor):\n    """Args:\n        x (Tensor): [B, 3], float64\n    """',
            ("B", 3),
            "float64",
        ),
    ],
)
def test_inputs_shapes_are_read_where_they_are_written(
    head: str, shape: tuple[int | str, ...], dtype: str
) -> None:
    task = found(f"{head}\n    return torch.exp(x)\n")
    (one,) = task.parameters
    assert (one.shape, one.dtype, one.guessed) == (shape, dtype, False)


def test_inputs_what_the_user_says_wins_and_the_rest_is_guessed_and_marked() -> None:
    source = (
        "def f(x: Float[Tensor, 'n d'], weight: Tensor, eps=1e-5):\n    return x * weight + eps\n"
    )
    given = {one.name: one for one in found(source, shapes="x: (4, K) half, eps: 0.5").parameters}
    assert (given["x"].shape, given["x"].dtype) == ((4, "K"), "float16")
    assert (given["weight"].shape, given["weight"].guessed) == (("K",), True)
    assert given["eps"].value == 0.5


def test_inputs_products_say_what_their_factors_shapes_are() -> None:
    task = found("def f(a, b, c):\n    return torch.relu(a @ b.T) + c\n")
    assert shape_of(task.parameters, "a") == ("M", "K")
    assert shape_of(task.parameters, "b") == ("N", "K")
    assert all(one.guessed for one in task.parameters)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ("x: N, 128", "not understood"),
        ("x: (N*2,)", "not understood"),
        ("x: (0,)", "not understood"),
        ("x: (N,) float12", "no dtype"),
        ("y: (N,)", "no parameter 'y'"),
        ("x: 3", "is a tensor"),
        ("eps: (3,)", "is a number"),
        ("x: (99999999999,)", "not understood"),
    ],
)
def test_inputs_that_are_wrong_are_refused(shapes: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        found("def f(x: Tensor, eps: float = 1e-5):\n    return x * eps\n", shapes=shapes)


@pytest.mark.parametrize("name", ROWS)
def test_inputs_are_shown_as_they_are_read(name: str) -> None:
    row = ROWS[name]
    task = reference.task(row.text, row.name or name, Language.C, row.shapes)
    said = inputs.parse(inputs.shown(task.parameters))
    for one in task.parameters:
        if one.kind == "tensor":
            assert (said[one.name].shape, said[one.name].dtype) == (one.shape, one.dtype)
        else:
            assert said[one.name].value == one.value
