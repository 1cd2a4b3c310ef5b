"""The statements of a kernel: a graph's nodes as named values and nested expressions, in order.

Rule: what is used once is written where it is used; what the reference named keeps its name; what
is used several times gets one. Knows a language's expressions, not its loops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lsp_server.kernels.templates.host import Host
from lsp_server.kernels.templates.ir import REDUCTIONS, VIEWS, Node, below, in_order
from lsp_server.kernels.templates.spelling import Spelling

MAX_DEPTH = 6  # of expressions in expressions, for those who read it

_BARE = VIEWS | {"cast"}  # written as what is below
_ELSEWHERE = _BARE | REDUCTIONS | {"load"}  # by others


@dataclass(slots=True)
class Body:
    """Names and writes nodes; `names` holds what has a name already."""

    host: Host
    spelling: Spelling
    names: dict[Node, str] = field(default_factory=dict)
    depth: dict[Node, int] = field(default_factory=dict)
    uses: Counter[Node] = field(init=False)
    wanted: dict[Node, str] = field(default_factory=dict)  # a node's name, wherever it is written

    def __post_init__(self) -> None:
        self.uses = Counter(
            below(arg, _BARE)
            for node in in_order(self.host.plan.root)
            if not node.number and node.op not in _BARE
            for arg in node.args
        )
        self.names |= self.host.numbers

    def expression(self, node: Node) -> str:
        """Write a node by the names there are."""
        return self.spelling.expression(node, self.names.get)

    def name(self, node: Node, wanted: str = "") -> str:
        """Give a node a name: the reference's own, `wanted`, or another. Always the same one."""
        if node not in self.wanted:
            label = self.host.graph.labels.get(node) or wanted or "part"
            self.wanted[node] = self.host.names.new(label)
        self.names[node] = self.wanted[node]
        return self.names[node]

    def statements(
        self, nodes: Iterable[Node], assign: Callable[[str, str, Node], str]
    ) -> Iterator[str]:
        """Write those of `nodes` (in order) that need a name; others show where they are used."""
        for node in nodes:
            if node in self.names or node.number or node.op in _ELSEWHERE:
                self._measure(node)
                continue
            depth = self._measure(node)
            if self.uses[node] > 1 or node in self.host.graph.labels or depth > MAX_DEPTH:
                if node is self.host.plan.root and node not in self.host.graph.labels:
                    continue
                text = self.expression(node)
                yield assign(self.name(node), text, node)
                self.depth[node] = 0

    def _measure(self, node: Node) -> int:
        depth = 1 + max((self.depth.get(arg, 0) for arg in node.args), default=-1)
        self.depth[node] = 0 if node in self.names else depth
        return self.depth[node]
