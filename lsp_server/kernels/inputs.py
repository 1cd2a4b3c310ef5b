"""What a reference's parameters are: tensors with shapes and dtypes, numbers and flags.

Rule: what somebody wrote comes first, in this order: the text that the user gave, an annotation
(jaxtyping's `Float[Tensor, "n d"]` too), a comment (`# x: (N, 128) float16`), the docstring. What
nobody wrote is guessed from how it is used, and marked so. Pure: syntax trees and text only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from backends.errors import BadRequest
from lsp_server.kernels.task import Parameter

Shape = tuple[int | str, ...]
MAX_DIMENSIONS = 6
MAX_SIZE = 65536  # of a dimension with a fixed size: it is allocated to check the kernel

_DTYPES: Mapping[str, tuple[str, ...]] = {
    "float16": ("float16", "half", "fp16", "f16"),
    "bfloat16": ("bfloat16", "bf16"),
    "float32": ("float32", "float", "fp32", "f32"),
    "float64": ("float64", "double", "fp64", "f64"),
    "int8": ("int8", "i8"),
    "uint8": ("uint8", "u8"),
    "int32": ("int32", "int", "i32"),
    "int64": ("int64", "long", "i64"),
    "bool": ("bool",),
}
DTYPES = {alias: dtype for dtype, aliases in _DTYPES.items() for alias in aliases}
# Names of jaxtyping's annotations; those of several dtypes stand for the most usual one.
_JAXTYPING = {alias.capitalize(): dtype for alias, dtype in DTYPES.items()} | {
    "BFloat16": "bfloat16",
    **dict.fromkeys(("Float", "Shaped", "Num", "Inexact", "Real"), "float32"),
    **dict.fromkeys(("Int", "Integer"), "int64"),
}
# Parameters that are numbers where nothing else says what they are, and what they are tried with.
_NUMBERS: Mapping[str, float | int | bool] = {
    "eps": 1e-5,
    "epsilon": 1e-5,
    "dim": -1,
    "axis": -1,
    "temperature": 0.7,
    "alpha": 0.5,
    "negative_slope": 0.01,
    "slope": 0.01,
    "lambd": 0.5,
    "threshold": 0.5,
    "p": 2,
    "lo": -0.5,
    "hi": 0.5,
    "min_value": -0.5,
    "max_value": 0.5,
    "keepdim": True,
}
_SCALAR_VALUES: Mapping[str, float | int | bool] = {"float": 0.5, "int": 2, "bool": True}
# Tensors that go along the last dimension only, where there are others.
_VECTORS = re.compile(r"(?:\w+_)?(?:weight|bias|gamma|beta|scale|shift|gain)", re.IGNORECASE)
_LETTERS = frozenset("wbg")  # the same, beside a first tensor with one of these names
_INPUTS = frozenset({"x", "input", "inp", "h", "hidden", "hidden_states"})
_GROUP = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_SIZE = re.compile(r"[A-Za-z_]\w*|\d+")
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody wrote of a parameter; None for what they left out."""

    shape: Shape | None = None
    dtype: str | None = None
    value: float | int | bool | None = None


class UnclearError(ValueError):
    """A parameter that cannot be tried; the message says why."""


def parse(text: str) -> dict[str, Said]:
    """Read "x: (N, 128) float16, w: (128,), eps: 1e-6". Raises BadRequest for anything else."""
    found = {}
    rest = text.strip()
    while rest:
        match = _ENTRY.match(rest)
        if match is None:
            raise BadRequest(
                f"The shapes are not understood from {rest[:40]!r} on. Write them as in "
                '"x: (N, 128) float16, w: (128,), eps: 1e-6".'
            )
        name = match["name"]
        if match["value"]:
            found[name] = Said(value=_number(match["value"]))
        else:
            shape = _shape(match["dims"])
            if shape is None:
                raise BadRequest(
                    f"The shape of {name} is not understood: sizes are names or numbers from 1 to "
                    f"{MAX_SIZE}, {MAX_DIMENSIONS} at most."
                )
            dtype = match["dtype"]
            if dtype and dtype not in DTYPES:
                raise BadRequest(f"{dtype!r} is no dtype that is known: {', '.join(_DTYPES)}.")
            found[name] = Said(shape, DTYPES[dtype] if dtype else None)
        rest = rest[match.end() :]
    return found


_ENTRY = re.compile(
    r"""\s*(?P<name>[A-Za-z_]\w*)\s*[:=]?\s*
    (?:[(\[](?P<dims>[^()\[\]]*)[)\]]\s*(?:torch\.)?(?P<dtype>[A-Za-z]\w*)?
      |(?P<value>True|False|[-+]?[\d.]+(?:[eE][-+]?\d+)?))
    \s*(?:[,;\n]\s*|$)""",
    re.VERBOSE,
)


