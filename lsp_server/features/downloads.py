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
from lsp_server.progress import Report, progress

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

CATALOGUE = "/api/models/catalogue"
DOWNLOAD = "/api/models/download"
CANCEL = "/api/models/download/cancel"
FIELDS = ("model", "repository", "file", "quantisation", "revision", "name")
PATIENCE_S = 120.0  # for one event; the manager sends one every few seconds
ASKING_S = 60.0  # the machine is looked at

Json = dict[str, Any]


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


def words(row: Json) -> str:
    """Return a download's progress in words.

    >>> words({"state": "downloading", "received_bytes": 2**20, "total_bytes": 2**23, "rate": 0.0})
    '1 of 8 MiB'
    """
    if row["state"] == "downloading":
        received, total = row["received_bytes"], row["total_bytes"]
        rate = f", {row['rate'] / 2**20:.1f} MiB/s" if row["rate"] else ""
        return f"{received // 2**20} of {total // 2**20} MiB{rate}"
    return str(row.get("reason") or row["state"])


def share(row: Json) -> float:
    """Return how much of a download is there, of 1."""
    return row["received_bytes"] / row["total_bytes"] if row["total_bytes"] else 0.0
