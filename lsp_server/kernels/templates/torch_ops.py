"""Torch's operations by name, with torch's own parameters.

Rule: what is not in the table, or is called in another way, is a NoTemplateError. Must not know
how anything is written out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lsp_server.kernels.templates.ir import NoTemplateError
from lsp_server.kernels.templates.pointwise import POINTWISE
from lsp_server.kernels.templates.reducing import REDUCING
from lsp_server.kernels.templates.shaping import SHAPING


def call(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """Return what torch's `name` gives for these arguments. Raises NoTemplateError.

    What is the same in several of torch's modules is known by its last part.
    """
    function = OPERATIONS.get(name) or OPERATIONS.get(name.rpartition(".")[2])
    if function is None:
        raise NoTemplateError(f"no template knows torch's {name}")
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as exc:
        raise NoTemplateError(f"no template knows {name} with these arguments") from exc
    return function(*bound.args, **bound.kwargs)


OPERATIONS: Mapping[str, Callable[..., Any]] = {**POINTWISE, **SHAPING, **REDUCING}
