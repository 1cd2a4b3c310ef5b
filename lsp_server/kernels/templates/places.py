"""Where a tensor's elements lie, as a kernel computes it from its indices, and the sizes for that.

Rule: the index arithmetic that all languages share; must not know loops, masks or statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lsp_server.kernels.templates.host import Host
from lsp_server.kernels.templates.plan import Read, Run


@dataclass(slots=True)
class Places:
    """`sizes` collects the kernel's size parameters, each with its value on the host."""

    host: Host
    divide: str  # the operator that rounds down
    columns: str  # what the kernel calls the number of columns
    sizes: dict[str, str] = field(default_factory=dict)

    def place(self, name: str, read: Read, row: str, column: str) -> str:
        """Write the offset of tensor `name`'s element in a row and a column, in elements."""
        parts = []
        if read.row is not None:
            text = self._part(name, "row", read.row, row)
            if read.column is not None:
                width = self._size(name, "width", read.column.count)
                text = f"({text}) * {width}" if " " in text else f"{text} * {width}"
            parts.append(text)
        if read.column is not None:
            parts.append(self._part(name, "col", read.column, column))
        return " + ".join(parts) or "0"

    def _part(self, name: str, kind: str, run: Run, index: str) -> str:
        text = index
        if run.inner:
            text = f"{text} {self.divide} {self._size(name, f'{kind}_inner', run.inner)}"
        if run.size is not None:
            text = f"{text} % {self._size(name, f'{kind}_size', run.size)}"
        return text

    def _size(self, name: str, kind: str, axes: Sequence[int]) -> str:
        if tuple(axes) == self.host.plan.columns:
            return self.columns
        value = self.host.product(axes)
        for known, text in self.sizes.items():
            if text == value:
                return known
        made = self.host.names.new(f"{name}_{kind}")
        self.sizes[made] = value
        return made
