"""Runs Triton kernels in Triton's interpreter, with every address checked.

Rule: what a GPU leaves undefined is made visible: reads and writes outside of a tensor are refused,
lanes that a mask turns off and that have no `other` are NaN. Sandbox only; TRITON_INTERPRET is set
by whoever starts it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
from triton.runtime import interpreter

from lsp_server.kernels.children import wire
from lsp_server.kernels.children.guards import Broken, Guarded, TorchGuard
from lsp_server.kernels.children.modules import load

_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
OPTIONS = ("num_warps", "num_stages", "num_ctas")


class _Memory:
    """Where the tensors of a launch lie, in bytes."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, str]] = []
        self.written: set[int] = set()

    def check(self, pointers: Any, mask: Any, size: int, verb: str) -> None:
        """Refuse an access outside of every tensor of this launch."""
        addresses = np.asarray(pointers).reshape(-1).astype(np.int64)
        used = np.broadcast_to(np.asarray(mask), np.shape(pointers)).reshape(-1).astype(bool)
        addresses = addresses[used]
        if not addresses.size:
            return
        inside = np.zeros(addresses.shape, dtype=bool)
        for start, end, _ in self.spans:
            hit = (addresses >= start) & (addresses + size <= end)
            if verb == "writes" and hit.any():
                self.written.add(start)
            inside |= hit
        if not inside.all():
            raise Broken(self._name(int(addresses[~inside][0]), size, verb))

    def _name(self, address: int, size: int, verb: str) -> str:
        nearest = min(
            self.spans, key=lambda s: min(abs(address - s[0]), abs(address - s[1])), default=None
        )
        if nearest is None:
            return f"it {verb} memory, and was given no tensor"
        start, end, name = nearest
        if address >= end - size + 1:
            return f"it {verb} {(address - end) // size + 1} elements past the end of {name}"
        return f"it {verb} {(start - address + size - 1) // size} elements before {name}"


class TritonRunner:
    """A candidate's module, loaded with the interpreter in place of the compiler."""

    exact = False
    device = "cpu"

    def __init__(self, header: wire.Header, guard: TorchGuard) -> None:
        self._guard = guard
        self._memory = _Memory()
        self._launches: list[dict[str, Any]] = []
        self._given: list[Guarded] = []
        self._hook_launches()
        self._hook_memory()
        triton.autotune = _first_configuration
        module, self.path = load("candidate", header["source"])
        self._function = module[header["name"]]

    def call(self, inputs: dict[str, Any], guarded: list[Guarded]) -> Any:
        """Call the candidate's function."""
        self._given = guarded
        self._memory.written.clear()
        return self._function(**inputs)

    def launches(self) -> list[dict[str, Any]]:
        """What was launched: kernel, its arguments' types, its constants, its options."""
        found, self._launches = self._launches, []
        return found

    def wrote(self, output: torch.Tensor) -> bool:
        """Whether a kernel wrote to this tensor's memory in the last call."""
        return output.untyped_storage().data_ptr() in self._memory.written

    def _hook_launches(self) -> None:
        original = interpreter.GridExecutor.__call__

        def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
            names = executor.arg_names
            bound = inspect.signature(executor.fn).bind(
                *args, **{key: value for key, value in kwargs.items() if key in names}
            )
            bound.apply_defaults()
            self._launches.append(_describe(executor, bound.arguments, kwargs))
            self._memory.spans = [
                self._span(name, value)
                for name, value in bound.arguments.items()
                if isinstance(value, torch.Tensor) and value.numel()
            ]
            self._guard.launching += 1
            try:
                original(executor, *args, **kwargs)
            finally:
                self._guard.launching -= 1

        interpreter.GridExecutor.__call__ = launch

    def _span(self, name: str, tensor: torch.Tensor) -> tuple[int, int, str]:
        for given in self._given:
            if given.shares_memory(tensor):
                return given.start, given.end, name
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes(), name

    def _hook_memory(self) -> None:
        builder = interpreter.InterpreterBuilder
        memory = self._memory

        def size(pointers: Any) -> int:
            return int(np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize)

        load_, store, swap, update = (
            builder.create_masked_load,
            builder.create_masked_store,
            builder.create_atomic_cas,
            builder.create_atomic_rmw,
        )

        def create_masked_load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
            memory.check(ptrs.data, mask.data, size(ptrs), "reads")
            kind = np.dtype(interpreter._get_np_dtype(ptrs.get_element_ty()))
            if other is None and kind.kind == "f":
                blank = np.full_like(ptrs.data, np.nan, dtype=kind)
                other = interpreter.TensorHandle(blank, ptrs.get_element_ty())
            return load_(self, ptrs, mask, other, *rest)

        def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            memory.check(ptrs.data, mask.data, size(ptrs), "writes")
            return store(self, ptrs, value, mask, *rest)

        def create_atomic_cas(self: Any, ptr: Any, *rest: Any) -> Any:
            memory.check(ptr.data, True, size(ptr), "writes")
            return swap(self, ptr, *rest)

        def create_atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
            memory.check(ptr.data, mask.data, size(ptr), "writes")
            return update(self, op, ptr, val, mask, *rest)

        builder.create_masked_load = create_masked_load
        builder.create_masked_store = create_masked_store
        builder.create_atomic_cas = create_atomic_cas
        builder.create_atomic_rmw = create_atomic_rmw


def _describe(executor: Any, arguments: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in executor.constexprs or value is None:
            constants[name] = _constant(value)
        elif isinstance(value, torch.Tensor):
            types[name] = _POINTERS.get(value.dtype, str(value.dtype))
        elif isinstance(value, bool):
            types[name] = "i1"
        elif isinstance(value, int) and value == 1:
            constants[name] = 1  # the compiler takes a one as known, too
        elif isinstance(value, int):
            types[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            types[name] = type(value).__name__
    options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
    return {
        "kernel": executor.fn.__name__,
        "order": list(arguments),
        "types": types,
        "constants": constants,
        "options": options,
    }


def _constant(value: Any) -> Any:
    value = getattr(value, "value", value)  # tl.constexpr
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"dtype": str(value)}  # tl.float32 and the like


class _Tuned:
    """A kernel launched with its first configuration."""

    def __init__(self, kernel: Any, configuration: Any) -> None:
        self._kernel = kernel
        self._constants = dict(configuration.kwargs)
        self._options = {
            "num_warps": configuration.num_warps,
            "num_stages": configuration.num_stages,
        }

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def launch(*args: Any, **kwargs: Any) -> Any:
            return self._kernel[grid](*args, **{**self._constants, **self._options, **kwargs})

        return launch


def _first_configuration(configs: list[Any], *_: Any, **__: Any) -> Callable[[Any], Any]:
    """In place of `triton.autotune`, which needs a device to measure on."""
    return lambda kernel: _Tuned(kernel, configs[0])