def parameters(
    function: ast.FunctionDef, lines: Sequence[str], given: Mapping[str, Said]
) -> tuple[Parameter, ...]:
    """Return the parameters of `function` that it is tried with.

    `lines` are those of the function's text as it stands in its file. A parameter with a default
    that is neither a number nor a tensor keeps its default and is left out. Raises UnclearError for
    one that is nothing of these, BadRequest where `given` does not fit.
    """
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = [argument.arg for argument in arguments]
    for name in given:
        if name not in names:
            raise BadRequest(
                f"{function.name} has no parameter {name!r}; it has {', '.join(names)}."
            )
    values = defaults(function)
    found = []
    for argument in arguments:
        said = _said(argument, function, lines, given)
        kind = _kind(argument, values.get(argument.arg), said, function)
        if kind is not None:
            found.append(_parameter(argument, kind, values.get(argument.arg), said))
    return _with_shapes(function, tuple(found))


def _parameter(argument: ast.arg, kind: str, default: ast.expr | None, said: Said) -> Parameter:
    name = argument.arg
    if kind == "tensor":
        if said.value is not None:
            raise BadRequest(f"{name} is a tensor: give its shape, as in {name}: (N, 128).")
        return Parameter(
            name, kind, said.shape or (), said.dtype or "float32", guessed=said.shape is None
        )
    if said.shape is not None:
        raise BadRequest(f"{name} is a number: give its value, as in {name}: 2.")
    value = said.value if said.value is not None else constant(default)
    guessed = value is None
    if value is None:
        value = _NUMBERS.get(name, _SCALAR_VALUES[kind])
    converted = {"float": float, "int": int, "bool": bool}[kind](value)
    return Parameter(name, kind, value=converted, guessed=guessed)


def defaults(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Return what parameters have where they are not given, by their names."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    pairs = list(zip(reversed(positional), reversed(given.defaults), strict=False))
    pairs += [
        (argument, value)
        for argument, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if value is not None
    ]
    return {argument.arg: value for argument, value in pairs}


def constant(node: ast.expr | None) -> float | int | bool | None:
    """Return the number that a default is; None where it is none."""
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, (int, float)) else None


# --- what somebody wrote -------------------------------------------------------------------------


def _said(
    argument: ast.arg, function: ast.FunctionDef, lines: Sequence[str], given: Mapping[str, Said]
) -> Said:
    """Merge what was written of a parameter, the first that says something winning."""
    sources = [
        given.get(argument.arg, Said()),
        _annotated(argument.annotation),
        *_in_comments(argument, function, lines),
        _in_docstring(argument.arg, ast.get_docstring(function) or ""),
    ]
    return Said(
        next((said.shape for said in sources if said.shape is not None), None),
        next((said.dtype for said in sources if said.dtype is not None), None),
        sources[0].value,
    )


def _annotated(annotation: ast.expr | None) -> Said:
    match annotation:
        case ast.Constant(value=str(text)):
            try:
                return _annotated(ast.parse(text, mode="eval").body)
            except SyntaxError:
                return Said()
        case ast.Subscript(value=kind, slice=ast.Tuple(elts=[_, ast.Constant(value=str(dims))])):
            dtype = _JAXTYPING.get(ast.unparse(kind).rpartition(".")[2])
            return Said(_shape(", ".join(map(_jaxtyping_size, dims.split()))), dtype)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[_, *extras])):
            for extra in extras:
                if isinstance(extra, ast.Constant) and isinstance(extra.value, str):
                    return _of_line(extra.value)
        case ast.BinOp(left=left, op=ast.BitOr()):
            return _annotated(left)
    return Said()


def _jaxtyping_size(size: str) -> str:
    """One size of a jaxtyping string: `*batch` and `...` stand for one dimension here."""
    return "batch" if size == "..." else size.lstrip("*#?").partition("=")[2] or size.lstrip("*#?")


def _in_comments(
    argument: ast.arg, function: ast.FunctionDef, lines: Sequence[str]
) -> Iterator[Said]:
    """Comments that begin with the parameter's name, then the one behind it on its line."""
    pattern = re.compile(rf"#\s*{re.escape(argument.arg)}\s*[:=]?\s*([(\[].*)")
    for line in lines:
        if match := pattern.search(line):
            yield _of_line(match[1])
    at = argument.lineno - function.lineno
    neighbours = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    alone = sum(other.lineno == argument.lineno for other in neighbours) == 1
    if alone and 0 <= at < len(lines):
        comment = lines[at].partition("#")[2].strip()
        if comment.startswith(("(", "[")):
            yield _of_line(comment)


def _in_docstring(name: str, docstring: str) -> Said:
    for line in docstring.splitlines():
        if re.match(rf"\s*(?::param\s+)?`*{re.escape(name)}`*\s*[:=( ]", line):
            said = _of_line(line)
            if said.shape is not None:
                return said
    return Said()


def _of_line(line: str) -> Said:
    """The first bracketed group of a line that is a shape, and a dtype anywhere in it."""
    shapes = (_shape(group) for group in _GROUP.findall(line))
    shape = next((shape for shape in shapes if shape is not None), None)
    words = (word for word in _WORD.findall(line) if word not in ("int", "float", "half", "long"))
    dtype = next((DTYPES[word] for word in words if word in DTYPES), None)
    return Said(shape, dtype if shape is not None else None)


