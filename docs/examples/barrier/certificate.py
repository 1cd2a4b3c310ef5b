"""Asks a chat model for a barrier certificate, and looks for a point where it is wrong.

    python certificate.py damped.json                          ask the model, three times at most
    python certificate.py damped.json --check "x**2+v**2-1"    look at this one

A system moves by `derivatives` within the box `variables`. It starts where `initial` <= 0, and must
never come where `unsafe` <= 0. B is a certificate if B <= 0 wherever it starts, B > 0 wherever it
must not come, and B never grows along the motion where B is near 0, so that 0 is never crossed.

Points are drawn, so "no counterexample" is evidence and no proof: an SMT solver or sums of squares
can prove what this finds. What a model writes is never run as a program: an expression of numbers,
the variables and a few functions is read and computed, anything else is refused.

Needs numpy, and `midspan` on the PATH with a model that chats.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
POINTS = 200_000
NEAR = 0.05  # of B's largest size: as near to 0 as a point must be to count as on the border
STEP = 1e-5  # of the derivatives of B, which are differences
TOLERANCE = 1e-6
MOST_NODES = 200
TRIES = 3

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: np.power,
}
_FUNCTIONS = {
    name: getattr(np, name) for name in ("sin", "cos", "tanh", "exp", "log", "sqrt", "abs")
}


class RefusedError(ValueError):
    """An expression that is not computed, and why."""


def expression(text: str, names: Mapping[str, Any]) -> Callable[[Mapping[str, Values]], Values]:
    """Return the function that `text` describes. Raises RefusedError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(f"{text!r} is no expression") from error
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise RefusedError("the expression is too long")

    def value(node: ast.expr, at: Mapping[str, Values]) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return np.float64(min(number, sys.float_info.max))
            case ast.Name(id=name) if name in names:
                return at[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](value(left, at), value(right, at))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand, at)
            case ast.Call(func=ast.Name(id=name), args=[one], keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](value(one, at))
        raise RefusedError(f"{ast.unparse(node)!r} may not stand in it")

    with np.errstate(all="ignore"):
        value(tree, {name: np.zeros(1) for name in names})  # refuses what may not stand in it
    return lambda at: np.broadcast_to(value(tree, at), next(iter(at.values())).shape)


@dataclass(frozen=True)
class Verdict:
    """What was found; `at` is a point where the certificate is wrong."""

    wrong: str = ""
    at: Mapping[str, float] | None = None
    points: int = 0

    def __str__(self) -> str:
        if not self.wrong:
            return f"no counterexample in {self.points:,} points; this is no proof"
        if self.at is None:
            return self.wrong
        where = ", ".join(f"{name} = {number:.4g}" for name, number in self.at.items())
        return f"{self.wrong} at {where}"


def check(system: Mapping[str, Any], certificate: str, seed: int = 0) -> Verdict:
    """Look for a point where `certificate` is wrong."""
    box = system["variables"]
    try:
        barrier = expression(certificate, box)
    except RefusedError as error:
        return Verdict(str(error))
    motion = {name: expression(text, box) for name, text in system["derivatives"].items()}
    rng = np.random.default_rng(seed)
    at = {name: rng.uniform(low, high, POINTS) for name, (low, high) in box.items()}
    with np.errstate(all="ignore"):
        height = barrier(at)
        grows = np.zeros(POINTS)
        for name, moves in motion.items():
            ahead, behind = at | {name: at[name] + STEP}, at | {name: at[name] - STEP}
            grows += (barrier(ahead) - barrier(behind)) / (2 * STEP) * moves(at)
        starts = expression(system["initial"], box)(at) <= 0
        unsafe = expression(system["unsafe"], box)(at) <= 0
    if not (starts.any() and unsafe.any()):
        return Verdict("no point was drawn where it starts, or where it must not come")
    near = np.abs(height) <= NEAR * np.nanmax(np.abs(height))
    conditions = (
        ("B is no number", ~np.isfinite(height) | ~np.isfinite(grows)),
        ("B > 0 where it starts", starts & (height > TOLERANCE)),
        ("B <= 0 where it must not come", unsafe & (height <= 0)),
        ("B grows along the motion", near & (grows > TOLERANCE)),
    )
    for wrong, where in conditions:
        if where.any():
            first = int(np.argmax(where))
            return Verdict(
                wrong, {name: float(values[first]) for name, values in at.items()}, POINTS
            )
    return Verdict(points=POINTS)


def ask(system: Mapping[str, Any], said: list[str], command: tuple[str, ...]) -> str:
    """Return the certificate that the model proposes, told what was wrong with those before."""
    question = (
        "Propose a barrier certificate B for this system, as an expression of its variables with "
        f"+ - * / ** and {', '.join(_FUNCTIONS)}. B <= 0 where initial <= 0, "
        f"B > 0 where unsafe <= 0, and B must not grow along the motion where B = 0.\n"
        f"{json.dumps(system)}\n"
    )
    schema = Path(__file__).with_name("schema.json")
    line = [*command, "chat", "--json", "--no-stream", "--temperature", "0.3"]
    line += ["--schema", str(schema), question + "\n".join(said)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        answer = json.loads(json.loads(done.stdout)["text"])
        return str(answer["certificate"])
    except (ValueError, KeyError, TypeError) as error:
        reason = done.stderr.strip().splitlines()[-1:] or ["it did not answer as it was asked"]
        raise SystemExit(reason[0]) from error


def main(arguments: list[str] | None = None, command: tuple[str, ...] = ("midspan",)) -> int:
    """Ask and check, or check; 0 where nothing wrong was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("system", type=Path)
    parser.add_argument("--check", metavar="EXPRESSION")
    options = parser.parse_args(arguments)
    system = json.loads(options.system.read_text())
    said: list[str] = []
    for _ in range(1 if options.check else TRIES):
        certificate = options.check or ask(system, said, command)
        verdict = check(system, certificate)
        print(f"B = {certificate}: {verdict}")  # noqa: T201
        if not verdict.wrong:
            return 0
        said.append(f"B = {certificate} is wrong: {verdict}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
