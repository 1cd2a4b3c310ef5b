"""Kernels as plain loops: C, Numba, and CUDA, where the loops are spread over threads.

Rule: a plan in, a kernel's lines out. Each reduction is a loop of its own; what a loop needs is
computed in it again rather than kept. C, Numba and CUDA differ in a table, not in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lsp_server.kernels.templates.body import Body
from lsp_server.kernels.templates.host import Host, is_reduction
from lsp_server.kernels.templates.ir import BOOL, Node, NoTemplateError, in_order
from lsp_server.kernels.templates.places import Places
from lsp_server.kernels.templates.plan import Read, Way, factor
from lsp_server.kernels.templates.spelling import Spelling


@dataclass(frozen=True, slots=True)
class Grammar:
    """How a language writes statements. `{…}` are filled in; blocks are indented by four."""

    floor_divide: str
    open_row: str
    open_column: str
    open_inner: str
    close: str  # of a block; empty where indentation is enough
    declare: str
    flag: str  # the same for true and false
    total: str  # a reduction begins
    add: dict[str, str]  # one step of a reduction, by its operation
    finish: str  # after a reduction's loop; empty where nothing is to be done
    store: str
    identity: dict[str, str]
    narrow: str = ""  # a reduction's result as the other values are; empty if it is


def grammar_c(real: str) -> Grammar:
    """Return C's statements; `real` is float or double."""
    infinite = {"max": "-INFINITY", "min": "INFINITY"}
    return Grammar(
        floor_divide="/",
        open_row="for (int64_t row = 0; row < rows; ++row) {{",
        open_column="for (int64_t col = 0; col < cols; ++col) {{",
        open_inner="for (int64_t inner = 0; inner < k; ++inner) {{",
        close="}",
        declare=f"const {real} {{name}} = {{value}};",
        flag="const int {name} = {value};",
        total="double {name} = {value};",
        add={
            "sum": "{name} += {value};",
            "prod": "{name} *= {value};",
            "max": "if ({value} > {name} || {value} != {value}) {name} = {value};",
            "min": "if ({value} < {name} || {value} != {value}) {name} = {value};",
        },
        finish="",
        store="out[{place}] = {value};",
        identity={"sum": "0.0", "prod": "1.0", **infinite},
        narrow="" if real == "double" else f"const {real} {{name}} = ({real}){{value}};",
    )


def grammar_cuda(real: str) -> Grammar:
    """Return CUDA's: rows for blocks, columns for threads."""
    return replace(
        grammar_c(real),
        open_row="for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {{",
        open_column="for (int64_t col = threadIdx.x; col < cols; col += blockDim.x) {{",
        finish="{name} = block_{op}({name});",
        total=f"{real} {{name}} = {{value}};",
        narrow="",
    )


NUMBA_GRAMMAR = Grammar(
    floor_divide="//",
    open_row="for row in range(rows):",
    open_column="for col in range(cols):",
    open_inner="for inner in range(k):",
    close="",
    declare="{name} = {value}",
    flag="{name} = {value}",
    total="{name} = {value}",
    add={
        "sum": "{name} += {value}",
        "prod": "{name} *= {value}",
        "max": "{name} = {value} if {value} > {name} or {value} != {value} else {name}",
        "min": "{name} = {value} if {value} < {name} or {value} != {value} else {name}",
    },
    finish="",
    store="out[{place}] = {value}",
    identity={"sum": "0.0", "prod": "1.0", "max": "-math.inf", "min": "math.inf"},
)


