"""The wrapper around a kernel: its parameters, what it refuses, and how it lays out its tensors.

Rule: what all languages share of the Python that people call. It refuses what the kernel was not
made for (other dtypes, shapes, fixed values) with a sentence, and computes on the host whatever
depends on sizes and numbers alone. Must not know a kernel's language.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lsp_server.kernels import inputs
from lsp_server.kernels.task import Parameter, Task
from lsp_server.kernels.templates.ir import (
    BOOL,
    REDUCTIONS,
    VIEWS,
    Dtype,
    Node,
    NoTemplateError,
    Size,
    in_order,
)
from lsp_server.kernels.templates.plan import Plan, Read, Way
from lsp_server.kernels.templates.spelling import HOST
from lsp_server.kernels.templates.trace import Graph

HALVES = ("float16", "bfloat16", "float32")


@dataclass(slots=True)
class Names:
    """Names that are taken; a new one gets a number where it must."""

    taken: set[str]

    def new(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_2`, …, and take it."""
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


@dataclass(slots=True)
class Host:
    """A task's graph and plan, and the wrapper's parts made of them."""

    task: Task
    graph: Graph
    plan: Plan
    names: Names = field(init=False)
    numbers: dict[Node, str] = field(init=False)  # computed on the host: node → name
    function: ast.FunctionDef = field(init=False)

    def __post_init__(self) -> None:
        tree = ast.parse(self.task.source)
        self.function = next(
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == self.task.name
        )
        arguments = self.function.args
        own = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        internal = _LOCALS | (_PRODUCT_LOCALS if self.plan.way is Way.MATMUL else set())
        if clash := {argument.arg for argument in own} & internal:
            raise NoTemplateError(f"the templates use the name {min(clash)} themselves")
        self.names = Names({argument.arg for argument in own} | _RESERVED | {self.task.name})
        self.numbers = {
            node: self.names.new(self.graph.labels.get(node, "factor"))
            if node.op != "scalar"
            else node.name
            for node in self._host_numbers()
        }

    # --- what is read ------------------------------------------------------------------------

    @property
    def tensors(self) -> list[Parameter]:
        """The tensors that the kernel reads, in the parameters' order."""
        read = self.loads()
        return [one for one in self.task.parameters if one.name in read]

    def loads(self) -> dict[str, Node]:
        """One load of each tensor."""
        return {node.name: node for node in in_order(self.plan.root) if node.op == "load"}

    @property
    def double(self) -> bool:
        """Whether everything is computed in double precision."""
        return any(one.dtype == "float64" for one in self.tensors)

    @property
    def is_flag(self) -> bool:
        """Whether the result is true or false."""
        return self.plan.root.dtype == BOOL

    def narrows(self, node: Node) -> bool:
        """Whether a node is rounded to half precision before more is done with it."""
        if node.op != "cast" or node is self.plan.root or node.args[0].dtype in (BOOL, node.dtype):
            return False
        declared = {one.name: one.dtype for one in self.task.parameters}
        dtypes = {declared.get(token, token.removeprefix("=")) for token in node.dtype}
        return bool(dtypes & {"float16", "bfloat16"})

    def _host_numbers(self) -> Iterator[Node]:
        """The numbers that tensors meet, constants aside."""
        seen: set[Node] = set()
        for node in in_order(self.plan.root):
            if node.number:
                continue
            for arg in node.args:
                if arg.number and arg.op != "const" and arg not in seen:
                    seen.add(arg)
                    yield arg

    def number(self, node: Node) -> str:
        """Write a number's value in Python."""
        return HOST.expression(node, self._host_name)

    def _host_name(self, node: Node) -> str | None:
        if node.op == "scalar":
            return node.name
        return self.dimension(node.name) if node.op == "size" else None

    # --- sizes -------------------------------------------------------------------------------

    @property
    def any_rank(self) -> bool:
        """Whether more leading dimensions would mean the same, elements or rows one by one."""
        plan = self.plan
        if plan.way is Way.MATMUL:
            return False
        if any(node.op in VIEWS for node in in_order(plan.root)):
            return False
        last = len(plan.axes) - 1
        if plan.way is Way.ROWS and plan.columns != (last,):
            return False
        if not plan.axes or any(axis == 1 for axis in plan.axes):
            return False
        whole = tuple(range(len(plan.axes)))
        allowed = (whole, (), (last,)) if plan.way is Way.ROWS else (whole, ())
        return all(plan.alignment[node] in allowed for node in self.loads().values()) and any(
            plan.alignment[node] == whole for node in self.loads().values()
        )

    def whole(self) -> Node | None:
        """A load that has the full shape."""
        full = tuple(range(len(self.plan.axes)))
        return next(
            (one for one in self.loads().values() if self.plan.alignment.get(one) == full), None
        )

    def axis(self, axis: int) -> str:
        """Write an axis's size in Python."""
        return self.size(self.plan.axes[axis])

    def size(self, size: Size) -> str:
        """Write a size in Python."""
        return str(size) if isinstance(size, int) else self.dimension(size)

    def dimension(self, size: str) -> str:
        """Write a named size in Python: where a parameter has it."""
        for one in self.task.parameters:
            if one.kind == "tensor" and size in one.shape:
                at = one.shape.index(size)
                if self.any_rank:
                    at -= len(one.shape)
                return f"{one.name}.shape[{at}]"
        raise NoTemplateError(f"no parameter has the size {size}")

    def product(self, axes: Sequence[int]) -> str:
        """Write the product of axes' sizes."""
        return " * ".join(self.axis(axis) for axis in axes) or "1"

    def row_count(self) -> str:
        """Write the number of rows in Python."""
        whole = self.whole()
        if self.any_rank and whole is not None:
            return f"{whole.name}.numel() // max({whole.name}.shape[-1], 1)"
        return self.product(self.plan.rows)

    def column_count(self) -> str:
        """Write the number of columns in Python; without rows, that is of everything."""
        whole = None if self.plan.rows else self.whole()
        return self.product(self.plan.columns) if whole is None else f"{whole.name}.numel()"

    # --- the wrapper's text ------------------------------------------------------------------

    def signature(self) -> str:
        """Write the `def` line: the reference's parameters, annotated with torch's names only."""
        given = ast.parse(ast.unparse(self.function)).body[0]
        assert isinstance(given, ast.FunctionDef)
        kinds = {one.name: one.kind for one in self.task.parameters}
        for argument in (*given.args.posonlyargs, *given.args.args, *given.args.kwonlyargs):
            kind = kinds.get(argument.arg)
            argument.annotation = None
            if kind is not None:
                shown = "torch.Tensor" if kind == "tensor" else kind
                argument.annotation = ast.parse(shown, mode="eval").body
        for default in inputs.defaults(given).values():
            _literal(default)
        return f"def {self.task.name}({ast.unparse(given.args)}) -> torch.Tensor:"

    def guards(self) -> Iterator[str]:
        """Write what refuses calls that the kernel was not made for."""
        name = self.task.name
        for fixed, value in self._fixed().items():
            differs = "is not" if value is None or isinstance(value, bool) else "!="
            yield f"if {fixed} {differs} {value!r}:"
            shown = value if isinstance(value, str) else repr(value)
            said = f"this kernel of {name} is for {fixed}={shown}"
            yield f"    raise ValueError({json.dumps(said, ensure_ascii=False)})"
        yield from self._dtype_guards()
        yield from self._shape_guards()

    def _fixed(self) -> dict[str, object]:
        """Parameters that must have one value: they decided something, or are not tried."""
        found: dict[str, object] = dict(self.graph.fixed)
        tried = {one.name for one in self.task.parameters}
        for name, default in reversed(inputs.defaults(self.function).items()):
            if name not in tried:
                found[name] = _literal(default)
        return found

    def _dtype_guards(self) -> Iterator[str]:
        floats = [one for one in self.tensors if one.dtype != "bool"]
        if not floats:
            raise NoTemplateError("it reads no floating-point tensor")
        first = floats[0]
        known = ("float64",) if first.dtype == "float64" else HALVES
        shown = ", ".join(f"torch.{dtype}" for dtype in known)
        listed = f"({shown},)" if len(known) == 1 else f"({shown})"
        yield f"if {first.name}.dtype not in {listed}:"
        yield f'    raise TypeError("{first.name} must be {" or ".join(known)}")'
        for other in floats[1:]:
            if other.dtype == first.dtype:
                yield f"if {other.name}.dtype != {first.name}.dtype:"
                yield f'    raise TypeError("{other.name} and {first.name} differ in dtype")'
        for other in self.tensors:
            if other.dtype == "bool":
                yield f"if {other.name}.dtype != torch.bool:"
                yield f'    raise TypeError("{other.name} must be bool")'

    def _shape_guards(self) -> Iterator[str]:
        whole = self.whole()
        for one in self.tensors:
            if self.any_rank and whole is not None and one.name != whole.name:
                aligned = self.plan.alignment[self.loads()[one.name]]
                if len(aligned) == len(self.plan.axes):
                    yield f"if {one.name}.shape != {whole.name}.shape:"
                elif aligned:
                    yield f"if {one.name}.shape != {whole.name}.shape[-1:]:"
                else:
                    yield f"if {one.name}.numel() != 1:"
                yield f'    raise ValueError("{one.name} does not fit {whole.name}")'
            elif not self.any_rank:
                yield from self._exact_shape(one)

    def _exact_shape(self, one: Parameter) -> Iterator[str]:
        shape = ", ".join(map(str, one.shape))
        tests = [f"{one.name}.ndim != {len(one.shape)}"]
        for at, size in enumerate(one.shape):
            here = f"{one.name}.shape[{at}]"
            wanted = self.size(size)
            if wanted != here:
                tests.append(f"{here} != {wanted}")
        yield f"if {' or '.join(tests)}:"
        yield f'    raise ValueError("{one.name} must be ({shape}{"," * (len(one.shape) == 1)})")'

    def dtype(self, dtype: Dtype | None = None) -> str:
        """Write the result's dtype."""
        dtype = self.plan.root.dtype if dtype is None else dtype
        if dtype == BOOL:
            return "torch.bool"
        fixed = sorted(f"torch.{token[1:]}" for token in dtype if token.startswith("="))
        named = [one for one in self.task.parameters if one.name in dtype]
        different: dict[str, str] = {}
        for one in named:
            different.setdefault(one.dtype, f"{one.name}.dtype")
        parts = [*different.values(), *fixed]
        if not parts:
            raise NoTemplateError("the dtype of its result is not known")
        text = parts[0]
        for part in parts[1:]:
            text = f"torch.promote_types({text}, {part})"
        return text

    def number_lines(self) -> list[str]:
        """Write the numbers that are computed before the launch."""
        return [f"{name} = float({self.number(node)})" for node, name in self.numbers.items()]

    def empty_result(self, dtype: str) -> str:
        """Write the tensor that the kernel fills."""
        device = self.tensors[0].name
        return f"out = torch.empty({self.result_shape()}, dtype={dtype}, device={device}.device)"

    def result_shape(self) -> str:
        """Write the result's shape as it is stored: rows first, then columns."""
        plan = self.plan
        whole = self.whole()
        stored = self.stored()
        if self.any_rank and whole is not None:
            if len(plan.root.shape) == len(plan.axes):
                kept = plan.alignment[plan.root][-1] is not None
                return f"{whole.name}.shape" if kept else f"(*{whole.name}.shape[:-1], 1)"
            return f"{whole.name}.shape[:-1]"
        sizes = [
            "1" if axis is None else self.axis(axis)
            for axis in (plan.alignment[plan.root][at] for at in stored)
        ]
        return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"

    def stored(self) -> tuple[int, ...]:
        """The order that the result's dimensions are stored in."""
        aligned = self.plan.alignment[self.plan.root]
        turn = {axis: at for at, axis in enumerate((*self.plan.rows, *self.plan.columns))}
        free = [at for at, axis in enumerate(aligned) if axis is None]
        rest = sorted(
            (at for at, axis in enumerate(aligned) if axis is not None),
            key=lambda at: turn[aligned[at] or 0],
        )
        return (*free, *rest) if rest != sorted(rest) else tuple(range(len(aligned)))

    def restored(self) -> str:
        """Write what brings the result's dimensions back in order; empty if they are."""
        stored = self.stored()
        if stored == tuple(range(len(stored))):
            return ""
        back = ", ".join(str(stored.index(at)) for at in range(len(stored)))
        return f".permute({back})"

    def value_name(self, name: str) -> str:
        """Return what a tensor's elements are called in the kernel."""
        return self.names.new(f"{name}_value") if name in _RESERVED else name

    def laid_out(self, name: str, read: Read) -> str:
        """Write a tensor's elements in the order in which the kernel counts them."""
        moved = "" if read.order is None else f".permute({', '.join(map(str, read.order))})"
        return f"{name}{moved}.contiguous()"


