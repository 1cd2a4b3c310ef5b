"""Work-done progress around something slow, with the client's cancel button.

Rule: shows nothing and stops nothing where the client has no progress. Knows not what is slow.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from lsprotocol import types

if TYPE_CHECKING:
    from concurrent.futures import Future

    from lsp_server.language_server import MidspanServer


# Tells the client a message, and how much is done (of 1) where that is known.
Report = Callable[[str, float | None], None]


@asynccontextmanager
async def progress(
    ls: MidspanServer,
    title: str,
    token: types.ProgressToken | None = None,
    *,
    measured: bool = False,
) -> AsyncIterator[Report]:
    """Show `title` while the block runs; the client's cancel cancels the block's task.

    `token` is the request's own, where it had one; else the client is asked to show one of ours.
    Yields what reports progress; `measured`: it will say how much is done.
    """
    if token is None:
        token = await _created(ls)
    if token is None:
        yield lambda message, share: None
        return
    task = asyncio.current_task()
    shown = ls.work_done_progress
    shown.begin(
        token,
        types.WorkDoneProgressBegin(
            title=title,
            cancellable=True,
            message="midspan",
            # Without a first percentage clients ignore those that come later.
            percentage=0 if measured else None,
        ),
    )

    def cancelled(future: Future[None]) -> None:
        if future.cancelled() and task is not None:
            task.cancel()

    shown.tokens[token].add_done_callback(cancelled)
    try:
        yield partial(_report, ls, token)
    finally:
        shown.tokens.pop(token, None)
        shown.end(token, types.WorkDoneProgressEnd())


def _report(
    ls: MidspanServer, token: types.ProgressToken, message: str, share: float | None
) -> None:
    percentage = None if share is None else int(100 * min(max(share, 0.0), 1.0))
    value = types.WorkDoneProgressReport(message=message, percentage=percentage)
    ls.work_done_progress.report(token, value)


async def _created(ls: MidspanServer) -> types.ProgressToken | None:
    if not ls.client.progress:
        return None
    token = f"midspan-{uuid.uuid4()}"
    params = types.WorkDoneProgressCreateParams(token=token)
    try:
        await asyncio.wait_for(ls.window_work_done_progress_create_async(params), 2.0)
    except Exception:  # a client that refuses or is slow gets no progress, but its answer
        return None
    return token
