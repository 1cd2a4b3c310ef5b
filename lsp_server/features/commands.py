"""`workspace/executeCommand`: models, status, restart, on and off.

Rule: each command answers with a JSON object, or fails with the sentence for the user. A table
names them all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from backends.errors import MidspanError
from lsp_server import status
from lsp_server.features import kernels
from lsp_server.features.downloads import download_model, downloadable
from lsp_server.features.edit import edit
from lsp_server.progress import progress
from lsp_server.protocol import REQUEST_FAILED

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

DID_ACCEPT = "midspan.didAccept"
Handler = Callable[["MidspanServer", types.ExecuteCommandParams], Awaitable[Any]]


async def select_model(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[name]`: switch every window to a model; answers when it serves, with its state."""
    name = _argument(params, 0)
    if not isinstance(name, str) or not name:
        raise JsonRpcInvalidParams("midspan.selectModel needs the name of a model.")
    async with progress(ls, f"Loading {name}", params.work_done_token):
        with ls.status.working(f"Loading {name}"):
            current = await ls.manager.post("/api/models/select", {"name": name})
    ls.suggestions.clear()
    ls.status.ready(name)
    return current


async def list_models(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """Every model the manager knows: `{models: [{name, state, ...}], current}`."""
    return await ls.manager.get("/api/models/available")


async def show_status(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """This window's status, and the manager's models if it can be reached."""
    shown = ls.status.current
    answer: dict[str, Any] = {
        "kind": shown.kind.value,
        "busy": shown.busy,
        "message": shown.message,
        "model": shown.model,
        "reason": shown.reason,
        "enabled": ls.settings.enabled and ls.toggles.all_on,
        "positionEncoding": ls.documents.encoding,
        "stats": ls.stats.as_json(),
        "settings": ls.configuration.explain(),
    }
    try:
        answer["models"] = await ls.manager.get("/api/models/status")
    except MidspanError as exc:
        answer["models"] = None
        answer["manager"] = str(exc)
    return answer


async def restart(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """Load the serving model afresh, in a new worker process."""
    async with progress(ls, "Restarting the model", params.work_done_token):
        with ls.status.working("Restarting the model"):
            current = await ls.manager.post("/api/manager/restart-worker", {})
    ls.status.ready(str(current.get("name") or ""))
    return current


async def toggle(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[]`: everything on or off. `["language", id]`, `["document", uri]`: only there."""
    scope, name = _argument(params, 0) or "all", _argument(params, 1)
    if scope == "all":
        enabled = ls.toggles.flip_all()
        if enabled:
            ls.status.ready(ls.status.current.model)
        else:
            ls.status.inactive(status.OFF)
    elif scope == "language" and isinstance(name, str):
        enabled = ls.toggles.flip_language(name)
    elif scope == "document" and isinstance(name, str):
        enabled = ls.toggles.flip_document(name)
    else:
        raise JsonRpcInvalidParams(
            'midspan.toggle takes nothing, ["language", id] or ["document", uri].'
        )
    return {"scope": scope, "enabled": enabled}


async def add_model(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[{path, name?}]`: keep a GGUF file or a folder as a model; answers with its row."""
    wanted = _argument(params, 0)
    if not isinstance(wanted, dict) or not isinstance(wanted.get("path"), str):
        raise JsonRpcInvalidParams("midspan.addModel needs the path of a model.")
    return await ls.manager.post(
        "/api/models/add", {key: wanted[key] for key in ("path", "name") if key in wanted}
    )


async def did_accept(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[id]`: run by the client after it inserted a suggestion, whose item carries this command.

    Answers null whatever the arguments are: nothing a client says here is worth an error.
    """
    ls.offers.accepted(_argument(params, 0))


def accepted_command(item_id: str) -> types.Command:
    """Return the command that an item carries, for the client to run once it was accepted."""
    return types.Command(title="Accepted", command=DID_ACCEPT, arguments=[item_id])


COMMANDS: dict[str, Handler] = {
    "midspan.selectModel": select_model,
    "midspan.listModels": list_models,
    "midspan.addModel": add_model,
    "midspan.downloadable": downloadable,
    "midspan.downloadModel": download_model,
    "midspan.edit": edit,
    "midspan.status": show_status,
    "midspan.restart": restart,
    "midspan.toggle": toggle,
    DID_ACCEPT: did_accept,
    **kernels.COMMANDS,
}


def _argument(params: types.ExecuteCommandParams, index: int) -> Any:
    arguments = params.arguments or []
    return arguments[index] if index < len(arguments) else None


async def _run(handler: Handler, ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    try:
        return await handler(ls, params)
    except MidspanError as exc:
        raise JsonRpcException(str(exc), code=REQUEST_FAILED, data={"kind": exc.kind}) from exc


def register(ls: MidspanServer) -> None:
    """Add the commands of the table."""
    for name, handler in COMMANDS.items():
        ls.command(name)(partial(_run, handler, ls))