_RESERVED = frozenset(
    {"torch", "triton", "tl", "math", "numba", "np", "ctypes", "out", "grid", "row", "rows", "col"}
    | {"cols", "n", "i", "offsets", "mask", "BLOCK", "partial", "acc", "start", "SOURCE", "value"}
    | {"int", "float", "double", "char", "const", "void", "for", "if", "while", "long", "short"}
    | {"index", "result", "kernel", "m", "k", "signed", "unsigned", "static", "restrict"}
    | {"register", "struct", "union", "switch", "case", "default", "auto", "volatile", "inline"}
    | {"_library", "_load", "stream", "threads", "count", "lane", "y0", "y1", "j0", "j1", "gamma"}
)


# Names of the wrapper's own variables.
_LOCALS = frozenset(
    {"out", "n", "rows", "cols", "block", "warps", "grid", "dtype", "count", "partial", "failed"}
)
_PRODUCT_LOCALS = frozenset({"m", "k"})


def _literal(default: ast.expr) -> object:
    try:
        return ast.literal_eval(default)
    except (ValueError, TypeError, SyntaxError) as exc:
        raise NoTemplateError(f"a default is no literal ({ast.unparse(default)})") from exc


def is_reduction(node: Node) -> bool:
    """Whether a node takes a row together."""
    return node.op in REDUCTIONS
