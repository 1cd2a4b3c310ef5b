"""The window's settings: the user's file and environment, initializationOptions,
workspace/configuration and pushed changes.

Rule: brings what came to `settings.resolve`, in the order of design §9, and tells the client once
about each thing that is wrong: in its log, and the user's file in one message at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from backends.config_schema import Given, Layer, Problem
from lsp_server.settings import SECTION, explained, resolve, section

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer
    from lsp_server.user_config import UserConfig


@dataclass(slots=True)
class Configuration:
    """The layers of settings as they came, and what the client was already told."""

    ls: MidspanServer
    below: tuple[Given, ...] = ()  # the user's file and the environment
    initial: Mapping[str, object] = field(default_factory=dict)
    workspace: Mapping[str, object] = field(default_factory=dict)
    above: tuple[Given, ...] = ()  # the command line
    told: set[str] = field(default_factory=set)

    def apply(self, *, tell: bool = True) -> None:
        """Make the settings anew from the layers."""
        before = self.ls.settings
        self.ls.settings, problems = resolve(
            self.initial, self.workspace, below=self.below, above=self.above
        )
        self.ls.ledger.switch(self.ls.settings.ledger)
        if self.ls.settings.autostart != before.autostart:
            self.ls.forget_manager()
        for problem in problems if tell else ():
            self._log(problem)

    def explain(self) -> dict[str, object]:
        """Say of each setting that is not at its default what it is and where that comes from."""
        found = explained(self.initial, self.workspace, below=self.below, above=self.above)
        return {
            row.key: {"value": row.value, "from": str(row.origin)}
            for row in found.explain()
            if row.origin.layer is not Layer.DEFAULT
        }

    async def read_user(self, *, show: bool = False) -> None:
        """Read the user's file; with `show`, pop up one message if something in it is wrong."""
        found = await _in_thread(_read_user)
        self.below = found.window
        new = [problem for problem in found.problems if self._log(problem)]
        self.apply()
        if show and new:
            message = types.ShowMessageParams(types.MessageType.Warning, _summary(new))
            self.ls.window_show_message(message)

    async def pull(self) -> None:
        """Ask the client for our section, where it answers such questions."""
        if not self.ls.client.configuration:
            return
        item = types.ConfigurationItem(section=SECTION)
        answer = await self.ls.protocol.ask(
            types.WORKSPACE_CONFIGURATION, types.ConfigurationParams(items=[item])
        )
        if isinstance(answer, list) and answer and isinstance(answer[0], Mapping):
            self.workspace = answer[0]
        self.apply()

    async def changed(self, pushed: object) -> None:
        """Take settings that the client pushed; where it pushed none, ask for them."""
        if isinstance(pushed, Mapping) and SECTION in pushed:
            self.workspace = section(pushed)
            self.apply()
        else:
            await self.pull()

    async def update(self, pushed: object) -> None:
        """Take changed settings; a model named in them is selected now."""
        before = self.ls.settings.model
        await self.changed(pushed)
        if self.ls.settings.model not in ("", before) and self.ls.settings.enabled:
            from lsp_server.features import startup  # which imports this module

            self.ls.suggestions.clear()
            await startup.connect(self.ls)

    def _log(self, problem: Problem) -> bool:
        """Write a problem to the client's log; False if it was told before."""
        if str(problem) in self.told:
            return False
        self.told.add(str(problem))
        self.ls.log_to_client(f"midspan: {problem}")
        return True


def _read_user() -> UserConfig:
    from lsp_server import user_config  # 30 ms with what it needs, and nobody waits for it

    return user_config.read()


async def _in_thread(read: Callable[[], UserConfig]) -> UserConfig:
    """Run `read` in a thread that does not keep the process from ending, as asyncio's do."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[UserConfig] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not result.done():
            settled()

    def run() -> None:
        try:
            value = read()
            done = partial(settle, partial(result.set_result, value))
        except Exception as exc:
            done = partial(settle, partial(result.set_exception, exc))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done)

    threading.Thread(target=run, name="midspan-config", daemon=True).start()
    return await result


def _summary(problems: list[Problem]) -> str:
    more = len(problems) - 1
    rest = f" ({more} more; `midspan config check` lists them)" if more else ""
    return f"midspan: {problems[0]}{rest}"


def register(ls: MidspanServer) -> None:
    """Listen to `initialize` and to changes; `startup` reads and pulls after `initialized`."""
    configuration = Configuration(ls)
    ls.configuration = configuration

    @ls.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        configuration.initial = section(params.initialization_options)
        configuration.apply(tell=False)  # nothing may be sent before the answer

    @ls.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def did_change_configuration(params: types.DidChangeConfigurationParams) -> None:
        await configuration.update(params.settings)


async def listen(ls: MidspanServer) -> None:
    """Have the client report changed settings, where it wants to be asked to."""
    if ls.client.register_configuration:
        method = types.WORKSPACE_DID_CHANGE_CONFIGURATION
        options: dict[str, Any] = {"section": SECTION}
        registration = types.Registration(
            id="midspan-configuration", method=method, register_options=options
        )
        await ls.protocol.ask(
            types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams([registration])
        )
