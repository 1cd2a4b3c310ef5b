"""One generation per document: a newer one cancels the older.

Rule: only who runs when is decided here. Knows neither documents nor what a generation does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Generations:
    """The generations under way, by document.

    What was asked for by hand (`by_hand`) is not cancelled by what comes while typing.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[asyncio.Task[Any], bool]] = {}

    async def run(
        self, document: str, work: Coroutine[Any, Any, T], *, by_hand: bool = False
    ) -> T | None:
        """Run `work`; None if it gave way to a newer one, or had to wait for one by hand.

        Cancelling the caller cancels `work`, and is raised as ever.
        """
        if self._by_hand(document) and not by_hand:
            work.close()
            return None
        self.cancel(document)
        task = asyncio.ensure_future(work)
        self._running[document] = (task, by_hand)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            return None
        finally:
            if document in self._running and self._running[document][0] is task:
                del self._running[document]

    def cancel(self, document: str) -> None:
        """Cancel the generation of a document, if there is one."""
        running = self._running.pop(document, None)
        if running is not None:
            running[0].cancel()

    def cancel_automatic(self, document: str) -> None:
        """Cancel it unless it was asked for by hand."""
        if not self._by_hand(document):
            self.cancel(document)

    def _by_hand(self, document: str) -> bool:
        return document in self._running and self._running[document][1]