_NO_SIZES = frozenset({"Tensor", "tensor", "optional", "Optional", *DTYPES})


def _shape(text: str) -> Shape | None:
    """Read "N, 128" as a shape; None if it is none."""
    sizes = [size.strip() for size in text.split(",")]
    if sizes and not sizes[-1]:
        sizes.pop()
    if len(sizes) > MAX_DIMENSIONS or not all(_SIZE.fullmatch(size) for size in sizes):
        return None
    if _NO_SIZES.intersection(sizes):
        return None
    shape = tuple(int(size) if size.isdecimal() else size for size in sizes)
    fixed = (size for size in shape if isinstance(size, int))
    return shape if all(1 <= size <= MAX_SIZE for size in fixed) else None


def _number(text: str) -> float | int | bool:
    value = ast.literal_eval(text.lstrip("+"))
    assert isinstance(value, (int, float))
    return value


# --- tensor, number or neither -------------------------------------------------------------------


def _kind(
    argument: ast.arg, default: ast.expr | None, said: Said, function: ast.FunctionDef
) -> str | None:
    """Return "tensor", "float", "int" or "bool"; None for what keeps its default."""
    annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
    words = set(_WORD.findall(annotation))
    if any("Tensor" in word for word in words):
        return "tensor"
    if said.shape is not None and not words.intersection(_SCALAR_VALUES):
        return "tensor"
    for kind in ("float", "int", "bool"):
        if kind in words:
            is_none = isinstance(default, ast.Constant) and default.value is None
            return None if is_none and said.value is None else kind
    value = said.value if said.value is not None else constant(default)
    if value is not None:
        return "bool" if isinstance(value, bool) else type(value).__name__
    if default is not None:
        return None
    if annotation:
        raise UnclearError(
            f"its parameter {argument.arg} is neither a tensor nor a number ({annotation})"
        )
    if argument.arg in _NUMBERS and not _used_as_tensor(argument.arg, function):
        return type(_NUMBERS[argument.arg]).__name__
    return "tensor"


def _used_as_tensor(name: str, function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
        for node in ast.walk(function)
    )


# --- guesses -------------------------------------------------------------------------------------


def _with_shapes(function: ast.FunctionDef, found: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Give the tensors that nobody described the shapes that their use suggests."""
    tensors = [parameter for parameter in found if parameter.kind == "tensor"]
    unknown = {tensor.name for tensor in tensors if tensor.guessed}
    if not unknown:
        return found
    products = dict(_of_products(function))
    model = next((tensor.shape for tensor in tensors if not tensor.guessed), None)
    common: Shape = ("M", "N") if model is None else model
    shapes: dict[str, Shape] = {}
    for tensor in tensors:
        others = len(tensors) > 1 and tensor is not tensors[0]
        if tensor.name in products:
            shapes[tensor.name] = products[tensor.name]
        elif others and (
            _VECTORS.fullmatch(tensor.name)
            or (tensor.name in _LETTERS and tensors[0].name in _INPUTS)
        ):
            shapes[tensor.name] = common[-1:]
        else:
            shapes[tensor.name] = common
    return tuple(
        replace(parameter, shape=shapes[parameter.name]) if parameter.name in unknown else parameter
        for parameter in found
    )


def _of_products(function: ast.FunctionDef) -> Iterator[tuple[str, Shape]]:
    """The shapes that matrix products ask of the names that they multiply."""
    for node in ast.walk(function):
        match node:
            case ast.BinOp(left=left, op=ast.MatMult(), right=right):
                yield from _of_operands(left, right)
            case ast.Call(func=ast.Attribute(attr="matmul" | "mm", value=owner), args=[*operands]):
                pair = [owner, *operands][-2:]
                if len(pair) == 2:
                    yield from _of_operands(*pair)
            case ast.Call(func=ast.Attribute(attr="addmm"), args=[bias, left, right]):
                yield from _of_operands(left, right)
                if isinstance(bias, ast.Name):
                    yield bias.id, ("N",)
            case ast.Call(func=ast.Attribute(attr="linear"), args=[left, right, *bias]):
                yield from _of_operands(left, ast.Attribute(right, "T"))
                yield from ((part.id, ("N",)) for part in bias if isinstance(part, ast.Name))


def _of_operands(left: ast.expr, right: ast.expr) -> Iterator[tuple[str, Shape]]:
    for operand, shape in ((left, ("M", "K")), (right, ("K", "N"))):
        match operand:
            case ast.Name(id=name):
                yield name, shape
            case ast.Attribute(value=ast.Name(id=name), attr="T" | "mT"):
                yield name, shape[::-1]
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="t" | "transpose")):
                yield name, shape[::-1]


def shown(found: Sequence[Parameter]) -> str:
    """Return parameters as `parse` reads them: "x: (N, 128) float16, eps: 1e-06"."""
    return ", ".join(
        f"{one.name}: ({', '.join(map(str, one.shape))}{',' * (len(one.shape) == 1)}) {one.dtype}"
        if one.kind == "tensor"
        else f"{one.name}: {one.value!r}"
        for one in found
    )
