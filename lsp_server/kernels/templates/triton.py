"""Triton kernels: every element by itself, rows in one block, everything in two steps, products.

Rule: a plan in, a module's text out. Masked lanes never reach a result: reductions put their
identity in, stores are masked. Computes in single precision (double where a tensor is).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lsp_server.kernels.templates.body import Body
from lsp_server.kernels.templates.host import Host, is_reduction
from lsp_server.kernels.templates.ir import BOOL, Node, NoTemplateError, in_order
from lsp_server.kernels.templates.places import Places
from lsp_server.kernels.templates.plan import Read, Way, factor
from lsp_server.kernels.templates.spelling import HELPERS_OF_HELPERS, TRITON, TRITON_HELPERS

ELEMENTS = 1024  # of one program
MAX_COLUMNS = 131_072  # of a row, which is one block
_IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}


def write(host: Host) -> str:
    """Return the module. Raises NoTemplateError."""
    return _Writer(host).module()


class _Writer:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.plan = host.plan
        self.body = Body(host, TRITON)
        self.type = "tl.float64" if host.double else "tl.float32"
        self.nodes = in_order(self.plan.root)
        self.places = Places(host, "//", "n" if self.plan.way is Way.MATMUL else "cols")
        self.layout: dict[str, str] = {}  # tensor → what is passed, where that is another

    def module(self) -> str:
        name = self.host.task.name
        write = {
            Way.ELEMENTWISE: self._elementwise,
            Way.ROWS: self._rows if self.plan.rows else self._whole,
            Way.MATMUL: self._product,
        }[self.plan.way]
        kernels, launch = write()
        needs_math = any("math." in line for line in launch)
        imports = ["import math", ""] if needs_math else []
        imports += ["import torch", "import triton", "import triton.language as tl"]
        wrapper = [
            self.host.signature(),
            f'    """`{name}`, computed by a Triton kernel."""',
            *(f"    {line}" for line in (*self.host.guards(), *launch)),
        ]
        helpers = [text.strip() for text in self._helpers()]
        kernel_texts = ["\n".join(lines) for lines in kernels]
        parts = ["\n".join(imports), *helpers, *kernel_texts, "\n".join(wrapper)]
        return "\n\n\n".join(parts) + "\n"

    def _helpers(self) -> Iterator[str]:
        needed = {node.op for node in self.nodes if node.op in TRITON_HELPERS}
        for op in tuple(needed):
            needed.update(HELPERS_OF_HELPERS.get(op, ()))
        return (text for op, text in TRITON_HELPERS.items() if op in needed)

    # --- every element by itself --------------------------------------------------------------

    def _elementwise(self) -> tuple[list[list[str]], list[str]]:
        lines = [
            "offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
            "mask = offsets < n",
            *self._compute("offsets", ""),
            f"tl.store(out_ptr + offsets, {self._result()}, mask=mask)",
        ]
        kernel = self._kernel("kernel", ["n"], lines)
        grid = f"grid = (triton.cdiv(n, {ELEMENTS}),)"
        call = self._call("kernel", "grid", ["n"], f"BLOCK={ELEMENTS}")
        return [kernel], [
            self.host.empty_result(self.host.dtype()),
            *self._lay_out(),
            "n = out.numel()",
            *self._unless_empty("n"),
            grid,
            call,
            self._return(),
        ]

    # --- rows ---------------------------------------------------------------------------------

    def _rows(self) -> tuple[list[list[str]], list[str]]:
        vector = self.plan.is_vector(self.plan.root)
        lines = [
            "row = tl.program_id(0).to(tl.int64)",
            "offsets = tl.arange(0, BLOCK)",
            "mask = offsets < cols",
            *self._compute("row", "offsets"),
        ]
        place = "row * cols + offsets, " if vector else "row, "
        masked = ", mask=mask" if vector else ""
        lines.append(f"tl.store(out_ptr + {place}{self._result()}{masked})")
        kernel = self._kernel("kernel", ["cols"], lines)
        call = self._call("kernel", "(rows,)", ["cols"], "BLOCK=block, num_warps=warps")
        return [kernel], [
            f"rows = {self.host.row_count()}",
            f"cols = {self.host.product(self.plan.columns)}",
            f"if not 0 < cols <= {MAX_COLUMNS}:",
            f'    raise ValueError(f"this kernel takes rows of 1 to {MAX_COLUMNS}, not {{cols}}")',
            self.host.empty_result(self.host.dtype()),
            *self._lay_out(),
            *self._unless_empty("rows"),
            "block = triton.next_power_of_2(cols)",
            "warps = min(max(block // 512, 1), 16)",
            call,
            self._return(),
        ]

    # --- everything to one number ---------------------------------------------------------------

    def _whole(self) -> tuple[list[list[str]], list[str]]:
        reductions = [node for node in self.nodes if is_reduction(node)]
        if len(reductions) != 1:
            raise NoTemplateError("it goes over everything more than once")
        (reduced,) = reductions
        first = [
            "offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
            "mask = offsets < n",
            *self._compute("", "offsets", until=reduced),
            f"tl.store(partial_ptr + tl.program_id(0), {self.body.names[reduced]})",
        ]
        numbers = [self.host.numbers[node] for node in self._numbers_below(reduced)]
        partial = self._kernel("partial_kernel", ["n"], first, "partial_ptr", numbers)
        total = self.body.names[reduced]
        identity = _IDENTITY[reduced.op]
        second = [
            f"acc = tl.full((BLOCK,), {identity}, {self.type})",
            "for start in range(0, count, BLOCK):",
            "    offsets = start + tl.arange(0, BLOCK)",
            f"    value = tl.load(partial_ptr + offsets, mask=offsets < count, other={identity})",
            f"    acc = {_COMBINE[reduced.op]}",
            f"{total} = {self._reduced(reduced, 'acc')}",
        ]
        above = [node for node in self.nodes if reduced in in_order(node) and node is not reduced]
        second += self.body.statements(above, _assign)
        second.append(f"tl.store(out_ptr, {self._result()})")
        # What is not below the reduction can only be numbers: a tensor would give more than one.
        if any(node.op == "load" and node not in in_order(reduced) for node in self.nodes):
            raise NoTemplateError("a tensor meets the result of going over everything")
        late = [name for node, name in self.host.numbers.items() if self._is_above(node, reduced)]
        finish = [
            "@triton.jit",
            f"def _{self.host.task.name}_finish_kernel("
            f"{', '.join(['partial_ptr', 'out_ptr', 'count', *late, 'BLOCK: tl.constexpr'])}):",
            *(f"    {line}" for line in second),
        ]
        kind = "float64" if self.host.double else "float32"
        device = self.host.tensors[0].name
        tensors = [self._pointer_argument(one.name) for one in self.host.tensors]
        early = [*tensors, "partial", "n", *self._size_arguments(), *numbers]
        name = self.host.task.name
        launch = [
            f"n = {self.host.column_count()}",
            "if n == 0:",
            '    raise ValueError("this kernel needs at least one element")',
            self.host.empty_result(self.host.dtype()),
            *self._lay_out(),
            f"count = triton.cdiv(n, {ELEMENTS})",
            f"partial = torch.empty((count,), dtype=torch.{kind}, device={device}.device)",
            f"_{name}_partial_kernel[(count,)]({', '.join([*early, f'BLOCK={ELEMENTS}'])})",
            f"_{name}_finish_kernel[(1,)]({', '.join(['partial', 'out', 'count', *late])}, "
            f"BLOCK={ELEMENTS})",
            self._return(),
        ]
        return [partial, finish], launch

    def _numbers_below(self, reduced: Node) -> list[Node]:
        below = {arg for node in in_order(reduced) if not node.number for arg in node.args}
        return [node for node in self.host.numbers if node in below]

    def _is_above(self, number: Node, reduced: Node) -> bool:
        below = set(in_order(reduced))
        return any(
            number in node.args for node in self.nodes if not node.number and node not in below
        )

    # --- one matrix product ---------------------------------------------------------------------

    def _product(self) -> tuple[list[list[str]], list[str]]:
        product = self.plan.product
        assert product is not None
        if self.host.double:
            raise NoTemplateError("double precision has no fast matrix product")
        left, right = (factor(arg) for arg in product.args)
        a, b = left.name, right.name
        declared = {one.name: one.dtype for one in self.host.task.parameters}
        same = not (left.cast or right.cast) and declared[a] == declared[b]
        to = "" if same else ".to(tl.float32)"
        acc = self.body.names[product] = "acc"
        epilogue = list(self._compute("row[:, None]", "col[None, :]"))
        lines = [
            "row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)",
            "col = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)",
            "acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)",
            "for start in range(0, k, BLOCK_K):",
            "    inner = start + tl.arange(0, BLOCK_K)",
            "    a = tl.load(",
            f"        {a}_ptr + row[:, None] * stride_am + inner[None, :] * stride_ak,",
            "        mask=(row[:, None] < m) & (inner[None, :] < k),",
            "        other=0.0,",
            "    )",
            "    b = tl.load(",
            f"        {b}_ptr + inner[:, None] * stride_bk + col[None, :] * stride_bn,",
            "        mask=(inner[:, None] < k) & (col[None, :] < n),",
            "        other=0.0,",
            "    )",
            f'    {acc} = tl.dot(a{to}, b{to}, {acc}, input_precision="ieee")',
            "mask = (row[:, None] < m) & (col[None, :] < n)",
            *epilogue,
            "place = row[:, None] * n + col[None, :]",
            f"tl.store(out_ptr + place, {self._result()}, mask=mask)",
        ]
        strides = ["stride_am", "stride_ak", "stride_bk", "stride_bn"]
        blocks = ["BLOCK_M", "BLOCK_N", "BLOCK_K"]
        pointers = [f"{one.name}_ptr" for one in self.host.tensors]
        given = [*pointers, "out_ptr", "m", "n", "k", *strides, *self.places.sizes]
        given += [*self.host.numbers.values(), *(f"{block}: tl.constexpr" for block in blocks)]
        name = self.host.task.name
        kernel = [
            "@triton.jit",
            f"def _{name}_kernel(",
            *(f"    {part}," for part in given),
            "):",
            *(f"    {line}" for line in lines),
        ]
        a_stride = [f"{a}_rows.stride(1)", f"{a}_rows.stride(0)"]
        b_stride = [f"{b}.stride(1)", f"{b}.stride(0)"]
        strides_of = [*(a_stride if left.swapped else a_stride[::-1])]
        strides_of += b_stride if right.swapped else b_stride[::-1]
        width = f"{a}_rows.shape[{0 if left.swapped else 1}]"
        height = f"{a}_rows.shape[{1 if left.swapped else 0}]"
        rows = (
            f"{a}_rows = {a}"
            if left.swapped or len(product.shape) == 2
            else (f"{a}_rows = {a}.reshape(-1, {a}.shape[-1])")
        )
        self.layout[a] = f"{a}_rows"
        tensors = [self._pointer_argument(one.name) for one in self.host.tensors]
        passed = [*tensors, "out", "m", "n", "k", *strides_of, *self._size_arguments()]
        passed += self.host.numbers.values()
        return [kernel], [
            self.host.empty_result(self.host.dtype()),
            *self._lay_out(skip=(a, b)),
            rows,
            f"m, k = {height}, {width}",
            f"n = {b}.shape[{0 if right.swapped else 1}]",
            *self._unless_empty("m * n"),
            "grid = (triton.cdiv(m, 64), triton.cdiv(n, 64))",
            f"_{name}_kernel[grid](",
            *(f"    {part}," for part in (*passed, "BLOCK_M=64", "BLOCK_N=64", "BLOCK_K=32")),
            ")",
            self._return(),
        ]

    # --- parts of kernels -----------------------------------------------------------------------

    def _compute(self, row: str, column: str, *, until: Node | None = None) -> Iterator[str]:
        """Write the loads, reductions and named parts below the result, or below `until`."""
        nodes = self.nodes if until is None else in_order(until)
        below_product = set(in_order(self.plan.product)) if self.plan.product else set()
        for node in nodes:
            if node.number or (node in below_product):
                continue
            if node.op == "load":
                yield self._load(node, row, column)
            elif is_reduction(node):
                (arg,) = node.args
                if node.op not in _IDENTITY:
                    raise NoTemplateError(f"there is no {node.op} for this language")
                vector = self.plan.is_vector(arg)
                inner = self.body.expression(arg)
                masked = f"tl.where(mask, {inner}, {_IDENTITY[node.op]})"
                if not vector:
                    raise NoTemplateError("it reduces what does not change along the row")
                text = self._reduced(node, masked)
                yield f"{self.body.name(node, _REDUCED[node.op])} = {text}"
            elif self.host.narrows(node):
                kept = self._element_type(node)
                text = self.body.expression(node.args[0])
                text = text if text.isidentifier() else f"({text})"
                yield f"{self.body.name(node, 'rounded')} = {text}.to({kept}).to({self.type})"
            else:
                yield from self.body.statements([node], _assign)

    def _element_type(self, node: Node) -> str:
        """The dtype that the reference rounds to on the way."""
        if len(node.dtype) != 1:
            raise NoTemplateError("it rounds to a dtype that several tensors decide")
        (token,) = node.dtype
        return f"tl.{token[1:]}" if token.startswith("=") else f"{token}_ptr.dtype.element_ty"

    def _reduced(self, node: Node, vector: str) -> str:
        if node.op == "sum":
            return f"tl.sum({vector}, axis=0)"
        plain = f"tl.{node.op}({vector}, axis=0)"
        if node.nan_safe:
            return plain
        inner = "acc" if vector == "acc" else self.body.expression(node.args[0])
        flags = f"{inner} != {inner}" if inner.isidentifier() else f"({inner}) != ({inner})"
        unmasked = flags if vector == "acc" else f"mask & ({flags})"
        return f'tl.where(tl.sum(({unmasked}).to(tl.int32), axis=0) > 0, float("nan"), {plain})'

    def _load(self, node: Node, row: str, column: str) -> str:
        read = self.plan.read(node)
        place = self.places.place(node.name, read, row, column)
        name = self.body.names[node] = self.host.value_name(node.name)
        if place == "0":
            loaded = f"tl.load({node.name}_ptr)"
        else:
            mask = self._mask(read, row, column)
            other = "" if not mask else f", mask={mask}, other=0.0"
            loaded = f"tl.load({node.name}_ptr + {place}{other})"
        if node.dtype == BOOL:
            return f"{name} = {loaded.replace('other=0.0', 'other=0')} != 0"
        return f"{name} = {loaded}.to({self.type})"

    def _mask(self, read: Read, row: str, column: str) -> str:
        """The mask for what a load's place varies with."""
        if self.plan.way is Way.MATMUL:
            tests = [f"({row} < m)"] * (read.row is not None)
            tests += [f"({column} < n)"] * (read.column is not None)
            return " & ".join(tests) if len(tests) == 2 else "".join(tests).strip("()")
        varies = read.row if self.plan.way is Way.ELEMENTWISE else read.column
        return "mask" if varies is not None else ""

    def _result(self) -> str:
        return self.body.expression(self.plan.root)

    def _kernel(
        self,
        kind: str,
        counts: Sequence[str],
        lines: Sequence[str],
        out: str = "out_ptr",
        numbers: Sequence[str] | None = None,
    ) -> list[str]:
        pointers = [f"{one.name}_ptr" for one in self.host.tensors]
        numbers = list(self.host.numbers.values()) if numbers is None else numbers
        given = [*pointers, out, *counts, *self.places.sizes, *numbers, "BLOCK: tl.constexpr"]
        return [
            "@triton.jit",
            f"def _{self.host.task.name}_{kind}({', '.join(given)}):",
            *(f"    {line}" for line in lines),
        ]

    def _call(self, kind: str, grid: str, counts: Sequence[str], constants: str) -> str:
        tensors = [self._pointer_argument(one.name) for one in self.host.tensors]
        passed = [*tensors, "out", *counts, *self._size_arguments(), *self.host.numbers.values()]
        return f"_{self.host.task.name}_{kind}[{grid}]({', '.join([*passed, constants])})"

    def _size_arguments(self) -> list[str]:
        """What `_size_lines` named, and what is a number."""
        return [value if value.isdecimal() else name for name, value in self.places.sizes.items()]

    def _pointer_argument(self, name: str) -> str:
        return self.layout.get(name, name)

    # --- parts of the wrapper -------------------------------------------------------------------

    def _lay_out(self, skip: Sequence[str] = ()) -> list[str]:
        lines = []
        for one in self.host.tensors:
            if one.name not in skip:
                read = self.plan.read(self.host.loads()[one.name])
                lines.append(f"{one.name} = {self.host.laid_out(one.name, read)}")
        return self.host.number_lines() + self._size_lines() + lines

    def _size_lines(self) -> list[str]:
        """Sizes are taken before the tensors are reordered."""
        return [
            f"{name} = {value}"
            for name, value in self.places.sizes.items()
            if not value.isdecimal()
        ]

    def _unless_empty(self, count: str) -> list[str]:
        return [f"if {count} == 0:", f"    {self._return()}"]

    def _return(self) -> str:
        return f"return out{self.host.restored()}"


_REDUCED = {"sum": "total", "max": "top", "min": "bottom", "prod": "product"}
_COMBINE = {
    "sum": "acc + value",
    "max": "tl.where((value > acc) | (value != value), value, acc)",
    "min": "tl.where((value < acc) | (value != value), value, acc)",
}


def _assign(name: str, text: str, node: Node) -> str:
    return f"{name} = {text}"
