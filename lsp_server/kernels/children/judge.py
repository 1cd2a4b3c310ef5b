"""Runs the reference, and judges what a candidate returned. The candidate is in another process.

Rule: expected values never leave this process. Frames, each with one answer: `open` {source, name,
parameters}; `make` {set, cases} (their inputs); `judge` {set, index, outputs} (the difference);
`forget` {set}. Runs in the sandbox only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lsp_server.kernels.children import tensors, wire
from lsp_server.kernels.children.modules import explain, flatten, load


@dataclass(frozen=True)
class Expected:
    """A case's results: as the reference has them, and with what is right too in place of NaN."""

    told: list[torch.Tensor]
    exact: list[torch.Tensor]
    structure: str


class Reference:
    """The function that kernels are held against, and what is expected of them."""

    def __init__(self, header: wire.Header) -> None:
        self.parameters: list[dict[str, Any]] = header["parameters"]
        self.tolerance: dict[str, float] = header["tolerance"]
        module, _ = load("reference", header["source"])
        self.function = module[header["name"]]
        self.expected: dict[int, dict[int, Expected]] = {}

    def inputs(self, case: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a case, the same each time."""
        return tensors.arguments(self.parameters, case)

    def run(self, number: int, case: dict[str, Any]) -> list[torch.Tensor]:
        """Make a case's inputs and what is expected of them."""
        values = self.inputs(case)
        given = [value.clone() for value in values.values() if isinstance(value, torch.Tensor)]
        with torch.no_grad():
            result, structure = flatten(self.function(**values))
            again, _ = flatten(self.function(**self.inputs(case)))
        ours = [value for value in values.values() if isinstance(value, torch.Tensor)]
        if any(tensors.difference(a, b, 0) for a, b in zip(given, ours, strict=True)):
            raise Unsuitable("it writes to its inputs; a kernel must return new tensors")
        if any(tensors.difference(a, b, 0) for a, b in zip(result, again, strict=True)):
            raise Unsuitable("it does not give the same twice (random numbers?)")
        exact = self.exact(values, result)
        self.expected[number][case["index"]] = Expected(result, exact, structure)
        return given

    def exact(self, values: dict[str, Any], result: list[torch.Tensor]) -> list[torch.Tensor]:
        """What is also right where the reference gives NaN: what it gives in float64.

        torch's vectorised float32 functions have NaN at infinity where the function has none:
        gelu(inf) is inf in float64 and NaN in float32 on many processors.
        """
        if not any(value.isnan().any() for value in result if value.is_floating_point()):
            return result
        wide = {
            name: value.double()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in values.items()
        }
        try:
            with torch.no_grad():
                found, _ = flatten(self.function(**wide))
        except Exception:  # it takes no float64
            return result
        return [
            torch.where(value.isnan(), other.to(value.dtype), value)
            if value.shape == other.shape
            else value
            for value, other in zip(result, found, strict=True)
        ]

    def make(self, number: int, cases: list[dict[str, Any]]) -> tuple[dict[str, Any], bytes]:
        """All cases of a set that the reference takes; `final` says why none can be."""
        self.expected[number] = {}
        made: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        parts: list[bytes] = []
        for case in cases:
            try:
                about, values = tensors.pack(self.run(number, case))
            except Unsuitable as error:
                return {"made": [], "skipped": skipped, "final": str(error)}, b""
            except Exception as error:
                skipped.append({"index": case["index"], **explain(error)})
                continue
            made.append({"index": case["index"], "inputs": about, "bytes": len(values)})
            parts.append(values)
        return {"made": made, "skipped": skipped, "final": ""}, b"".join(parts)

    def verdict(self, header: wire.Header, data: bytes) -> str:
        """Compare a candidate's outputs with what is expected."""
        expected = self.expected[header["set"]][header["index"]]
        if header["structure"] != expected.structure:
            return f"it returns {header['structure']}, expected {expected.structure}"
        try:
            found = tensors.unpack(header["outputs"], data)
        except (ValueError, KeyError, TypeError) as error:
            return f"what it returns is no tensor that can be compared: {error}"
        for told, exact, f in zip(expected.told, expected.exact, found, strict=True):
            tolerance = tensors.tolerance(self.tolerance, told.dtype)
            wrong = tensors.difference(told, f, tolerance)
            if wrong and tensors.difference(exact, f, tolerance):
                return wrong
        return ""


class Unsuitable(Exception):
    """The reference is nothing that a kernel could stand for."""


def main() -> None:
    """Serve until there are no more frames."""
    pipe = wire.Pipe()
    torch.set_num_threads(1)
    judge: Reference | None = None
    while True:
        try:
            header, data = pipe.read()
        except EOFError:
            return
        if header["do"] == "open":
            try:
                judge = Reference(header)
                pipe.write({"event": "opened"})
            except Exception as error:
                pipe.write({"event": "failed", **explain(error)})
            continue
        assert judge is not None
        if header["do"] == "make":
            answer, values = judge.make(header["set"], header["cases"])
            pipe.write({"event": "inputs", **answer}, values)
        elif header["do"] == "judge":
            pipe.write({"event": "verdict", "difference": judge.verdict(header, data)})
        else:
            judge.expected.pop(header["set"], None)
            pipe.write({"event": "forgotten"})


if __name__ == "__main__":
    main()
