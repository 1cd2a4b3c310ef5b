"""The server object that the features share: documents, settings, status, the way to the manager.

Rule: holds state and runs the message loop; what is answered is the features' business
(`features/`), how the conversation is conducted `protocol`'s. One event loop, one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInternalError
from pygls.lsp.server import LanguageServer

from backends import __version__
from lsp_server import parent
from lsp_server.client_features import ClientFeatures
from lsp_server.documents import Documents
from lsp_server.generations import Generations
from lsp_server.idle import Idle
from lsp_server.ledger import Ledger
from lsp_server.offers import Offers
from lsp_server.protocol import MidspanProtocol
from lsp_server.repository import Repositories
from lsp_server.settings import Popup, Settings
from lsp_server.stats import Stats
from lsp_server.status import Status, StatusReporter
from lsp_server.stdio import Body, Garbage, Reader, Writer
from lsp_server.suggestion_cache import SuggestionCache
from lsp_server.toggles import Toggles

if TYPE_CHECKING:
    from backends.client import ManagerClient
    from lsp_server.features.configuration import Configuration
    from lsp_server.features.kernel_files import KernelFiles

logger = logging.getLogger(__name__)

PARENT_POLL_S = 1.0
MAX_UNHANDLED = 1000  # messages read ahead of the event loop


class MidspanServer(LanguageServer):
    """One editor window's server."""

    protocol: MidspanProtocol

    def __init__(self) -> None:
        super().__init__("midspan", __version__, protocol_cls=MidspanProtocol)
        self.client = ClientFeatures()
        self.documents = Documents(Repositories().refusal)
        # Told the URI after a document was opened, changed or closed.
        self.document_listeners: list[Callable[[str], None]] = []
        self.generations = Generations()
        self.suggestions = SuggestionCache()
        self.stats = Stats()
        self.ledger = Ledger(_ledger_path)
        self.offers = Offers(self.ledger, self.documents, lambda: self.status.current.model)
        self.idle = Idle(self)
        self.settings = Settings()
        self.toggles = Toggles()
        self.status = StatusReporter(self.send_status)
        self.configuration: Configuration  # set by features.configuration
        self.kernel_files: KernelFiles  # set by features.kernels
        # The functions of which a kernel is being made: their folder's URI and their name.
        self.kernel_jobs: set[tuple[str, str]] = set()
        self.inline_seen = False  # the client has asked for inline completions
        self.legacy_status = False  # the client knows Copilot's status of old
        self._manager: ManagerClient | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._stopped: asyncio.Future[int] | None = None

    # --- what the features use ------------------------------------------------------------

    @property
    def manager(self) -> ManagerClient:
        """The way to the backend manager; nothing is started before it is used."""
        if self._manager is None:
            from backends.client import ManagerClient

            self._manager = ManagerClient(
                autostart=self.settings.autostart, client_name=self.client.name or "midspan-lsp"
            )
        return self._manager

    def forget_manager(self) -> None:
        """Make the next use of `manager` build one from the present settings."""
        if self._manager is not None:
            self.in_background(self._manager.close())
            self._manager = None

    @property
    def popup_wanted(self) -> bool:
        """Whether suggestions are offered in the completion popup."""
        if self.settings.popup is Popup.AUTO:
            ghost_text = self.client.inline_completion or self.client.copilot_dialect
            return not (ghost_text or self.inline_seen)
        return self.settings.popup is Popup.ALWAYS

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else; its failure is logged."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.report_server_error(exc, type(exc))

    def send_status(self, status: Status) -> None:
        """Send the status in our own notification and, to who speaks it, in Copilot's."""
        fields = {
            "kind": status.kind.value,
            "busy": status.busy,
            "message": status.message or self.status.doing,
        }
        self.protocol.notify(
            "midspan/status", {**fields, "model": status.model, "reason": status.reason}
        )
        if self.client.copilot_dialect:
            self.protocol.notify("didChangeStatus", fields)
        if self.legacy_status:
            shown = "InProgress" if status.busy else status.kind.value
            words = {"status": shown, "message": fields["message"]}
            self.protocol.notify("statusNotification", words)

    def log_to_client(self, message: str) -> None:
        """Write a line to the client's log of this server; pops up nothing."""
        self.window_log_message(types.LogMessageParams(types.MessageType.Warning, message))

    def report_server_error(self, error: BaseException, source: object) -> None:
        """Log where it happened. The message may quote a document, so it is for debug only.

        pygls would show every parse error to the user in a window.
        """
        if isinstance(error, JsonRpcException) and not isinstance(error, JsonRpcInternalError):
            logger.info("answered with error %d", error.code)
            return
        where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
        logger.error("%s in a handler\n%s", type(error).__name__, where)
        logger.debug("the %s said: %s", type(error).__name__, error)

    # --- the conversation -----------------------------------------------------------------

    def begin(self, params: types.InitializeParams, encoding: str) -> None:
        """Take over what `initialize` settled."""
        self.documents.encoding = encoding
        # A process id that means nothing here (another container's) is not watched.
        if params.process_id and params.process_id > 1 and parent.is_alive(params.process_id):
            self.in_background(self._watch_parent(params.process_id))

    async def _watch_parent(self, pid: int) -> None:
        while parent.is_alive(pid):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(PARENT_POLL_S)
        self.stop(self.protocol.exit_code(), f"the editor (process {pid}) has ended")

    def stop(self, code: int, reason: str) -> None:
        """End `serve` with this exit code; the first call counts."""
        if self._stopped is not None and not self._stopped.done():
            logger.info("stopping: %s", reason)
            self._stopped.set_result(code)

    async def serve(self, reading: int, writing: int) -> int:
        """Talk to the client over two file descriptors; return the process's exit code."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        inbox: asyncio.Queue[Body | Garbage | None] = asyncio.Queue()
        room = threading.BoundedSemaphore(MAX_UNHANDLED)

        def deliver(event: Body | Garbage | None) -> None:
            room.acquire()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(inbox.put_nowait, event)

        def lost(reason: str) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.stop, 1, reason)

        writer = Writer(writing, lost)
        self.protocol.set_writer(writer)
        writer.start()
        Reader(reading, deliver).start()
        self.in_background(self._handle_all(inbox, room))
        code = await self._stopped
        for task in list(self._background):
            task.cancel()
        if self._manager is not None:
            await self._manager.close()
        writer.close()
        self.ledger.close()
        return code

    async def _handle_all(
        self, inbox: asyncio.Queue[Body | Garbage | None], room: threading.BoundedSemaphore
    ) -> None:
        while (event := await inbox.get()) is not None:
            if isinstance(event, Garbage):
                logger.warning("the client's stream: %s", event.reason)
            else:
                try:
                    self.protocol.handle_body(event.data)
                except Exception as exc:  # a bug; the conversation goes on
                    self.report_server_error(exc, type(exc))
            room.release()
            # A handler runs to its first await, and takes its snapshot, before the next edit.
            await asyncio.sleep(0)
        self.stop(self.protocol.exit_code(), "the client closed our stdin")


def _ledger_path() -> Path:
    from backends import paths
    from lsp_server.ledger_file import NAME

    return paths.state_dir() / NAME
