"""A verified kernel is called from its reference, for the tensors that it was verified for.

    def softmax(x):
        if (
            x.is_cuda
            and ...
        ):
            from softmax_triton import softmax as softmax_triton

            try:
                return softmax_triton(x)
            except (NotImplementedError, TypeError, ValueError):
                pass  # it does not fit the kernel
        return x.softmax(-1)  # as before, for everything else

The import stands in the branch: the module must work where there is no Triton and no compiler.

Rule: pure: a text in, edits out. Nothing reaches the kernel that was not shown to work: other
devices, dtypes, ranks, sizes and values, and tensors that need gradients, go to the reference.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from backends.errors import BadRequest
from lsp_server.kernels import inputs
from lsp_server.kernels.task import Language, Parameter, Task

_KERNEL_MODULE = re.compile(rf"\w+_(?:{'|'.join(Language)})(?:_\d+)?")
_ON_DEVICE = {
    Language.TRITON: "{}.is_cuda",
    Language.CUDA: "{}.is_cuda",
    Language.C: '{}.device.type == "cpu"',
    Language.NUMBA: '{}.device.type == "cpu"',
}
_STEP = "    "


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `text` between two places: lines from 1, columns from 0 in characters."""

    line: int
    column: int
    end_column: int
    text: str


def insert(
    text: str, task: Task, module: str, dtypes: Sequence[str], *, in_package: bool = False
) -> tuple[Edit, ...]:
    """Return the edits that have `task.name` in `text` call `module`, from the last to the first.

    `dtypes` are what the floating tensors were verified as (`cases.dtypes`): torch's names, ""
    for as declared. Raises BadRequest.
    """
    tree = _parsed(text)
    function = _function(tree, task.name)
    if _dispatches(function):
        raise BadRequest(f"{task.name} calls a kernel already. Remove that call first.")
    relative = in_package or _imports_relatively(tree)
    torch = _torch(tree)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    call = _call(task, function, module, dtypes, torch or "torch", "." if relative else "")
    edits = [_before_body(lines, function, call)]
    if torch is None:
        edits.append(_import_torch(tree))
    return tuple(edits)


