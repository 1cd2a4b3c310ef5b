"""The way from a kernel's session to a model: chat where it can, infill where it only completes.

Rule: HTTP of the manager through `ManagerClient`, nothing else. What is asked for here yields to
the completions of whoever types: infill as work ahead of time, chat by its own priority.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backends.errors import Unsupported
from lsp_server.kernels import answers, prompts
from lsp_server.kernels.task import Attempt, Task

CHAT = "/v1/chat/completions"
TIMEOUT_S = 3600.0  # for one answer; the session has a limit of its own
MAX_INFILL_TOKENS = 1024


class Manager(Protocol):
    """The part of `ManagerClient` that is used."""

    async def post(
        self,
        path: str,
        body: dict[str, object],
        *,
        timeout: float,  # noqa: ASYNC109 - the client's
    ) -> dict[str, Any]:
        """POST `body`."""
        ...


class ModelSource(Protocol):
    """Writes kernels."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def chats(self) -> bool:
        """Whether it is told what was wrong; one that only completes just tries again."""
        ...

    async def write(
        self, task: Task, failed: Sequence[Attempt], *, temperature: float, worker: int
    ) -> str:
        """Return a kernel's module, empty where the answer holds none. Raises MidspanError."""
        ...


@dataclass(slots=True)
class ManagerModel:
    """The model that the manager has for chat, or for completions where that one cannot chat.

    Which one that is shows with its first answer; nothing is asked before.
    """

    manager: Manager
    max_tokens: int
    name: str = "unknown"
    chats: bool = True
    session: str = field(default_factory=lambda: f"midspan-kernel-{secrets.token_hex(8)}")

    async def write(
        self, task: Task, failed: Sequence[Attempt], *, temperature: float, worker: int
    ) -> str:
        """Return a kernel's module, empty where the answer holds none."""
        if self.chats:
            try:
                return await self._chat(task, failed, temperature, worker)
            except Unsupported:
                self.chats = False
        return await self._infill(task, temperature)

    async def _chat(
        self, task: Task, failed: Sequence[Attempt], temperature: float, worker: int
    ) -> str:
        body: dict[str, object] = {
            "messages": prompts.conversation(task, failed),
            "temperature": temperature,
            "max_tokens": self.max_tokens,
            "user": f"{self.session}-{worker}",
        }
        answer = await self.manager.post(CHAT, body, timeout=TIMEOUT_S)
        self.name = str(answer.get("model") or self.name)
        said = answer["choices"][0]["message"].get("content") or ""
        return answers.code(said, task.name)

    async def _infill(self, task: Task, temperature: float) -> str:
        hole = prompts.skeleton(task)
        body: dict[str, object] = {
            "input_prefix": hole.prefix,
            "input_suffix": hole.suffix,
            "n_predict": min(self.max_tokens, MAX_INFILL_TOKENS),
            "temperature": temperature,
            "ahead": True,
        }
        answer = await self.manager.post("/infill", body, timeout=TIMEOUT_S)
        self.name = str(answer.get("model") or self.name)
        return answers.filled(hole.prefix, str(answer.get("content") or ""), hole.suffix)
