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