def without(text: str) -> str:
    r"""Return `text` without the calls of kernels that `insert` put in; its line ends are `\n`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    calls = _calls(text)
    lines = text.split("\n")
    for first, last in reversed(calls):
        del lines[first - 1 : last]
    return "\n".join(lines) if calls else text


def line_without(text: str, line: int) -> int:
    """Return which line of `without(text)` a line of `text` is; both from 1.

    A line of a call stands for the one that follows it.
    """
    return line - sum(
        min(last, line - 1) - first + 1 for first, last in _calls(text) if first <= line
    )


@lru_cache(maxsize=4)  # one text is asked for many lines
def _calls(text: str) -> tuple[tuple[int, int], ...]:
    """The first and last lines of the calls of kernels, in order."""
    if not any(f"_{language} import" in text or f"_{language}_" in text for language in Language):
        return ()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return tuple(
        (call.lineno, call.end_lineno or call.lineno)
        for function in functions
        for call in _dispatches(function)
    )


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as exc:
        raise BadRequest("The file with the function is no valid Python. Mend it first.") from exc


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise BadRequest(
            f"{name} is no function at the top level of the file. Call the kernel yourself where "
            "it fits."
        )
    return found[-1]


def _dispatches(function: ast.FunctionDef) -> list[ast.If]:
    """The calls of kernels in a function that look as `insert` writes them."""
    return [node for node in function.body if isinstance(node, ast.If) and _is_dispatch(node)]


def _is_dispatch(node: ast.If) -> bool:
    match node:
        case ast.If(
            body=[
                ast.ImportFrom(module=str(module), names=[ast.alias(asname=str(bound))]),
                ast.Try(
                    body=[ast.Return(value=ast.Call(func=ast.Name(id=called)))],
                    handlers=[ast.ExceptHandler(body=[ast.Pass()])],
                    orelse=[],
                    finalbody=[],
                ),
            ],
            orelse=[],
        ):
            return called == bound and _KERNEL_MODULE.fullmatch(module) is not None
    return False


def _imports_relatively(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in tree.body)


def _torch(tree: ast.Module) -> str | None:
    """The name that torch has in the module."""
    for node in tree.body:
        for name in node.names if isinstance(node, ast.Import) else ():
            if name.name == "torch":
                return name.asname or "torch"
            if name.asname is None and name.name.startswith("torch."):
                return "torch"
    return None


def _call(
    task: Task,
    function: ast.FunctionDef,
    module: str,
    dtypes: Sequence[str],
    torch: str,
    dot: str,
) -> list[str]:
    """The lines of the call, not indented."""
    first, *others = [*_conditions(task, function, dtypes, torch), *_left_out(task, function)]
    return [
        "if (",
        f"{_STEP}{first}",
        *(f"{_STEP}and {condition}" for condition in others),
        "):",
        f"{_STEP}from {dot}{module} import {task.name} as {module}",
        "",
        f"{_STEP}try:",
        f"{_STEP * 2}return {module}({_arguments(task, function)})",
        f"{_STEP}except (NotImplementedError, TypeError, ValueError):",
        f"{_STEP * 2}pass  # it does not fit the kernel",
    ]


def _arguments(task: Task, function: ast.FunctionDef) -> str:
    """What the kernel is given: a kernel need not take what has only ever its default."""
    given = function.args
    if given.vararg or given.kwarg:
        raise BadRequest(f"{function.name} takes any number of arguments, which a kernel cannot.")
    known = {parameter.name for parameter in task.parameters}
    positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    leading = list(takewhile(known.__contains__, positional))
    others = [*positional[len(leading) :], *(argument.arg for argument in given.kwonlyargs)]
    return ", ".join([*leading, *(f"{name}={name}" for name in others if name in known)])


def _conditions(
    task: Task, function: ast.FunctionDef, dtypes: Sequence[str], torch: str
) -> Iterator[str]:
    """What must hold for a call to be one of those that were verified."""
    tensors = [parameter for parameter in task.parameters if parameter.kind == "tensor"]
    if not tensors:
        raise BadRequest(f"{task.name} takes no tensor.")
    floats = [tensor.name for tensor in tensors if "float" in tensor.dtype]
    for tensor in tensors:
        if _may_be_another(tensor, function):  # None and numbers have no device to look at
            yield f"isinstance({tensor.name}, {torch}.Tensor)"
    for tensor in tensors:
        yield from _of_place(task.language, tensor, tensors[0])
        yield from _of_dtype(tensor, floats, dtypes, torch)
    yield from _of_sizes(tensors)
    for name in floats:
        yield f"not ({name}.requires_grad and {torch}.is_grad_enabled())"
    for parameter in task.parameters:
        if parameter.kind in ("int", "bool") and parameter.value is not None:
            equals = "is" if isinstance(parameter.value, bool) else "=="
            yield f"{parameter.name} {equals} {parameter.value!r}"


def _may_be_another(tensor: Parameter, function: ast.FunctionDef) -> bool:
    """Whether a parameter that was tried as a tensor may be called with something else."""
    given = function.args
    arguments = (*given.posonlyargs, *given.args, *given.kwonlyargs)
    annotations = [one.annotation for one in arguments if one.arg == tensor.name]
    said = " ".join(ast.unparse(one) for one in annotations if one is not None)
    return (
        tensor.guessed
        or tensor.name in inputs.defaults(function)
        or re.search(r"\b(?:None|Optional|Union|float|int)\b", said) is not None
    )


def _left_out(task: Task, function: ast.FunctionDef) -> Iterator[str]:
    """The parameters that were verified with their defaults alone have them."""
    known = {parameter.name for parameter in task.parameters}
    for name, default in inputs.defaults(function).items():
        if name in known:
            continue
        is_single = isinstance(default, ast.Constant) and isinstance(default.value, bool | None)
        yield f"{name} {'is' if is_single else '=='} {ast.unparse(default)}"


def _of_place(language: Language, tensor: Parameter, first: Parameter) -> Iterator[str]:
    if tensor is first:
        yield _ON_DEVICE[language].format(tensor.name)
    else:
        yield f"{tensor.name}.device == {first.name}.device"


def _of_dtype(
    tensor: Parameter, floats: Sequence[str], dtypes: Sequence[str], torch: str
) -> Iterator[str]:
    if tensor.name not in floats or "" in dtypes:
        yield f"{tensor.name}.dtype == {torch}.{tensor.dtype}"
    elif tensor.name != floats[0]:
        yield f"{tensor.name}.dtype == {floats[0]}.dtype"
    elif len(dtypes) > 1:
        yield f"{tensor.name}.dtype in ({', '.join(f'{torch}.{dtype}' for dtype in dtypes)})"
    else:
        yield f"{tensor.name}.dtype == {torch}.{dtypes[0]}"


def _of_sizes(tensors: Sequence[Parameter]) -> Iterator[str]:
    """Ranks, fixed sizes, and sizes that are another's; none may be 0, which nobody tried."""
    named: dict[str, str] = {}
    shapes: dict[tuple[int | str, ...], str] = {}
    for tensor in tensors:
        if tensor.shape in shapes:
            yield f"{tensor.name}.shape == {shapes[tensor.shape]}.shape"
            continue
        shapes[tensor.shape] = tensor.name
        yield f"{tensor.name}.ndim == {len(tensor.shape)}"
        for axis, size in enumerate(tensor.shape):
            here = f"{tensor.name}.shape[{axis}]"
            if isinstance(size, int):
                yield f"{here} == {size}"
            elif size in named:
                yield f"{here} == {named[size]}"
            else:
                named[size] = here
        yield f"{tensor.name}.numel() > 0"


def _before_body(lines: Sequence[str], function: ast.FunctionDef, call: Sequence[str]) -> Edit:
    """The edit that puts the call before what the function does, behind its docstring."""
    body = function.body
    first = (
        body[1] if ast.get_docstring(function, clean=False) is not None and body[1:] else body[0]
    )
    decorators = getattr(first, "decorator_list", ())
    line = min([first.lineno, *(decorator.lineno for decorator in decorators)])
    column = len(lines[line - 1].encode()[: first.col_offset].decode())
    before = lines[line - 1][:column]
    if not before.strip():
        text = "".join(f"{before}{part}\n" if part else "\n" for part in call)
        return Edit(line, 0, 0, text)
    if first is not body[0] or not before.rstrip().endswith(":"):
        raise BadRequest(f"Give each statement of {function.name} a line of its own first.")
    indent = re.match(r"\s*", before)[0] + _STEP  # type: ignore[index]
    text = "".join(f"\n{indent}{part}" if part else "\n" for part in call) + f"\n{indent}"
    return Edit(line, len(before.rstrip()), column, text)


def _import_torch(tree: ast.Module) -> Edit:
    """The edit that imports torch: before the first import that is not of the future."""
    future = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            future = node.end_lineno or node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            return Edit(node.lineno, 0, 0, "import torch\n")
    if future:
        return Edit(future + 1, 0, 0, "\nimport torch\n")
    first = tree.body[0]
    is_docstring = ast.get_docstring(tree, clean=False) is not None
    line = (first.end_lineno or 0) + 1 if is_docstring else _start(first)
    return Edit(line, 0, 0, "\nimport torch\n" if is_docstring else "import torch\n\n\n")


def _start(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
