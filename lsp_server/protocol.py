"""LSP's rules of conduct, where pygls 2.1.1 does not keep them.

Rule: turns bytes into pygls messages and answers into bytes; every request gets exactly one
answer; nothing a client sends raises, pops up a message, or puts document text in a log. Must not
know what any feature does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Generator
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams
from pygls.protocol import LanguageServerProtocol, lsp_method
from pygls.protocol.json_rpc import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    JsonRPCResponseMessage,
)

from lsp_server import client_features
from lsp_server.documents import Change, Place
from lsp_server.generations import Rank

if TYPE_CHECKING:
    from cattrs import Converter

    from lsp_server.language_server import MidspanServer

logger = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603
NOT_INITIALIZED = -32002
REQUEST_FAILED = -32803
CONTENT_MODIFIED = -32801

_ID = re.compile(rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")')
_FALLBACKS = (JsonRPCRequestMessage, JsonRPCNotification, JsonRPCResponseMessage)


class Lifecycle(Enum):
    """Where the conversation stands."""

    NEW = auto()  # only `initialize` is answered
    RUNNING = auto()
    SHUT_DOWN = auto()  # only `exit` is waited for


class MidspanProtocol(LanguageServerProtocol):
    """pygls's protocol behind our own wire."""

    _server: MidspanServer

    def __init__(self, server: MidspanServer, converter: Converter) -> None:
        super().__init__(server, converter)
        self._lifecycle = Lifecycle.NEW
        # What a method's parameters may look like beside what the specification says: called
        # with the raw parameters before they are converted.
        self.tolerations: dict[str, Callable[[dict[str, Any]], None]] = {}
        # pygls would hand unknown parameters over as objects made of JSON made of objects.
        for fallback in _FALLBACKS:
            converter.register_structure_hook(fallback, lambda raw, cls: cls(**raw))
        converter.register_structure_hook(types.TextDocumentIdentifier, _identifier)
        # cattrs would make "None" of null: a document's text, among others.
        converter.register_structure_hook(str, _string)
        converter.register_structure_hook(int, _whole_number)

    # --- incoming -------------------------------------------------------------------------

    def handle_body(self, body: bytes) -> None:
        """Handle one message's content, whatever it is."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as exc:
            logger.warning("unreadable content of %d bytes (%s)", len(body), type(exc).__name__)
            found = _ID.search(body)
            if found is not None and b'"method"' in body:
                self._refuse(json.loads(found.group(1)), PARSE_ERROR, "The content is not JSON.")
            return
        if not isinstance(data, dict):
            logger.warning("ignored content that is a %s, not an object", type(data).__name__)
        elif "method" in data:
            self._handle_call(data)
        else:
            self._handle_answer(data)

    def _handle_call(self, data: dict[str, Any]) -> None:
        method, msg_id = data["method"], _id_of(data)
        refusal = self._refusal(data)
        if refusal is not None:
            logger.info("refused %r: %s", method, refusal[1])
            if msg_id is not None:
                self._refuse(msg_id, *refusal)
            return
        if method == types.INITIALIZE:
            self._lifecycle = Lifecycle.RUNNING
        try:
            self._prepare(method, data)
            message = self.structure_message(data)
        except Exception as exc:
            logger.warning("wrong parameters of %r (%s)", method, type(exc).__name__)
            if method == types.INITIALIZE:
                self._lifecycle = Lifecycle.NEW
            if msg_id is not None:
                error = JsonRpcInvalidParams(f"The parameters of {method} are wrong.")
                self._send_response(msg_id, error=error.to_response_error())
            return
        self.handle_message(message)

    def _refusal(self, data: dict[str, Any]) -> tuple[int, str] | None:
        """Why this call is not even looked at: an error code and a sentence."""
        method = data["method"]
        if not isinstance(method, str):
            return INVALID_REQUEST, "The method is no string."
        if "id" in data and _id_of(data) is None:
            return INVALID_REQUEST, "The id is neither a number nor a string."
        if data.get("jsonrpc", self.VERSION) != self.VERSION:
            return INVALID_REQUEST, "Only JSON-RPC 2.0 is spoken here."
        if method == types.EXIT:
            return None
        if self._lifecycle is Lifecycle.NEW and method != types.INITIALIZE:
            return NOT_INITIALIZED, "The first request must be initialize."
        if self._lifecycle is Lifecycle.RUNNING and method == types.INITIALIZE:
            return INVALID_REQUEST, "initialize was already called."
        if self._lifecycle is Lifecycle.SHUT_DOWN:
            return INVALID_REQUEST, "The server was shut down."
        return None

    def _prepare(self, method: str, data: dict[str, Any]) -> None:
        """Make the raw message one that pygls can convert."""
        data["jsonrpc"] = self.VERSION
        params = data.get("params")
        if method == types.INITIALIZE:
            if not isinstance(params, dict):
                raise TypeError("initialize needs parameters")
            self._server.client = client_features.read(params)
            data["params"] = client_features.pruned(params)
        elif method in self.tolerations and isinstance(params, dict):
            self.tolerations[method](params)
        if self.get_message_type(method) is None:
            for key in set(data) - {"id", "method", "jsonrpc"}:
                del data[key]
            data["params"] = params

    def _handle_cancel_notification(self, msg_id: Any) -> None:
        if isinstance(msg_id, int | str):
            super()._handle_cancel_notification(msg_id)

    def _handle_answer(self, data: dict[str, Any]) -> None:
        msg_id = _id_of(data)
        if msg_id is None or msg_id not in self._result_types:
            logger.debug("ignored an answer to nothing that was asked")
            return
        del self._result_types[msg_id]
        future = self._request_futures.pop(msg_id, None)
        if future is None or future.done():
            # We were cancelled while we waited: the late answer means nothing.
            return
        error = data.get("error")
        if isinstance(error, dict):
            future.set_exception(
                JsonRpcException(str(error.get("message")), code=_integer(error.get("code")))
            )
        else:
            future.set_result(data.get("result"))

    # --- outgoing -------------------------------------------------------------------------

    def _refuse(self, msg_id: int | str, code: int, message: str) -> None:
        self._send_response(msg_id, error=types.ResponseError(code=code, message=message))

    def _send_data(self, data: Any) -> None:
        """Send a message. Unlike pygls: never logs it, and a request is answered in any case."""
        if self.writer is None:
            return
        try:
            body = json.dumps(data, default=self._serialize_message, separators=(",", ":")).encode()
        except Exception as exc:
            logger.error("cannot write a %s (%s)", type(data).__name__, type(exc).__name__)
            if getattr(data, "method", None) is None and getattr(data, "error", None) is None:
                self._refuse(data.id, INTERNAL_ERROR, "The answer could not be written.")
            return
        self.writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    # --- what pygls does itself, done right -------------------------------------------------

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(
        self, params: types.InitializeParams
    ) -> Generator[Any, Any, types.InitializeResult]:
        """Agree with the client on what both can do."""
        result: types.InitializeResult = yield from super().lsp_initialize(params)
        encoding = result.capabilities.position_encoding
        self._server.begin(params, str(getattr(encoding, "value", encoding)))
        if not self._server.popup_wanted:
            result.capabilities.completion_provider = None
        return result

    @lsp_method(types.SHUTDOWN)
    def lsp_shutdown(self, *args: Any) -> None:  # type: ignore[override]
        """Stop everything under way; only `exit` is expected from here on."""
        self._lifecycle = Lifecycle.SHUT_DOWN
        for future in list(self._request_futures.values()):
            future.cancel()

    @lsp_method(types.EXIT)
    def lsp_exit(self, *args: Any) -> None:  # type: ignore[override]
        """End the process: with 0 only after `shutdown`."""
        self._server.stop(self.exit_code(), "the client said exit")

    def exit_code(self) -> int:
        """The process's exit code if the conversation ended now."""
        return 0 if self._lifecycle is Lifecycle.SHUT_DOWN else 1

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Take over a document from the client."""
        item = params.text_document
        documents = self._server.documents
        document = documents.open(item.uri, item.text, item.version, str(item.language_id))
        self._server.idle.opened(document)
        self._tell(item.uri)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Follow the client's edits."""
        identifier = params.text_document
        changes = [_change(change) for change in params.content_changes]
        if self._server.documents.change(identifier.uri, identifier.version, changes):
            self._server.generations.cancel(identifier.uri, Rank.TYPING)
            self._tell(identifier.uri)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Forget a document."""
        document = self._server.documents.get(params.text_document.uri)
        if document is not None:
            self._server.generations.cancel(document.uri)
            self._server.documents.close(document.uri)
            self._server.suggestions.drop(document.uri)
            self._server.idle.closed(document)
            self._server.offers.closed(document.uri)
            self._tell(params.text_document.uri)

    def _tell(self, uri: str) -> None:
        for listener in self._server.document_listeners:
            listener(uri)

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(  # type: ignore[override]
        self, params: types.ExecuteCommandParams
    ) -> Any:
        """Run a command. As a coroutine, so that `$/cancelRequest` reaches it."""
        handler = self.fm.commands.get(params.command)
        if handler is None:
            raise JsonRpcInvalidParams(f"There is no command {params.command!r}.")
        return await handler(params)

    async def ask(self, method: str, params: object, timeout: float = 5.0) -> Any:  # noqa: ASYNC109
        """Send the client a request; its raw result, or None if it refuses or does not answer."""
        try:
            return await asyncio.wait_for(self.send_request_async(method, params), timeout)
        except (JsonRpcException, TimeoutError) as exc:
            logger.info("the client did not answer %s (%s)", method, type(exc).__name__)
            return None


def _change(change: types.TextDocumentContentChangeEvent) -> Change:
    if isinstance(change, types.TextDocumentContentChangePartial):
        return Change(change.text, place_of(change.range.start), place_of(change.range.end))
    return Change(change.text)


def place_of(position: types.Position) -> Place:
    """The wire's position as ours."""
    return Place(position.line, position.character)


def position_of(place: Place) -> types.Position:
    """Our position as the wire's."""
    return types.Position(place.line, place.character)


def _identifier(
    raw: Any, cls: object
) -> types.TextDocumentIdentifier | types.VersionedTextDocumentIdentifier:
    """Structure a document's identifier; one that names a version keeps it.

    The specification has no version in requests; clients of Copilot's dialect send it.
    """
    version = raw.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        return types.VersionedTextDocumentIdentifier(version=version, uri=raw["uri"])
    return types.TextDocumentIdentifier(raw["uri"])


def _string(raw: Any, cls: object) -> str:
    if not isinstance(raw, str):
        raise TypeError("no string")
    return raw


def _whole_number(raw: Any, cls: object) -> int:
    """Take a number as a number; some clients write all of theirs as 1.0."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw != int(raw):
        raise TypeError("no whole number")
    return int(raw)


def _id_of(data: dict[str, Any]) -> int | str | None:
    msg_id = data.get("id")
    return msg_id if isinstance(msg_id, int | str) and not isinstance(msg_id, bool) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
