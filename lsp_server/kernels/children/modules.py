"""Loads a module's source, flattens what its function returns, and explains what it raised.

Rule: the source lies in a real file, since Triton and Numba read it again. Sandbox only.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def load(
    name: str,
    source: str,
    *,
    prepare: Callable[[dict[str, Any]], None] | None = None,
    compiled: Callable[[str, str], types.CodeType] | None = None,
) -> tuple[dict[str, Any], str]:
    """Run a module's source. Returns its names, and the path that its code has."""
    path = Path("/tmp") / f"{name}.py"  # noqa: S108
    path.write_text(source, encoding="utf-8")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    if prepare is not None:
        prepare(module.__dict__)
    code = compiled(source, str(path)) if compiled else compile(source, str(path), "exec")
    exec(code, module.__dict__)  # noqa: S102
    return module.__dict__, str(path)


def flatten(result: Any) -> tuple[list[torch.Tensor], str]:
    """The tensors that a function returned, and their arrangement in words."""
    if isinstance(result, torch.Tensor):
        return [result], "a tensor"
    if isinstance(result, bool | int | float):
        return [torch.tensor(result)], f"a number ({type(result).__name__})"
    if isinstance(result, tuple | list):
        if not all(isinstance(one, torch.Tensor) for one in result):
            raise ValueError("it returns something else than tensors and numbers")
        return list(result), f"{type(result).__name__} of {len(result)} tensors"
    raise ValueError(f"it returns {type(result).__name__}, neither tensors nor a number")


def explain(error: BaseException, path: str = "") -> dict[str, Any]:
    """What went wrong, and the last line of `path` that is to blame (0 where none is)."""
    line = 0
    reason = ""
    current: BaseException | None = error
    while current is not None:
        trace = current.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == path:
                line = trace.tb_lineno
            trace = trace.tb_next
        message = str(current).strip()
        reason = f"{type(current).__name__}: {message}" if message else type(current).__name__
        current = current.__cause__
    if not line and path:
        found = re.findall(re.escape(Path(path).name) + r'"?, line (\d+)', str(error))
        line = int(found[-1]) if found else 0
    return {"reason": reason[:2000], "line": line}
