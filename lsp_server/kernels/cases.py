"""Which inputs a kernel is tried with: sizes, types, layouts, seeds, values that catch tricks.

Rule: pure; the plan is fixed but for its seed, which is drawn anew for each verification, so that
no candidate can have been written for its inputs. Must not know torch, or what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
_MIDDLE = 0  # the row that layouts and hidden values use
_HALF = {"float16", "bfloat16"}
MAX_ELEMENTS = 2**22  # of all inputs of one case; larger ones are not tried

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


def plan(task: Task, seed: int, types: tuple[str, ...]) -> tuple[Case, ...]:
    """All cases for these types: those of level 3 first, the first of each type before others."""
    free = names(task.parameters)
    rows: Sizes = _ONE_NAME if len(free) == 1 else _MORE_NAMES if free else ((),)
    rows = tuple(row for row in rows if _elements(task, free, row) <= MAX_ELEMENTS) or rows[:1]
    tensors = [p for p in task.parameters if p.kind == "tensor"]
    layouts = ["strided"] if tensors else []
    layouts += ["transposed"] if any(len(p.shape) > 1 for p in tensors) else []
    has_numbers = any(p.kind == "float" for p in task.parameters)
    first, middle = rows[0], rows[_MIDDLE]

    def wanted() -> Iterator[tuple[Level, tuple[int, ...], str, str, str, str]]:
        for dtype in types:
            yield Level.CORRECT, first, dtype, "contiguous", "normal", "given"
        for dtype in types:
            for row in rows[1:]:
                yield Level.CORRECT, row, dtype, "contiguous", "normal", "given"
            for layout in layouts:
                yield Level.CORRECT, middle, dtype, layout, "normal", "given"
        # Two calls in a row with other data of the same sizes: nothing may be kept from the first.
        for _ in range(2):
            yield Level.ROBUST, middle, types[0], "contiguous", "normal", "given"
        for values in HIDDEN if tensors else ():
            yield Level.ROBUST, middle, types[0], "contiguous", values, "given"
        if has_numbers:
            yield Level.ROBUST, middle, types[0], "contiguous", "normal", "other"

    return tuple(
        Case(
            index=index,
            level=level,
            sizes=tuple(
                zip(free, row[: len(free)] + row[-1:] * (len(free) - len(row)), strict=True)
            ),
            dtype=dtype,
            layout=layout,
            values=values,
            seed=(seed + index) % 2**31,
            numbers=given,
        )
        for index, (level, row, dtype, layout, values, given) in enumerate(wanted())
    )


def _elements(task: Task, free: tuple[str, ...], row: tuple[int, ...]) -> int:
    sizes = {name: row[min(i, len(row) - 1)] for i, name in enumerate(free)}
    return sum(_count(p.shape, sizes) for p in task.parameters if p.kind == "tensor")


def _count(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> int:
    count = 1
    for size in shape:
        count *= sizes[size] if isinstance(size, str) else size
    return count
