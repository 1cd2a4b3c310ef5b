"""What counts as right: the reference's values, judged where the candidate cannot see them."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from lsp_server.kernels.children import tensors  # noqa: E402
from lsp_server.kernels.children.judge import Reference  # noqa: E402

# NaN in float32 and not in float64, at infinity and nowhere else: as torch's own gelu on many CPUs.
SOURCE = """
import torch

def f(x):
    strange = torch.isinf(x) & (x.dtype == torch.float32)
    return torch.where(strange, torch.nan, x * 2)
"""
CASE = {
    "index": 0,
    "seed": 1,
    "sizes": {"N": 8},
    "dtype": "",
    "values": "with infinities",
    "given": {},
}
X = {"name": "x", "kind": "tensor", "shape": ["N"], "dtype": "float32"}


@pytest.mark.parametrize(
    ("at_infinity", "right"), [(math.nan, True), (math.inf, True), (0.0, False), (-math.inf, False)]
)
def test_where_the_reference_has_nan_its_value_in_float64_is_right_too(
    at_infinity: float, right: bool
) -> None:
    reference = Reference(
        {"parameters": [X], "tolerance": {"float32": 1e-4}, "source": SOURCE, "name": "f"}
    )
    answer, data = reference.make(0, [CASE])
    (x,) = tensors.unpack(answer["made"][0]["inputs"], data)
    result = x * 2
    result[x == math.inf], result[x == -math.inf] = at_infinity, -at_infinity
    about, returned = tensors.pack([result])
    structure = reference.expected[0][0].structure
    header = {"set": 0, "index": 0, "structure": structure, "outputs": about}
    assert (reference.verdict(header, returned) == "") is right


def test_long_sums_may_round_by_the_size_of_what_they_add() -> None:
    generator = torch.Generator().manual_seed(0)
    expected = 400 * torch.randn(64, 64, generator=generator)
    expected[0, 0] = 1.0  # a sum that came out small
    rounded, missing = expected.clone(), expected.clone()
    rounded[0, 0] += 4e-4
    missing[0, 0] += 1.0  # a term too many
    assert tensors.difference(expected, rounded, 1e-4) == ""
    assert "1 of 4096 values are wrong" in tensors.difference(expected, missing, 1e-4)


@pytest.mark.parametrize("huge", [1e30, math.inf])
def test_a_huge_value_loosens_nothing_for_the_others(huge: float) -> None:
    expected = torch.full((64,), 0.01)
    expected[7] = huge
    found = expected.clone()
    assert tensors.difference(expected, found, 1e-4) == ""
    found[3] += 1e-3
    assert "1 of 64 values are wrong; at [3]" in tensors.difference(expected, found, 1e-4)


def test_scale_is_between_the_smallest_and_one_or_what_most_have() -> None:
    assert tensors.scale(torch.zeros(8)) == pytest.approx(0.01)
    assert tensors.scale(torch.full((8,), 0.5)) == pytest.approx(0.5)
    assert tensors.scale(torch.full((8,), 40.0)) == pytest.approx(40)
    assert tensors.scale(torch.tensor([0.5] * 9 + [1e6])) == 1.0
    assert tensors.scale(torch.tensor([])) == tensors.scale(torch.tensor([math.nan])) == 1.0
