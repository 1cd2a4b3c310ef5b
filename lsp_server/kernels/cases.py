"""Which inputs a kernel is tried with: sizes, types, layouts, seeds, values that catch tricks.

Rule: pure; the plan is fixed but for its seed, which is drawn anew for each verification, so that
no candidate can have been written for its inputs. Must not know torch, or what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from typing import Any

from backends.errors import BadRequest
from lsp_server.kernels.task import Language, Level, Parameter, Task

# Sizes for each free size name in order of appearance; a row is a case. Odd, 1, and past the usual
# block sizes (64, 128, 1024), so that a missing mask shows.
Sizes = tuple[tuple[int, ...], ...]
_ONE_NAME: Sizes = ((1000,), (1,), (7,), (129,), (1025,), (2500,))
_MORE_NAMES: Sizes = (
    (17, 33, 9, 5),
    (1, 1, 1, 1),
    (3, 129, 20, 2),
    (65, 70, 31, 3),
    (2, 1025, 3, 4),
    (33, 1, 17, 2),
)
_HALF = {"float16", "bfloat16"}
MAX_ELEMENTS = 2**22  # of all inputs of one case; larger ones are not tried
# Of a case's free sizes times the largest fixed part of an input, about what a product with fixed
# weights costs: torch takes seconds for 2**29 in float16 where the processor has no such numbers.
MAX_WORK = 2**29
MAX_BYTES = 192 * 2**20  # of all inputs of a plan, which are one answer of the reference's process

_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float64", "int64"), 8),
}

TOLERANCE = {"float16": 1e-2, "bfloat16": 1e-2, "float64": 1e-6}  # others: below
TOLERANCE_FLOAT32 = 1e-4

HIDDEN = ("times 3", "times 0.01", "times -1", "zeros", "with infinities", "with NaN")


@dataclass(frozen=True, slots=True)
class Case:
    """One call. `layout` is "contiguous", "strided" or "transposed"; `values` is "normal" or one of
    HIDDEN; `numbers` says whether numbers are as given or changed a little.
    """

    index: int
    level: Level
    sizes: tuple[tuple[str, int], ...]
    dtype: str  # "" as declared
    layout: str
    values: str
    seed: int
    numbers: str = "given"

    def describe(self) -> str:
        """The case in words: "N = 33, float16, transposed, seed 7"."""
        words = [f"{name} = {size}" for name, size in self.sizes]
        words += [self.dtype or "types as declared"]
        words += [
            word for word in (self.layout, self.values) if word not in ("contiguous", "normal")
        ]
        words += ["other numbers"] if self.numbers != "given" else []
        return ", ".join([*words, f"seed {self.seed}"])

    def to_json(self) -> dict[str, Any]:
        """As the child programs read it."""
        return {**asdict(self), "level": int(self.level), "sizes": dict(self.sizes)}


def other(value: float) -> float:
    """Another number in place of one that was given, to see that a kernel does not ignore it."""
    return value * 1.5 if abs(value) >= 1e-2 else value + 0.25


def numbers(parameters: tuple[Parameter, ...], case: Case) -> dict[str, float | int | bool | None]:
    """What the parameters that are no tensors are called with in a case."""
    return {
        p.name: other(p.value)
        if p.kind == "float" and p.value is not None and case.numbers == "other"
        else p.value
        for p in parameters
        if p.kind != "tensor"
    }


def dtypes(task: Task) -> tuple[str, ...]:
    """What the floating tensors are tried as, the declared type first.

    A Triton kernel works on any; C, Numba and CUDA name the type in their source.
    """
    declared = [p.dtype for p in task.parameters if p.kind == "tensor" and "float" in p.dtype]
    if not declared:
        return ("",)
    first = declared[0]
    if task.language is not Language.TRITON or len(set(declared)) > 1:
        return (first if len(set(declared)) == 1 else "",)
    return (first, "float32" if first in _HALF else "float16")


def names(parameters: tuple[Parameter, ...]) -> tuple[str, ...]:
    """The free size names, in order of appearance."""
    found = [size for p in parameters for size in p.shape if isinstance(size, str)]
    return tuple(dict.fromkeys(found))


def described(task: Task) -> dict[str, Any]:
    """What the child programs are told of a task: its parameters, and what counts as equal."""
    return {
        "parameters": [
            {"name": p.name, "kind": p.kind, "shape": list(p.shape), "dtype": p.dtype}
            for p in task.parameters
        ],
        "tolerance": {**TOLERANCE, "float32": TOLERANCE_FLOAT32},
    }


def plan(task: Task, seed: int, types: tuple[str, ...]) -> tuple[Case, ...]:
    """The cases to try, of `whole` as many as MAX_BYTES has room for, in the same order.

    The first of each type and one of each level are always among them. Raises BadRequest where
    there is no room for these.
    """
    cases = whole(task, seed, types)
    needed = [*cases[: len(types)], next(case for case in cases if case.level is Level.ROBUST)]
    levels = ([case for case in cases if case.level is level] for level in Level)
    turns = [case for case in chain.from_iterable(zip_longest(*levels)) if case is not None]
    kept: set[int] = set()
    taken = 0
    for case in (*needed, *turns):
        size = input_bytes(task, case)
        if case.index not in kept and taken + size <= MAX_BYTES:
            kept.add(case.index)
            taken += size
    if any(case.index not in kept for case in needed):
        most = max(input_bytes(task, case) for case in needed)
        raise BadRequest(
            f"The inputs of {task.name} are too large to check a kernel with: one call takes "
            f"{most / 2**20:.0f} MiB, and {len(needed)} calls may take {MAX_BYTES // 2**20} MiB "
            "together. Give smaller shapes."
        )
    return tuple(case for case in cases if case.index in kept)


def whole(task: Task, seed: int, types: tuple[str, ...]) -> tuple[Case, ...]:
    """All cases for these types: those of level 3 first, the first of each type before others."""
    free = names(task.parameters)
    rows: Sizes = _ONE_NAME if len(free) == 1 else _MORE_NAMES if free else ((),)
    rows = _affordable(task, free, rows)
    first = next((row for row in rows if 1 not in row), rows[0])  # layouts and hidden values too
    tensors = [p for p in task.parameters if p.kind == "tensor"]
    layouts = ["strided"] if tensors else []
    layouts += ["transposed"] if any(len(p.shape) > 1 for p in tensors) else []
    has_numbers = any(p.kind == "float" for p in task.parameters)

    def wanted() -> Iterator[tuple[Level, tuple[int, ...], str, str, str, str]]:
        for dtype in types:
            yield Level.CORRECT, first, dtype, "contiguous", "normal", "given"
        for dtype in types:
            for row in rows:
                if row != first:
                    yield Level.CORRECT, row, dtype, "contiguous", "normal", "given"
            for layout in layouts:
                yield Level.CORRECT, first, dtype, layout, "normal", "given"
        # Two calls in a row with other data of the same sizes: nothing may be kept from the first.
        for _ in range(2):
            yield Level.ROBUST, first, types[0], "contiguous", "normal", "given"
        for values in HIDDEN if tensors else ():
            yield Level.ROBUST, first, types[0], "contiguous", values, "given"
        if has_numbers:
            yield Level.ROBUST, first, types[0], "contiguous", "normal", "other"

    return tuple(
        Case(
            index=index,
            level=level,
            sizes=tuple(_sizes(free, row).items()),
            dtype=dtype,
            layout=layout,
            values=values,
            seed=(seed + index) % 2**31,
            numbers=given,
        )
        for index, (level, row, dtype, layout, values, given) in enumerate(wanted())
    )


def input_bytes(task: Task, case: Case) -> int:
    """How many bytes a case's tensors take."""
    sizes = dict(case.sizes)
    return sum(
        _count(p.shape, sizes) * _BYTES[(case.dtype if "float" in p.dtype else "") or p.dtype]
        for p in task.parameters
        if p.kind == "tensor"
    )


def _affordable(task: Task, free: tuple[str, ...], rows: Sizes) -> Sizes:
    """The rows whose inputs are neither too many nor too costly, at least the smallest one."""
    shapes = [p.shape for p in task.parameters if p.kind == "tensor"]
    ones = dict.fromkeys(free, 1)
    fixed = max((_count(shape, ones) for shape in shapes), default=1)

    def elements(row: tuple[int, ...]) -> int:
        sizes = _sizes(free, row)
        return sum(_count(shape, sizes) for shape in shapes)

    def affordable(row: tuple[int, ...]) -> bool:
        work = fixed * math.prod(_sizes(free, row).values())
        return elements(row) <= MAX_ELEMENTS + fixed and work <= MAX_WORK

    return tuple(row for row in rows if affordable(row)) or (min(rows, key=elements),)


def _sizes(free: tuple[str, ...], row: tuple[int, ...]) -> dict[str, int]:
    return {name: row[min(i, len(row) - 1)] for i, name in enumerate(free)}


def _count(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> int:
    count = 1
    for size in shape:
        count *= sizes[size] if isinstance(size, str) else size
    return count
