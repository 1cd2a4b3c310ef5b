"""Tensors as bytes, made for a case, and compared.

Rule: what comes in is checked before torch sees it; never a pickle. Runs in the sandbox only.
"""

from __future__ import annotations

import math
from typing import Any

import torch

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64"),
        *("uint8", "int8", "int16", "int32", "int64", "bool"),
    )
}
Described = list[dict[str, Any]]


def pack(tensors: list[torch.Tensor]) -> tuple[Described, bytes]:
    """What they are, and their values in row-major order."""
    about: Described = []
    parts: list[bytes] = []
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        name = str(tensor.dtype).removeprefix("torch.")
        about.append({"dtype": name, "shape": list(tensor.shape)})
        parts.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return about, b"".join(parts)


def unpack(about: Described, data: bytes) -> list[torch.Tensor]:
    """Make them again; ValueError when the description and the bytes do not fit."""
    found: list[torch.Tensor] = []
    start = 0
    for one in about:
        dtype = DTYPES.get(one["dtype"])
        shape = one["shape"]
        if dtype is None or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"it has the type {one['dtype']}")
        count = math.prod(shape)
        end = start + count * dtype.itemsize
        if end > len(data):
            raise ValueError("there are fewer bytes than its shape says")
        if count:
            flat = torch.frombuffer(bytearray(data[start:end]), dtype=dtype)
        else:
            flat = torch.empty(0, dtype=dtype)
        found.append(flat.reshape(shape))
        start = end
    return found


def make(
    parameter: dict[str, Any], case: dict[str, Any], generator: torch.Generator
) -> torch.Tensor:
    """A tensor of the case's sizes and values for a parameter."""
    shape = [case["sizes"][size] if isinstance(size, str) else size for size in parameter["shape"]]
    dtype = DTYPES[parameter["dtype"]]
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(0, 8, shape, generator=generator).to(dtype)
    if case["dtype"]:
        dtype = DTYPES[case["dtype"]]
    values = torch.randn(shape, generator=generator)
    flat = values.view(-1)
    kind = case["values"]
    if kind.startswith("times"):
        values *= float(kind.removeprefix("times "))
    elif kind == "zeros":
        values.zero_()
    elif kind == "with infinities" and flat.numel():
        flat[flat.numel() // 2], flat[-1] = math.inf, -math.inf
    elif kind == "with NaN" and flat.numel():
        flat[flat.numel() // 2] = math.nan
    return values.to(dtype)


def arguments(parameters: Described, case: dict[str, Any]) -> dict[str, Any]:
    """What a case calls the reference with, the same each time."""
    generator = torch.Generator().manual_seed(case["seed"])
    return {
        p["name"]: make(p, case, generator) if p["kind"] == "tensor" else case["given"][p["name"]]
        for p in parameters
    }


def tolerance(tolerances: dict[str, float], dtype: torch.dtype) -> float:
    """The tolerance for results of a dtype; that of float32 where none is named."""
    return tolerances.get(str(dtype).removeprefix("torch."), tolerances["float32"])


def scale(expected: torch.Tensor) -> float:
    """How large results are, which small ones among them are held to as well.

    The root mean square, between 0.01 and 1, so that small results are not let through by an
    absolute tolerance. Where the smaller nine of ten are larger than that, they tell: rounding in a
    long sum is as large as what was added, whatever comes out, and one huge value says nothing.
    """
    sizes = expected[expected.isfinite()].double().abs()
    if not sizes.numel():
        return 1.0
    usual = sizes.sort().values[: max(1, 9 * sizes.numel() // 10)]
    whole, most = (float(values.square().mean().sqrt()) for values in (sizes, usual))
    return max(min(max(whole, 1e-2), 1.0), most)


def difference(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> str:
    """Say how they differ, or "" where they agree: |e - f| <= tolerance x max(|e|, scale)."""
    if expected.shape != found.shape:
        return f"the shape is {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if expected.dtype != found.dtype:
        return f"the type is {found.dtype}, expected {expected.dtype}"
    if not expected.numel():
        return ""
    if not expected.is_floating_point():
        wrong = expected != found
        distance = (expected.double() - found.double()).abs()
    else:
        e, f = expected.double(), found.double()
        distance = (e - f).abs()
        near = distance <= tolerance * e.abs().clamp(min=scale(e))
        same = (e == f) | (e.isnan() & f.isnan())
        wrong = ~(same | (near & e.isfinite()))
    if not wrong.any():
        return ""
    count = int(wrong.sum())
    ranked = torch.where(wrong, distance.nan_to_num(nan=math.inf), -1.0)
    where = [int(i) for i in torch.unravel_index(ranked.argmax(), expected.shape)]
    at = tuple(where)
    return (
        f"{count} of {expected.numel()} values are wrong; at {where} it is "
        f"{found[at].item():.6g}, expected {expected[at].item():.6g}"
    )
