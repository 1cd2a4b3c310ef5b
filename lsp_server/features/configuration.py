"""The editor's settings: from initializationOptions, workspace/configuration and pushed changes.

Rule: brings raw objects to `settings.resolve`, in the order of design §9, and tells the client
once about each thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lsprotocol import types

from lsp_server.settings import SECTION, resolve, section

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer


@dataclass(slots=True)
class Configuration:
    """The layers of settings as they came, and what the client was already told."""

    ls: MidspanServer
    initial: Mapping[str, object] = field(default_factory=dict)
    workspace: Mapping[str, object] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def apply(self, *, tell: bool = True) -> None:
        """Make the settings anew from the layers."""
        before = self.ls.settings
        self.ls.settings, problems = resolve(self.initial, self.workspace)
        if self.ls.settings.autostart != before.autostart:
            self.ls.forget_manager()
        for problem in problems if tell else ():
            if problem not in self.told:
                self.told.add(problem)
                self.ls.log_to_client(f"midspan: {problem}")

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


def register(ls: MidspanServer) -> None:
    """Listen to `initialize` and to changes; `startup` pulls after `initialized`."""
    configuration = Configuration(ls)
    ls.configuration = configuration

    @ls.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        configuration.initial = section(params.initialization_options)
        configuration.apply(tell=False)  # nothing may be sent before the answer

    @ls.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def did_change_configuration(params: types.DidChangeConfigurationParams) -> None:
        await configuration.changed(params.settings)


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
