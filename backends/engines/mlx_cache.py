"""What `mlx.py` keeps of a sequence: its layers' caches, shared, cut, copied out and put back.

Rule: exact or refused. `array[...] = x` replaces in place what that one Python object refers to;
so two sequences may share memory, never an object. A slice is a new object, and MLX copies its
memory when either side writes. Only plain and quantised KV caches can be cut at any length; what
another kind holds (sliding windows, recurrent states) is that of all its tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache

from backends.errors import Unsupported

GROUPS = (64, 32)  # KV elements that may share a scale; the first that a head's length allows
FORMAT = 1


@dataclass(slots=True)
class Cells:
    """A sequence: one cache for each layer, and how many tokens they hold."""

    caches: list[Any]
    length: int = 0

    def first(self, n: int) -> Cells:
        """Return a sequence of its own that shares the first `n` cells; plain kinds only."""
        return Cells([_first(cache, n) for cache in self.caches], n)

    def trim(self, n: int) -> None:
        """Keep the first `n` cells; plain kinds only."""
        for cache in self.caches:
            cache.trim(self.length - n)
        self.length = n


def _first(cache: Any, n: int) -> Any:
    own = copy.copy(cache)
    if n == 0:
        own.keys = own.values = None
    else:
        own.keys, own.values = tree_map(lambda a: a[..., :n, :], (cache.keys, cache.values))
    own.offset = n
    return own


class Kind:
    """The kind of cache that a model's layers have. `bits`: of a quantised one, 0 for none.

    `plain`: can be cut and shared at any length. `joins`: sequences can go through one pass
    together. Raises Unsupported where `bits` can't be had.
    """

    def __init__(self, model: nn.Module, bits: int) -> None:
        self._model = model
        self._bits = bits
        self._form: object = None
        empty = make_prompt_cache(model)
        self.plain = all(type(cache) is KVCache for cache in empty)
        self.joins = self.plain and not bits
        self._group = 0
        if bits:
            if not self.plain:
                raise Unsupported(
                    "kv_type: this model's cache is no plain KV cache and can't be quantised."
                )
            model(mx.array([[0]]), cache=empty)
            self._group = _group(empty)

    def new(self) -> Cells:
        """Return an empty sequence."""
        caches = make_prompt_cache(self._model)
        if self._bits:
            caches = [QuantizedKVCache(self._group, self._bits) for _ in caches]
        return Cells(caches)

    def learn(self, cells: Cells) -> int:
        """Take the shapes from a sequence that holds tokens; return the bytes of a cell."""
        self._form = [_form(cache.state, self.plain) for cache in cells.caches]
        kept = [cache for cache in cells.caches if getattr(cache, "keys", None) is not None]
        per_cell = sum(int(cache.nbytes) // _allocated(cache) for cache in kept)
        return max(1, per_cell)

    def dump(self, cells: Cells) -> bytes:
        """Return all that a sequence holds."""
        whole = cells.first(cells.length) if self.plain else cells
        states = [_packed(cache.state) for cache in whole.caches]
        return msgspec.msgpack.encode([FORMAT, cells.length, states])

    def load(self, data: bytes) -> Cells | None:
        """Return the sequence that `dump` wrote; None where it does not fit this model."""
        try:
            version, length, states = msgspec.msgpack.decode(data)
            states = [_unpacked(state) for state in states]
            forms = [_form(state, self.plain) for state in states]
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
            return None
        if version != FORMAT or forms != self._form or not isinstance(length, int):
            return None
        cells = self.new()
        for cache, state in zip(cells.caches, states, strict=True):
            cache.state = state
        if self.plain and any(
            not cache.offset == _allocated(cache) == length for cache in cells.caches
        ):
            return None
        cells.length = length
        return cells


def _group(caches: Sequence[KVCache]) -> int:
    """Return how many elements may share a scale, from caches that hold a token."""
    lengths = {array.shape[-1] for cache in caches for array in (cache.keys, cache.values)}
    for group in GROUPS:
        if all(length % group == 0 for length in lengths):
            return group
    raise Unsupported(
        f"kv_type: heads of {max(lengths)} elements can't be quantised in groups of "
        f"{GROUPS[-1]}; leave it empty for this model."
    )


def _allocated(cache: Any) -> int:
    keys = cache.keys[0] if isinstance(cache.keys, (list, tuple)) else cache.keys
    return int(keys.shape[-2])


def _form(state: Any, plain: bool) -> Any:
    """Return what does not change as a sequence grows: structure, types, and of a plain cache all
    sizes but the number of cells."""
    if isinstance(state, mx.array):
        sizes = (*state.shape[:-2], state.shape[-1]) if plain else state.ndim
        return str(state.dtype), sizes
    if isinstance(state, (list, tuple)):
        return [_form(part, plain) for part in state]
    return type(state).__name__


def _packed(state: Any) -> Any:
    if isinstance(state, mx.array):
        flat = np.array(state.reshape(-1).view(mx.uint8))  # numpy has no bfloat16
        return {"type": str(state.dtype), "shape": state.shape, "data": flat.tobytes()}
    if isinstance(state, (list, tuple)):
        return [_packed(part) for part in state]
    return state


def _unpacked(state: Any) -> Any:
    """Return the arrays again. Raises ValueError, TypeError or KeyError."""
    if isinstance(state, list):
        return [_unpacked(part) for part in state]
    if not isinstance(state, dict):
        return state
    kind, shape = DTYPES[state["type"]], state["shape"]
    if prod(shape) * kind.size != len(state["data"]):
        raise ValueError("the array is not whole")
    return mx.array(np.frombuffer(state["data"], np.uint8)).view(kind).reshape(shape)


DTYPES = {
    str(kind): kind
    for kind in (mx.float32, mx.float16, mx.bfloat16, mx.uint8, mx.uint32, mx.int32, mx.bool_)
}


class Joined:
    """The caches of one layer of several sequences, as the model sees one, for one pass.

    Each sequence has a row, padded to the longest at its end: a padded token's cells are dropped,
    and nothing that is kept sees them. `lengths`: the tokens of each row that are its own.
    """

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        self._caches = caches
        self._lengths = lengths
        self._cells = max(cache.offset + n for cache, n in zip(caches, lengths, strict=True))
        self.offset = mx.array([cache.offset for cache in caches])  # positions, for rope

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append to each sequence what is its own; return all that they hold, padded."""
        rows = [
            cache.update_and_fetch(keys[i : i + 1, :, :n], values[i : i + 1, :, :n])
            for i, (cache, n) in enumerate(zip(self._caches, self._lengths, strict=True))
        ]
        all_keys, all_values = zip(*rows, strict=True)
        return self._padded(all_keys), self._padded(all_values)

    def _padded(self, rows: Sequence[mx.array]) -> mx.array:
        widths = [(0, 0), (0, 0)]
        return mx.concatenate(
            [mx.pad(row, [*widths, (0, self._cells - row.shape[2]), (0, 0)]) for row in rows]
        )

    def make_mask(
        self,
        N: int,  # noqa: N803 - mlx-lm's name for it
        return_array: bool = False,
        window_size: int | None = None,
    ) -> mx.array:
        """Return which cells each token sees: those of its row up to itself."""
        at = self.offset[:, None, None, None] + mx.arange(N)[None, None, :, None]
        cells = mx.arange(self._cells)
        mask = cells <= at
        return mask if window_size is None else mask & (cells > at - window_size)
