"""How a graph is run: which axes are rows, which are reduced, and where each tensor is read.

Rule: three ways are known: every element by itself, rows that are reduced along the rest, and one
matrix product with elementwise work behind it. A graph that fits none is a NoTemplateError. Pure;
knows no language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lsp_server.kernels.templates.ir import (
    BOOL,
    REDUCTIONS,
    VIEWS,
    Node,
    NoTemplateError,
    Shape,
    below,
    in_order,
)

Alignment = tuple[int | None, ...]  # for each dimension of a node: its axis, None where it is 1


class Way(StrEnum):
    """How the work is spread; also the template's name, in part."""

    ELEMENTWISE = "elementwise"  # one index over everything
    ROWS = "rows"  # an index over rows, one along each
    MATMUL = "matmul"


@dataclass(frozen=True, slots=True)
class Run:
    """Where a part of an index comes from: `(index // inner) % size`, each where it is not None.

    Both are axes whose sizes are multiplied.
    """

    inner: tuple[int, ...]
    size: tuple[int, ...] | None  # None: no wrapping needed
    count: tuple[int, ...]  # the axes of the run itself


@dataclass(frozen=True, slots=True)
class Read:
    """How a tensor is read: reordered as `order` says first, then by parts of the indices."""

    order: tuple[int, ...] | None
    row: Run | None
    column: Run | None


@dataclass(frozen=True, slots=True)
class Factor:
    """A tensor that a matrix product takes."""

    name: str
    swapped: bool  # transposed
    cast: bool


@dataclass(slots=True)
class Plan:
    """A graph with its axes. `rows` and `columns` are axes, in the order they are run over."""

    way: Way
    root: Node
    axes: Shape
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    alignment: dict[Node, Alignment] = field(default_factory=dict)
    product: Node | None = None

    def is_vector(self, node: Node) -> bool:
        """Whether a node has a value for each column of a row."""
        return any(
            axis in self.columns for axis in self.alignment.get(node, ()) if axis is not None
        )

    def read(self, node: Node) -> Read:
        """Return how a load is read. Raises NoTemplateError."""
        real = [
            (axis, dim)
            for dim, axis in enumerate(self.alignment[node])
            if axis is not None and self.axes[axis] != 1
        ]
        order = {axis: at for at, axis in enumerate((*self.rows, *self.columns))}
        in_turn = sorted(real, key=lambda pair: order[pair[0]])
        rest = [dim for dim in range(len(node.shape)) if dim not in {dim for _, dim in real}]
        wanted = (*rest, *(dim for _, dim in in_turn))
        moved = None if in_turn == real else tuple(wanted)
        axes = [axis for axis, _ in in_turn]
        return Read(
            moved,
            _run([axis for axis in axes if axis in self.rows], self.rows, self.axes),
            _run([axis for axis in axes if axis in self.columns], self.columns, self.axes),
        )


def factor(node: Node) -> Factor:
    """Return what a matrix product is given. Raises NoTemplateError for what is computed."""
    swapped = cast = False
    while node.op in ("permute", "cast"):
        if node.op == "cast":
            cast = True
        elif node.dims != (1, 0):
            raise NoTemplateError("a factor of its product is transposed in another way")
        else:
            swapped = not swapped
        (node,) = node.args
    if node.op != "load" or node.dtype == BOOL:
        raise NoTemplateError("a factor of its product is computed first")
    return Factor(node.name, swapped, cast)


def _run(axes: Sequence[int], all_axes: Sequence[int], sizes: Shape) -> Run | None:
    if not axes:
        return None
    first, last = all_axes.index(axes[0]), all_axes.index(axes[-1])
    between = [axis for axis in all_axes[first : last + 1] if sizes[axis] != 1]
    if between != list(axes):
        raise NoTemplateError("a tensor is repeated along a dimension in its middle")
    before = [axis for axis in all_axes[:first] if sizes[axis] != 1]
    inner = tuple(axis for axis in all_axes[last + 1 :] if sizes[axis] != 1)
    return Run(inner, tuple(axes) if before else None, tuple(axes))


