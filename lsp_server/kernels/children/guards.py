"""Watches a candidate's host code: guarded inputs, and which of torch's operations it calls.

Rule: what the allow-list forbids by reading is forbidden here by running, whatever it is spelled
like. Sandbox only; must not know the language of a kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PAD = 64  # elements before and after
_SENTINEL = 0xA5

# Allocation, filling with a constant, views, copies and conversions. Nothing that computes.
_ALLOWED = frozenset(
    """
    promote_types result_type
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros full
    full_like new_full ones ones_like new_ones zero_ fill_ view _unsafe_view reshape _reshape_alias
    as_strided t transpose permute expand unsqueeze squeeze slice select narrow alias detach clone
    copy_ contiguous _to_copy lift_fresh resize_ unflatten scalar_tensor
    """.split()
)


class Broken(Exception):
    """The candidate did what no kernel may; `str` is for people."""


class TorchGuard(TorchDispatchMode):  # type: ignore[misc]
    """Refuses every operation of torch that computes, outside of a launch."""

    def __init__(self) -> None:
        super().__init__()
        self.launching = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if not self.launching and name not in _ALLOWED:
            raise Broken(f"it computes with torch ({name}) instead of in a kernel")
        return func(*args, **(kwargs or {}))


def _strides(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Strides in elements: rows last; every second element; or the dimensions reversed."""
    order = range(len(shape)) if layout == "transposed" else reversed(range(len(shape)))
    strides = [0] * len(shape)
    step = 2 if layout == "strided" else 1
    for dimension in order:
        strides[dimension] = step
        step *= max(shape[dimension], 1)
    return tuple(strides)


class Guarded:
    """An input in the middle of a larger buffer, whose other bytes must stay as they are.

    With `exact` the tensor has an allocation of its own, which a sanitiser guards.
    """

    def __init__(self, values: torch.Tensor, layout: str, *, exact: bool, device: str) -> None:
        strides = _strides(tuple(values.shape), layout)
        reach = sum((s - 1) * step for s, step in zip(values.shape, strides, strict=True)) + 1
        self.span = reach if values.numel() else 0
        pad = 0 if exact else _PAD
        self.buffer = torch.empty(self.span + 2 * pad, dtype=values.dtype, device=device)
        if self.buffer.numel():
            self.buffer.view(torch.uint8).fill_(1 if values.dtype is torch.bool else _SENTINEL)
        self.tensor = self.buffer.as_strided(values.shape, strides, pad)
        self.tensor.copy_(values)
        self.values = values
        self.start = self.buffer.data_ptr() + pad * values.element_size()
        self.end = self.start + self.span * values.element_size()
        self._before = self._bytes()

    def _bytes(self) -> bytes:
        if not self.buffer.numel():
            return b""
        return bytes(self.buffer.view(torch.uint8).cpu().numpy())

    def changed(self) -> str:
        """ "to", "outside of", or "" when nothing was written."""
        if self._bytes() == self._before:
            return ""
        seen, values = self.tensor.cpu().contiguous(), self.values.contiguous()
        same = not values.numel() or torch.equal(
            seen.reshape(-1).view(torch.uint8), values.reshape(-1).view(torch.uint8)
        )
        return "outside of" if same else "to its input"

    def shares_memory(self, other: torch.Tensor) -> bool:
        """Whether another tensor lies in the same allocation."""
        mine = self.buffer.untyped_storage()
        return bool(mine.nbytes()) and other.untyped_storage().data_ptr() == mine.data_ptr()
