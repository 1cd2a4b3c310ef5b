"""What a reference computes, as a graph: a node per operation on tensors or numbers.

Rule: a node knows its shape and its dtype as far as the parameters say them; sizes are names or
numbers, as in `Parameter`. What is not certain is a `NoTemplateError` with the reason. Pure; knows
neither PyTorch's names nor the language that a kernel is written in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

Size = int | str
Shape = tuple[Size, ...]
# What a dtype is promoted from: parameters by name, and fixed dtypes as "=float32".
Dtype = frozenset[str]
BOOL: Dtype = frozenset({"=bool"})
NUMBER: Dtype = frozenset()

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})
REDUCTIONS = frozenset({"sum", "prod", "max", "min"})
VIEWS = frozenset({"view", "drop", "permute"})  # the same elements under another shape


class NoTemplateError(ValueError):
    """No template is sure of this reference; the message says what stands in the way."""


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation. `number` marks what is no tensor: a parameter, a size, a constant."""

    op: str
    args: tuple[Node, ...] = ()
    shape: Shape = ()
    dtype: Dtype = NUMBER
    number: bool = False
    name: str = ""  # of a load or a scalar: the parameter; of a size: the dimension
    value: float = 0.0  # of a constant
    dims: tuple[int, ...] = ()  # that a reduction goes over, or that a view inserted
    keepdim: bool = False
    nan_safe: bool = False  # NaN shows in the result without a maximum's help


def constant(value: float | int | bool) -> Node:
    """Return a number that is known now."""
    return Node("const", value=float(value), number=True)


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes have together. Raises NoTemplateError where they have none."""
    result: list[Size] = []
    for at in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {shape[-at] for shape in shapes if len(shape) >= at} - {1}
        if len(sizes) > 1:
            together = ", ".join(str(shape) for shape in shapes)
            raise NoTemplateError(f"the shapes {together} do not go together")
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def elementwise(op: str, *args: Node) -> Node:
    """Return `op` on broadcast arguments; a comparison's dtype is bool."""
    shape = broadcast(*(arg.shape for arg in args))
    dtype = BOOL if op in COMPARISONS else promote(args[1:] if op == "where" else args)
    return Node(op, args, shape, dtype, number=all(arg.number for arg in args))


def promote(args: tuple[Node, ...]) -> Dtype:
    """Return the dtype of several; bool gives way to any other."""
    together: Dtype = frozenset().union(*(arg.dtype for arg in args))
    return together - BOOL or together


def reduction(op: str, arg: Node, dims: tuple[int, ...], *, keepdim: bool) -> Node:
    """Return a sum, product, maximum or minimum over `dims` (not negative, sorted)."""
    shape = tuple(
        1 if at in dims else size for at, size in enumerate(arg.shape) if keepdim or at not in dims
    )
    return Node(op, (arg,), shape, arg.dtype, dims=dims, keepdim=keepdim)


def in_order(root: Node) -> list[Node]:
    """Return the nodes below `root`, arguments first, each once."""
    found: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            found[node] = None
        elif node not in found:
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args)]
    return list(found)


def below(node: Node, through: Collection[str]) -> Node:
    """Return the first node at or below `node` that is none of the operations `through`."""
    while node.op in through:
        (node,) = node.args
    return node
