"""What happens on `initialized`: settings, then the manager, so that the first key is fast.

Rule: nothing is started and nothing waited for before `initialized`; nothing here delays an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsprotocol import types

from backends.errors import MidspanError
from lsp_server import status
from lsp_server.features import configuration

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

NOTHING = {"input_prefix": "", "input_suffix": ""}


async def initialized(ls: MidspanServer, params: types.InitializedParams) -> None:
    """Open the status, and do the rest in the background."""
    ls.status.open()
    ls.in_background(_warm_up(ls))


async def _warm_up(ls: MidspanServer) -> None:
    await configuration.listen(ls)
    await ls.configuration.read_user(show=True)
    await ls.configuration.pull()
    if ls.settings.enabled:
        await connect(ls)
    else:
        ls.status.inactive(status.OFF)


async def connect(ls: MidspanServer) -> None:
    """Find or start the manager, and have it load its model: by a request for no tokens.

    Where the settings name a model, that one is selected first.
    """
    try:
        with ls.status.working("Starting the model"):
            if name := ls.settings.model:
                await ls.manager.post("/api/models/select", {"name": name})
            answer = await ls.manager.infill({**NOTHING, "n_predict": 0})
    except MidspanError as exc:
        ls.status.failed(exc)
        return
    ls.status.ready(str(answer.get("model") or ""))


def register(ls: MidspanServer) -> None:
    """Listen to `initialized`."""
    ls.feature(types.INITIALIZED)(initialized)
