"""The reference in a process of its own, which makes the inputs and judges what came back.

Rule: one process serves all candidates of a task, also at the same time; expected values stay in
it. Must not know how a candidate is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count

from backends.errors import BadRequest
from lsp_server.kernels import cases, sandbox, toolchain
from lsp_server.kernels.cases import Case
from lsp_server.kernels.children import wire
from lsp_server.kernels.limits import Limits
from lsp_server.kernels.task import Task

logger = logging.getLogger(__name__)

Answer = tuple[wire.Header, bytes]


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
        self._opened = False
        self._exchanges: set[asyncio.Task[Answer]] = set()
        self._sets = count()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, task: Task, limits: Limits) -> AsyncIterator[Judge]:
        """Start the reference's process.

        Raises:
            NoSandbox, EngineMissing: nothing was run.
        """
        chain = await toolchain.find(limits.python)
        chain.check(task.language)
        program = sandbox.Program("judge", chain)
        async with sandbox.start(program, limits.reference) as child:
            judge = cls(task, child)
            # The answer is read with the first question: meanwhile the candidate's process starts.
            await judge._write(
                {
                    "do": "open",
                    "source": task.source,
                    "name": task.name,
                    **cases.described(task),
                }
            )
            try:
                yield judge
            finally:
                for exchange in judge._exchanges:
                    exchange.cancel()

    def new_set(self) -> int:
        """A number for a set of cases."""
        return next(self._sets)

    async def make(self, number: int, planned: Sequence[Case]) -> list[Made]:
        """Make a set's inputs and expected values. A case that the reference refuses is left out.

        Raises:
            BadRequest: it refuses them all, or is nothing that a kernel can stand for.
        """
        answer, data = await self._ask(
            {
                "do": "make",
                "set": number,
                "cases": [
                    {**case.to_json(), "given": cases.numbers(self.task.parameters, case)}
                    for case in planned
                ],
            }
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
        return made

    async def verdict(self, number: int, index: int, result: wire.Header, outputs: bytes) -> str:
        """Say how a case's outputs differ from what is expected, or ""."""
        about = {"structure": result["structure"], "outputs": result["outputs"]}
        answer, _ = await self._ask(
            {"do": "judge", "set": number, "index": index, **about}, outputs
        )
        return str(answer["difference"])

    def forget(self, number: int) -> None:
        """Let go of a set's expected values, when there is time for it."""
        self._begin({"do": "forget", "set": number})

    async def _ask(self, header: wire.Header, payload: bytes = b"") -> Answer:
        # Who asks may be cancelled; the answer must be read all the same, or the next would get it.
        return await asyncio.shield(self._begin(header, payload))

    def _begin(self, header: wire.Header, payload: bytes = b"") -> asyncio.Task[Answer]:
        exchange = asyncio.create_task(self._exchange(header, payload))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._ended)
        return exchange

    def _ended(self, exchange: asyncio.Task[Answer]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled() and exchange.exception() is not None:
            logger.debug("the reference's process is gone: %s", exchange.exception())

    async def _exchange(self, header: wire.Header, payload: bytes) -> Answer:
        async with self._turn:
            if not self._opened:
                answer, _ = await self._read()
                if answer["event"] == "failed":
                    raise BadRequest(
                        f"{self.task.name} itself cannot be loaded: {answer['reason']}"
                    )
                self._opened = True
            await self._write(header, payload)
            return await self._read()

    async def _write(self, header: wire.Header, payload: bytes = b"") -> None:
        try:
            await self._child.write(header, payload)
        except sandbox.Died as died:
            raise self._gone(died) from died

    async def _read(self) -> Answer:
        try:
            return await self._child.read()
        except sandbox.Died as died:
            raise self._gone(died) from died

    def _gone(self, died: sandbox.Died) -> BadRequest:
        return BadRequest(f"{self.task.name} itself cannot be tried: {died}.")
