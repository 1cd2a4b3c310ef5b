"""The test file that is written beside a kernel: it compares it with the reference.

Rule: pure; made from the reference and never by a model; it needs nothing of midspan, runs under
plain pytest, and uses the same sizes and tolerances as the verifier.
"""

from __future__ import annotations

import ast
import pprint
import re

from lsp_server.kernels import cases
from lsp_server.kernels.task import Language, Level, Parameter, Task

_WHERE = {
    Language.TRITON: "Without a GPU the kernels run in Triton's interpreter.",
    Language.C: "It needs a C compiler.",
    Language.NUMBA: "It runs on the processor.",
    Language.CUDA: "It needs an NVIDIA GPU and nvcc.",
}

_SOURCE, _FUNCTION = "\0", "\1"  # in the text until its own names are settled

_HEAD = '''\
"""Compares {function} of {module} with the PyTorch function that it stands for.

Written by midspan from that function. Run it with `pytest`. {where}
"""

{future}import os
import sys

import pytest
import torch

DEVICE = "{device}"
{interpreter}sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
{autotune}
import {module}  # noqa: E402

# The reference, as it was when the kernel was made.

{source}

# The tests.

original = {function}

TOLERANCE = {{
    torch.float16: {half},
    torch.bfloat16: {half},
    torch.float64: {double},
}}  # others: {single}

# Sizes, type of the floating tensors, layout.
CASES = {cases}


def tensor(shape, dtype, layout, seed):
    """Random values; "strided" leaves gaps between them, "transposed" reverses their order."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        values = torch.rand(shape, generator=generator) < 0.5
    elif dtype.is_floating_point:
        values = torch.randn(shape, generator=generator).to(dtype)
    else:
        values = torch.randint(0, 8, shape, generator=generator).to(dtype)
    values = values.to(DEVICE)
    if layout == "strided":
        return torch.stack([values, values], dim=-1)[..., 0]
    if layout == "transposed":
        order = list(reversed(range(values.ndim)))
        return values.permute(order).contiguous().permute(order)
    return values


def inputs(sizes, dtype, layout, seed):
    return {{
{inputs}
    }}


def rms(values):
    return values.square().mean().sqrt()


def assert_same(found, expected):
    assert type(found) is type(expected)
    if not isinstance(expected, torch.Tensor):
        if isinstance(expected, (tuple, list)):
            assert len(found) == len(expected)
            for one, other in zip(found, expected):
                assert_same(one, other)
        else:
            assert found == pytest.approx(expected, rel={single})
        return
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    tolerance = TOLERANCE.get(expected.dtype, {single})
    # Small results are compared by the size of most; long sums round by the size of what they add.
    sizes = expected[expected.isfinite()].double().abs().sort().values
    most = sizes[: max(1, 9 * len(sizes) // 10)]
    scale = max(rms(sizes).clamp(0.01, 1), rms(most)) if len(sizes) else 1.0
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True
    )


@pytest.mark.parametrize("sizes, dtype, layout", CASES, ids=str)
def test_{name}_agrees_with_the_reference(sizes, dtype, layout):
    for seed in (0, 1):
        found = {module}.{name}(**inputs(sizes, dtype, layout, seed))
        assert_same(found, original(**inputs(sizes, dtype, layout, seed)))


@pytest.mark.parametrize("sizes, dtype, layout", CASES[:1], ids=str)
def test_{name}_leaves_its_inputs_as_they_are(sizes, dtype, layout):
    given, kept = inputs(sizes, dtype, layout, 0), inputs(sizes, dtype, layout, 0)
    {module}.{name}(**given)
    for name, value in kept.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(given[name], value, rtol=0, atol=0, equal_nan=True)
'''

# What the file itself defines: called otherwise where the reference brings the name along.
_OWN = frozenset("DEVICE TOLERANCE CASES original tensor inputs rms assert_same".split())

_INTERPRETER = """\
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
"""

_AUTOTUNE = '''
import triton  # noqa: E402


class FirstConfiguration:
    """The interpreter cannot measure, so the first configuration is used."""

    def __init__(self, kernel, configuration):
        self.kernel, self.constants = kernel, configuration.kwargs

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.kernel[grid](*args, **{**self.constants, **kwargs})


if DEVICE == "cpu":
    triton.autotune = lambda configs, **_: lambda kernel: FirstConfiguration(kernel, configs[0])
'''


def write(task: Task, module_name: str, code: str = "") -> str:
    """The test file of a kernel in the module `module_name`, which lies in the same folder.

    `code` is the kernel's own text: where it is tuned, the test works around that without a GPU.
    """
    device = '" if torch.cuda.is_available() else "'.join(("cuda", "cpu"))
    if task.language in (Language.C, Language.NUMBA):
        device = "cpu"
    elif task.language is Language.CUDA:
        device = "cuda"
    triton = task.language is Language.TRITON
    future, source = _future(task.source)
    text = _HEAD.format(
        name=task.name,
        module=module_name,
        where=_WHERE[task.language],
        future=future,
        device=device,
        interpreter=_INTERPRETER if triton else "",
        autotune=_AUTOTUNE if triton and "triton.autotune" in code else "",
        source=_SOURCE,
        function=_FUNCTION,
        half=cases.TOLERANCE["float16"],
        double=cases.TOLERANCE["float64"],
        single=cases.TOLERANCE_FLOAT32,
        cases=_cases(task),
        inputs="\n".join(_input(i, one) for i, one in enumerate(task.parameters)),
    )
    taken = _names(source)
    for name in sorted(_OWN & taken):
        text = re.sub(rf"(?<![\w.\"']){name}(?!\w)", _free(name, taken), text)
    return text.replace(_FUNCTION, task.name).replace(_SOURCE, source.strip())


def _names(source: str) -> set[str]:
    """Every name that a module uses, wherever."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=known_as):
                names.add(known_as or name.partition(".")[0])
    return names


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _future(source: str) -> tuple[str, str]:
    """Imports from the future must stand first in a file."""
    lines = source.splitlines()
    first = [line for line in lines if line.startswith("from __future__ import")]
    rest = [line for line in lines if line not in first]
    return "".join(f"{line}\n\n" for line in first), "\n".join(rest)


def _cases(task: Task) -> str:
    lines = []
    for case in cases.plan(task, 0, cases.dtypes(task)):
        if case.level is Level.CORRECT:
            sizes = pprint.pformat(dict(case.sizes), sort_dicts=False, compact=True)
            dtype = f"torch.{case.dtype}" if case.dtype else "None"
            lines.append(f'    ({sizes}, {dtype}, "{case.layout}"),')
    return "\n".join(["[", *lines, "]"])


def _input(index: int, parameter: Parameter) -> str:
    if parameter.kind != "tensor":
        return f'        "{parameter.name}": {parameter.value!r},'
    sizes = [f'sizes["{size}"]' if isinstance(size, str) else str(size) for size in parameter.shape]
    shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    own = f"torch.{parameter.dtype}"
    dtype = f"dtype or {own}" if "float" in parameter.dtype else own
    seed = f"{100 * index} + seed" if index else "seed"
    return f'        "{parameter.name}": tensor({shape}, {dtype}, layout, {seed}),'
