"""`midspan.downloadable` and `midspan.downloadModel`: models from a hub, with progress.

    midspan.downloadable []                                        → what there is, and what fits
    midspan.downloadModel [{model | repository, file?, quantisation?, revision?, name?}] → its row

Rule: the manager downloads; here it is only watched. Cancelling the progress, or the request,
cancels the download, which keeps what it has. Selects nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams

from backends.errors import MidspanError
from lsp_server.download_rows import (
    ASKING_S,
    CANCEL,
    CATALOGUE,
    DOWNLOAD,
    PATIENCE_S,
    Json,
    share,
    words,
)
from lsp_server.progress import Report, progress

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

FIELDS = ("model", "repository", "file", "quantisation", "revision", "name")


async def downloadable(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[]`: the models that can be downloaded: `{models: [{name, fits, …}], recommended, …}`."""
    return await ls.manager.get(CATALOGUE, timeout=ASKING_S)


async def download_model(ls: MidspanServer, params: types.ExecuteCommandParams) -> Any:
    """`[{model | repository, …}]`: download a model; answers with its row when it can be used."""
    wanted: Any = (params.arguments or [None])[0]
    if not isinstance(wanted, dict) or not (wanted.get("model") or wanted.get("repository")):
        raise JsonRpcInvalidParams("midspan.downloadModel needs a model or a repository.")
    asked = {name: wanted[name] for name in FIELDS if wanted.get(name)}
    title = f"Downloading {asked.get('model') or asked.get('repository')}"
    async with progress(ls, title, params.work_done_token, measured=True) as report:
        return await _watched(ls, asked, report)


async def _watched(ls: MidspanServer, asked: Json, report: Report) -> Any:
    name = ""
    try:
        events = ls.manager.stream(DOWNLOAD, {**asked, "stream": True}, patience=PATIENCE_S)
        async with aclosing(events) as rows:
            async for row in rows:
                name = row["name"]
                report(words(row), share(row))
                if row["state"] == "done":
                    return row["model"]
                if row["state"] == "cancelled":
                    raise MidspanError(f"The download of {name} was cancelled; it can be resumed.")
    except asyncio.CancelledError:
        if name:
            ls.in_background(_cancel(ls, name))
        raise
    raise MidspanError("The backend manager said nothing of the download's end.")


async def _cancel(ls: MidspanServer, name: str) -> None:
    with contextlib.suppress(MidspanError):  # it has ended just now
        await ls.manager.post(CANCEL, {"name": name})
