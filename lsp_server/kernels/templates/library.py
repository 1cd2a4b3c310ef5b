"""Which templates there are, and what they make of a task.

Rule: pure; a task in, candidates out, or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lsp_server.kernels.task import Candidate, Language, Task
from lsp_server.kernels.templates import sources, triton
from lsp_server.kernels.templates.host import Host
from lsp_server.kernels.templates.ir import NoTemplateError
from lsp_server.kernels.templates.plan import Way, plan
from lsp_server.kernels.templates.trace import trace

_WRITERS: Mapping[Language, Callable[[Host], str]] = {
    Language.TRITON: triton.write,
    Language.C: sources.write_c,
    Language.NUMBA: sources.write_numba,
    Language.CUDA: sources.write_cuda,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A template's candidate, or why there is none."""

    candidate: Candidate | None
    reason: str = ""


def make(task: Task) -> Made:
    """Return the candidate that the templates make of a task. Never raises for a reference."""
    try:
        graph = trace(task)
        how = plan(graph.root)
        code = _WRITERS[task.language](Host(task, graph, how))
    except NoTemplateError as exc:
        return Made(None, str(exc))
    except RecursionError:
        return Made(None, "its expressions are nested too deep")
    name = how.way if how.rows or how.way is not Way.ROWS else "reduction"
    return Made(Candidate(code, f"template:{name}"))
