"""The reference in a process of its own, which makes the inputs and judges what came back.

Rule: one process serves all candidates of a task, also at the same time; expected values stay in
it. Must not know how a candidate is run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count

from backends.errors import BadRequest
from lsp_server.kernels import cases, sandbox, toolchain
from lsp_server.kernels.cases import Case
from lsp_server.kernels.children import wire
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import Task


@dataclass(frozen=True, slots=True)
class Made:
    """A case's inputs: what the tensors are, and their values."""

    case: Case
    inputs: tuple[dict[str, object], ...]
    values: bytes


class Judge:
    """Use `async with Judge.open(task, limits) as judge`."""

    def __init__(self, task: Task, child: sandbox.Child) -> None:
        self.task = task
        self._child = child
        self._turn = asyncio.Lock()
        self._sets = count()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, task: Task, limits: Limits) -> AsyncIterator[Judge]:
        """Start the reference's process.

        Raises:
            NoSandbox, EngineMissing: nothing was run.
            BadRequest: the reference itself cannot be loaded.
        """
        chain = await toolchain.find(limits.python)
        chain.check(task.language)
        program = sandbox.Program("judge", chain)
        async with sandbox.start(program, limits.reference) as child:
            judge = cls(task, child)
            answer, _ = await judge._ask(
                {
                    "do": "open",
                    "source": task.source,
                    "name": task.name,
                    "parameters": [
                        {
                            "name": p.name,
                            "kind": p.kind,
                            "shape": list(p.shape),
                            "dtype": p.dtype,
                            "value": p.value,
                        }
                        for p in task.parameters
                    ],
                    "tolerance": {**cases.TOLERANCE, "float32": cases.TOLERANCE_FLOAT32},
                }
            )
            if answer["event"] == "failed":
                raise BadRequest(f"{task.name} itself cannot be loaded: {answer['reason']}")
            yield judge

    async def make(self, planned: Sequence[Case]) -> tuple[int, list[Made]]:
        """Make inputs and expected values. Returns the set's number and the cases that make sense.

        A case that the reference refuses is left out.

        Raises:
            BadRequest: it refuses them all, or is nothing that a kernel can stand for.
        """
        number = next(self._sets)
        answer, data = await self._ask(
            {"do": "make", "set": number, "cases": [case.to_json() for case in planned]}
        )
        by_index = {case.index: case for case in planned}
        made: list[Made] = []
        start = 0
        for one in answer["made"]:
            end = start + one["bytes"]
            made.append(Made(by_index[one["index"]], tuple(one["inputs"]), data[start:end]))
            start = end
        if not made or answer["final"]:
            reason = answer["final"] or answer["skipped"][0]["reason"]
            raise BadRequest(f"{self.task.name} itself cannot be tried: {reason}")
        return number, made

    async def verdict(self, number: int, index: int, result: wire.Header, outputs: bytes) -> str:
        """Say how a case's outputs differ from what is expected, or ""."""
        about = {"structure": result["structure"], "outputs": result["outputs"]}
        answer, _ = await self._ask(
            {"do": "judge", "set": number, "index": index, **about}, outputs
        )
        return str(answer["difference"])

    async def forget(self, number: int) -> None:
        """Let go of a set's expected values."""
        await self._ask({"do": "forget", "set": number})

    async def _ask(self, header: wire.Header, payload: bytes = b"") -> tuple[wire.Header, bytes]:
        async with self._turn:
            try:
                await self._child.write(header, payload)
                return await self._child.read()
            except sandbox.Died as died:
                raise BadRequest(f"{self.task.name} itself cannot be tried: {died}.") from died