class Loops:
    """The kernel's lines and what the wrapper passes to it."""

    def __init__(self, host: Host, spelling: Spelling, grammar: Grammar, *, threads: bool) -> None:
        self.host = host
        self.plan = host.plan
        self.body = Body(host, spelling)
        self.grammar = grammar
        self.threads = threads
        self.nodes = in_order(self.plan.root)
        self.places = Places(host, grammar.floor_divide, "cols")
        self.values = {node: host.value_name(node.name) for node in self.nodes if node.op == "load"}
        self.per_element = self.plan.way is Way.ELEMENTWISE
        self.rows = bool(self.plan.rows) or self.per_element
        if any(host.narrows(node) for node in self.nodes):
            raise NoTemplateError("it rounds to half precision on the way")

    def lines(self) -> list[str]:
        """Return the kernel's body."""
        if self.plan.way is Way.MATMUL:
            return self._product()
        inner: list[str] = []
        for node in self.nodes:
            if node.number or self._is_inside(node):
                continue
            inner += self._row_level(node)
        inner += self._final()
        if not self.rows:
            return inner
        return self._block(self._open_row(), inner)

    def _open_row(self) -> str:
        if self.per_element and self.threads:
            return (
                "for (int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; row < rows; "
                "row += (int64_t)gridDim.x * blockDim.x) {"
            )
        return self.grammar.open_row.format()

    def _is_inside(self, node: Node) -> bool:
        return not self.per_element and self.plan.is_vector(node)

    def _row_level(self, node: Node) -> Iterator[str]:
        """Write what has one value in a row."""
        if node.op == "load":
            yield self._load(node)
        elif is_reduction(node):
            yield from self._reduction(node)
        else:
            yield from self.body.statements([node], self._named)

    def _reduction(self, node: Node) -> Iterator[str]:
        (arg,) = node.args
        grammar = self.grammar
        name = self.body.name(node, _REDUCED[node.op])
        yield grammar.total.format(name=name, value=grammar.identity[node.op])
        kept = dict(self.body.names)
        inner = list(self._inside(arg))
        value = self.body.expression(arg)
        if node.op in ("max", "min") and not value.isidentifier():
            fresh = self.host.names.new("value_2")
            inner.append(grammar.declare.format(name=fresh, value=value))
            value = fresh
        inner.append(grammar.add[node.op].format(name=name, value=value))
        self.body.names = kept
        yield from self._block(grammar.open_column.format(), inner)
        if grammar.finish:
            yield grammar.finish.format(name=name, op=node.op)
        if grammar.narrow:
            narrow = self.host.names.new(f"{name}_sum" if node.op == "sum" else f"{name}_value")
            yield grammar.narrow.format(name=narrow, value=name)
            self.body.names[node] = narrow

    def _inside(self, target: Node) -> Iterator[str]:
        """Write what changes along a row, below `target`; behind a reduction it is not needed."""
        needed = _within_row(target)
        for node in in_order(target):
            if node not in needed or node.number or not self._is_inside(node):
                continue
            if node.op == "load":
                yield self._load(node)
            else:
                yield from self.body.statements([node], self._named)

    def _final(self) -> Iterator[str]:
        root = self.plan.root
        if not self._is_inside(root):
            store = self.grammar.store.format(
                place="row" if self.rows else "0", value=self.body.expression(root)
            )
            if self.threads and not self.per_element:
                yield from self._block("if (threadIdx.x == 0) {", [store])
            else:
                yield store
            return
        kept = dict(self.body.names)
        inner = list(self._inside(root))
        place = "row * cols + col" if self.rows else "col"
        inner.append(self.grammar.store.format(place=place, value=self.body.expression(root)))
        self.body.names = kept
        yield from self._block(self.grammar.open_column.format(), inner)

    def _product(self) -> list[str]:
        product = self.plan.product
        assert product is not None
        operands = []
        for arg, (outer, inner) in zip(
            product.args, (("row", "inner"), ("inner", "col")), strict=True
        ):
            given = factor(arg)
            first, second = (inner, outer) if given.swapped else (outer, inner)
            width = {"inner": "k", "col": "cols", "row": "rows"}[second]
            operands.append(f"{given.name}_ptr[{first} * {width} + {second}]")
        total = self.host.names.new("product")
        self.body.names[product] = total
        lines = [self.grammar.total.format(name=total, value=self.grammar.identity["sum"])]
        step = self.grammar.add["sum"].format(name=total, value=" * ".join(operands))
        lines += self._block(self.grammar.open_inner.format(), [step])
        if self.grammar.narrow:
            narrow = self.host.names.new(f"{total}_value")
            lines.append(self.grammar.narrow.format(name=narrow, value=total))
            self.body.names[product] = narrow
        below = set(in_order(product))
        for node in self.nodes:
            if node.number or node in below:
                continue
            if node.op == "load":
                lines.append(self._load(node))
            else:
                lines += self.body.statements([node], self._named)
        value = self.body.expression(self.plan.root)
        lines.append(self.grammar.store.format(place="row * cols + col", value=value))
        return self._block(
            self.grammar.open_row.format(), self._block(self.grammar.open_column.format(), lines)
        )

    # --- parts ---------------------------------------------------------------------------------

    def _block(self, opening: str, inner: Sequence[str]) -> list[str]:
        closing = [self.grammar.close] if self.grammar.close else []
        return [opening, *(f"    {line}" for line in inner), *closing]

    def _named(self, name: str, text: str, node: Node) -> str:
        form = self.grammar.flag if node.dtype == BOOL else self.grammar.declare
        return form.format(name=name, value=text)

    def _load(self, node: Node) -> str:
        place = self.places.place(node.name, self.plan.read(node), "row", "col")
        name = self.body.names[node] = self.values[node]
        value = f"{node.name}_ptr[{place}]"
        return self._named(name, f"{value} != 0" if node.dtype == BOOL else value, node)

    # --- the wrapper -----------------------------------------------------------------------------

    def counts(self) -> dict[str, str]:
        """The kernel's sizes and their values on the host."""
        host, plan = self.host, self.plan
        if self.per_element:
            return {"rows": "out.numel()", **self.places.sizes}
        counts = {"rows": host.row_count()} if self.rows else {}
        counts["cols"] = host.column_count()
        if plan.product is not None:
            counts["k"] = host.size(plan.product.args[0].shape[-1])
        return counts | self.places.sizes

    def launch(self, kind: str, *, flat: bool) -> list[str]:
        """The wrapper's lines up to the call: numbers, sizes, tensors, the result."""
        host = self.host
        lines: list[str] = []
        late: list[str] = []
        for name, value in self.counts().items():
            (late if value.startswith("out.") else lines).append(f"{name} = {value}")
        lines += host.number_lines()
        dtype = host.dtype()
        if not host.is_flag:
            lines.append(f"dtype = {dtype}")
        lines.append(host.empty_result("torch.bool" if host.is_flag else f"torch.{kind}"))
        for one in host.tensors:
            read = self._read_of(one.name)
            cast = "" if one.dtype == "bool" else f".to(torch.{kind})"
            text = host.laid_out(one.name + cast, read)
            lines.append(f"{one.name} = {text}{'.reshape(-1)' if flat else ''}")
        return lines + late

    def _read_of(self, name: str) -> Read:
        node = self.host.loads()[name]
        if self.plan.way is Way.MATMUL and node not in self.plan.alignment:
            return Read(None, None, None)
        return self.plan.read(node)

    def finish(self) -> str:
        """The wrapper's last line."""
        cast = "" if self.host.is_flag else ".to(dtype)"
        return f"return out{self.host.restored()}{cast}"


def _within_row(target: Node) -> set[Node]:
    """The nodes that `target` takes from the same column: not those that a reduction took."""
    found: set[Node] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node not in found and not is_reduction(node):
            found.add(node)
            stack += node.args
    return found


_REDUCED = {"sum": "total", "max": "top", "min": "bottom", "prod": "product"}
