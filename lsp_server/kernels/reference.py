"""The PyTorch function that a kernel is asked for: found in a file, and able to stand alone.

Rule: syntax trees and the standard library only, nothing is imported or run; cheap enough to be
asked whenever the cursor moves. A function that cannot stand alone is a `Refusal` with the reason.
Must not know what a kernel looks like.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache

from backends.errors import BadRequest
from lsp_server.kernels import inputs, insertion, lifting, standalone
from lsp_server.kernels.standalone import UnsuitedError
from lsp_server.kernels.task import Language, Parameter, Task

MAX_CHARACTERS = 2_000_000  # of a file that is looked into


@dataclass(frozen=True, slots=True)
class Reference:
    """A function that stands alone. `line` and `end_line` (1-based, inclusive) are in its file.

    `source` is a whole module; `name` is the function in it, which is also the one in the file
    except for `Module.forward`, which becomes a function called after its class.
    """

    name: str
    line: int
    end_line: int
    source: str
    parameters: tuple[Parameter, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no reference. `torch` says whether there is a function of PyTorch at all."""

    reason: str
    torch: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """A function at the top of a file, or a method there."""

    function: ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None = None

    @property
    def first_line(self) -> int:
        return min([self.function.lineno, *(d.lineno for d in self.function.decorator_list)])

    @property
    def is_static(self) -> bool:
        return any(ast.unparse(one) == "staticmethod" for one in self.function.decorator_list)

    @property
    def shown(self) -> str:
        return f"{self.owner.name}.{self.function.name}" if self.owner else self.function.name


def find(text: str, line: int, path: str = "") -> Reference | Refusal:
    """Return the PyTorch function around `line` (from 1), or why there is none. Never raises."""
    parsed = _parsed(text)
    if isinstance(parsed, Refusal):
        return parsed
    line = insertion.line_without(text, line)
    for place in parsed.places:
        if place.first_line <= line <= (place.function.end_lineno or line):
            try:
                return _reference(parsed, place, path, {})
            except BadRequest as exc:
                return Refusal(str(exc), torch=True, name=place.shown)
    return Refusal("There is no function at this line.", torch=False)


def task(
    text: str, line_or_name: int | str, language: Language, shapes: str = "", path: str = ""
) -> Task:
    """Return the task of making a kernel of the function around a line, or of that name.

    A name may be `Class`, `Class.forward` or the name that the lifted function gets. `shapes` are
    as people write them: "x: (N, 128) float16, w: (128,)". Raises BadRequest.
    """
    parsed = _parsed(text)
    if isinstance(parsed, Refusal):
        raise BadRequest(parsed.reason)
    if isinstance(line_or_name, int):
        line_or_name = insertion.line_without(text, line_or_name)
        at = [
            place
            for place in parsed.places
            if place.first_line <= line_or_name <= (place.function.end_lineno or 0)
        ]
        missing = f"There is no function at line {line_or_name}."
    else:
        at = [place for place in parsed.places if line_or_name in _names(place)]
        missing = f"There is no function {line_or_name!r} in the file."
    if not at:
        raise BadRequest(missing)
    found = _reference(parsed, at[-1], path, inputs.parse(shapes))
    if isinstance(found, Refusal):
        raise BadRequest(found.reason)
    return Task(
        name=found.name,
        source=found.source,
        parameters=found.parameters,
        language=language,
        path=path,
        line=found.line,
        end_line=found.end_line,
    )


def _names(place: _Place) -> tuple[str, ...]:
    if place.owner is None:
        return (place.function.name,)
    if place.is_static:
        return (place.shown, place.function.name)
    if place.function.name != "forward":
        return (place.shown,)
    return (place.shown, place.owner.name, lifting.snake(place.owner.name))


@dataclass(frozen=True, slots=True)
class _Parsed:
    text: str
    lines: tuple[str, ...]
    tree: ast.Module
    places: tuple[_Place, ...]


@lru_cache(maxsize=4)
def _parsed(text: str) -> _Parsed | Refusal:
    if len(text) > MAX_CHARACTERS:
        return Refusal("The file is too long.", torch=False)
    text = insertion.without(text.replace("\r\n", "\n").replace("\r", "\n"))
    try:
        tree = ast.parse(text)
    except SyntaxError as exc:
        return Refusal(f"The file is no valid Python: {exc.msg}, line {exc.lineno}.", torch=False)
    except (ValueError, RecursionError, MemoryError):
        return Refusal("The file is no valid Python.", torch=False)
    places = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            places.append(_Place(node))
        elif isinstance(node, ast.ClassDef):
            places += [
                _Place(inner, node)
                for inner in node.body
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
            ]
    return _Parsed(text, tuple(text.split("\n")), tree, tuple(places))


def _reference(
    parsed: _Parsed, place: _Place, path: str, given: dict[str, inputs.Said]
) -> Reference | Refusal:
    """Make a function stand alone. Raises BadRequest where `given` does not fit it."""
    node = place.function
    if not _is_torch(node, parsed.tree, place.owner):
        return Refusal(
            f"{place.shown} is no function of PyTorch: it neither uses torch nor takes tensors.",
            torch=False,
            name=place.shown,
        )
    try:
        if isinstance(node, ast.AsyncFunctionDef):
            raise UnsuitedError("it is asynchronous")
        standalone.check(node)
        function, text, tree = _function(parsed, place, node)
        source = standalone.take(tree, text, function)
        start = place.first_line - 1
        lines = parsed.lines[node.lineno - 1 : node.end_lineno]
        found = inputs.parameters(function, lines, given)
        if not any(parameter.kind == "tensor" for parameter in found):
            raise UnsuitedError("it takes no tensor")
    except (UnsuitedError, inputs.UnclearError) as exc:
        return Refusal(f"{place.shown} cannot be taken: {exc}.", torch=True, name=place.shown)
    return Reference(function.name, start + 1, node.end_lineno or 0, source, found, path)


def _function(
    parsed: _Parsed, place: _Place, node: ast.FunctionDef
) -> tuple[ast.FunctionDef, str, ast.Module]:
    """Return the function, with the text and the tree that it stands in."""
    if place.owner is None or place.is_static:
        return node, parsed.text, parsed.tree
    if node.name != "forward":
        raise UnsuitedError("it is a method: only a Module's forward can become a function")
    lifted = lifting.lift(place.owner, node)
    text = f"{parsed.text}\nimport torch\n\n{ast.unparse(lifted)}\n"
    tree = ast.parse(text)
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    return function, text, tree


_TORCH = re.compile(r"\b(?:torch|Tensor)\b")


def _is_torch(
    node: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module, owner: ast.ClassDef | None
) -> bool:
    """Whether a function uses torch under any name, or says that it takes tensors."""
    aliases = {
        alias.asname or alias.name.partition(".")[0]
        for statement in tree.body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names
        if (getattr(statement, "module", None) or alias.name).partition(".")[0] == "torch"
    }
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    if names & aliases:
        return True
    annotated = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
    if any(a is not None and _TORCH.search(ast.unparse(a)) for a in annotated):
        return True
    bases = [ast.unparse(base) for base in owner.bases] if owner else []
    return node.name == "forward" and any(base.endswith("Module") for base in bases)