def plan(root: Node) -> Plan:
    """Return how the graph below `root` is run. Raises NoTemplateError."""
    nodes = in_order(root)
    reductions = [node for node in nodes if node.op in REDUCTIONS]
    products = [node for node in nodes if node.op == "matmul"]
    if products:
        return _of_product(root, products, reductions)
    if reductions:
        return _of_rows(root, reductions[0])
    axes = tuple(range(len(root.shape)))
    if below(root, VIEWS).op == "load":
        raise NoTemplateError("it only moves data")
    made = Plan(Way.ELEMENTWISE, root, root.shape, axes, ())
    _align(made, root, axes)
    return made


def _of_product(root: Node, products: list[Node], reductions: list[Node]) -> Plan:
    if len(products) > 1 or reductions:
        raise NoTemplateError(
            "it does more than one matrix product with elementwise work behind it"
        )
    if root.shape != products[0].shape:
        raise NoTemplateError("its result has another shape than its matrix product")
    axes = tuple(range(len(root.shape)))
    made = Plan(Way.MATMUL, root, root.shape, axes[:-1], axes[-1:], product=products[0])
    _align(made, root, axes)
    if made.alignment[products[0]] != axes:
        raise NoTemplateError("its matrix product is transposed")
    return made


def _of_rows(root: Node, first: Node) -> Plan:
    full = first.args[0].shape
    if not first.dims:
        raise NoTemplateError("it reduces nothing")
    columns = first.dims
    rows = tuple(axis for axis in range(len(full)) if axis not in columns)
    tried = []
    if len(root.shape) == len(full):
        tried.append(
            tuple(axis if size == full[axis] else None for axis, size in enumerate(root.shape))
        )
    if len(root.shape) == len(rows):
        tried.append(rows)
    reason = NoTemplateError("its result has a shape that its reductions do not give")
    for alignment in tried:
        made = Plan(Way.ROWS, root, full, rows, columns)
        try:
            _align(made, root, alignment)
        except NoTemplateError as exc:
            reason = exc
        else:
            return made
    raise reason


def _align(plan: Plan, node: Node, alignment: Alignment) -> None:
    """Note the axes of a node's dimensions, and of all below it. Raises NoTemplateError."""
    if node.number:
        return
    known = plan.alignment.get(node)
    if known is not None:
        if known != alignment:
            raise NoTemplateError("a part of it is used in two shapes")
        return
    for size, axis in zip(node.shape, alignment, strict=True):
        if axis is not None and size != plan.axes[axis]:
            raise NoTemplateError("its shapes do not go together")
        if axis is None and size != 1:
            raise NoTemplateError("its shapes do not go together")
    plan.alignment[node] = alignment
    if node.op in ("load", "matmul"):
        return
    if node.op in REDUCTIONS:
        _align(plan, node.args[0], _below_reduction(plan, node, alignment))
        return
    for arg in node.args:
        if not arg.number:
            _align(plan, arg, _below(plan, node, arg, alignment))


def _below(plan: Plan, node: Node, arg: Node, alignment: Alignment) -> Alignment:
    if node.op == "view":
        return tuple(axis for at, axis in enumerate(alignment) if at not in node.dims)
    if node.op == "drop":
        left = list(alignment)
        for at in node.dims:
            left.insert(at, None)
        return tuple(left)
    if node.op == "permute":
        pairs = dict(zip(node.dims, alignment, strict=True))
        return tuple(pairs[at] for at in range(len(node.dims)))
    end = alignment[len(alignment) - len(arg.shape) :]
    return tuple(
        None if size == 1 and axis is not None and plan.axes[axis] != 1 else axis
        for size, axis in zip(arg.shape, end, strict=True)
    )


def _below_reduction(plan: Plan, node: Node, alignment: Alignment) -> Alignment:
    (arg,) = node.args
    identity = tuple(range(len(plan.axes)))
    if node.dims != plan.columns or arg.shape != plan.axes:
        raise NoTemplateError("it reduces over different dimensions")
    kept = [axis for axis in identity if axis not in node.dims]
    given = [axis for at, axis in enumerate(alignment) if not node.keepdim or at not in node.dims]
    if any(
        axis != wanted and plan.axes[wanted] != 1 for axis, wanted in zip(given, kept, strict=True)
    ):
        raise NoTemplateError("a reduced part is used along another dimension")
    return identity
