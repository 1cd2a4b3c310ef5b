"""An editor: pytest-lsp's client and the real processes behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
from lsprotocol import types
from pytest_lsp import LanguageClient, make_test_lsp_client

from backends import state
from lsp_server.documents import Change, Document
from lsp_server.protocol import place_of, position_of
from tests.conftest import MIDSPAN, Env

PATIENCE = 120.0  # seconds; a first start on a busy machine included
AUTOMATIC = types.InlineCompletionTriggerKind.Automatic


def capabilities() -> types.ClientCapabilities:
    """What Neovim 0.12 can do, as far as it matters here; pytest-lsp has no such snapshot."""
    return types.ClientCapabilities(
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind.Utf8]
        ),
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities(),
            code_action=types.CodeActionClientCapabilities(
                data_support=True,
                code_action_literal_support=types.ClientCodeActionLiteralOptions(
                    types.ClientCodeActionKindOptions([])
                ),
                resolve_support=types.ClientCodeActionResolveOptions(["edit"]),
            ),
        ),
        workspace=types.WorkspaceClientCapabilities(
            apply_edit=True,
            workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True),
        ),
        window=types.WindowClientCapabilities(work_done_progress=True),
    )


@dataclass
class Buffer:
    """An open document with a cursor, as an editor has it."""

    client: LanguageClient
    document: Document
    cursor: int

    def type(self, text: str) -> None:
        """Insert text at the cursor and tell the server."""
        self._replace(self.cursor, self.cursor, text)

    def backspace(self) -> None:
        """Delete the character before the cursor."""
        self._replace(self.cursor - 1, self.cursor, "")

    def accept(self, item: types.InlineCompletionItem) -> None:
        """Insert a suggestion, as the specification says."""
        assert isinstance(item.insert_text, str)
        if item.range is None:
            self.type(item.insert_text)
            return
        assert item.range.start.line == item.range.end.line
        start = self.document.offset(place_of(item.range.start))
        self._replace(start, self.document.offset(place_of(item.range.end)), item.insert_text)

    def request(self) -> Any:
        """Ask for ghost text; an awaitable list."""
        params = types.InlineCompletionParams(
            text_document=types.TextDocumentIdentifier(self.document.uri),
            position=position_of(self.document.place(self.cursor)),
            context=types.InlineCompletionContext(trigger_kind=AUTOMATIC),
        )
        return self.client.text_document_inline_completion_async(params)

    async def ghost(self) -> list[types.InlineCompletionItem]:
        """The suggestions at the cursor."""
        result = await asyncio.wait_for(self.request(), PATIENCE)
        assert isinstance(result, types.InlineCompletionList)
        return list(result.items)

    async def ghost_soon(self) -> list[types.InlineCompletionItem]:
        """The same, asked for again, as by further keys, while there are none."""
        async with asyncio.timeout(PATIENCE):
            while not (items := await self.ghost()):
                await asyncio.sleep(0.1)
        return items

    def _replace(self, start: int, end: int, text: str) -> None:
        places = self.document.place(start), self.document.place(end)
        self.document.apply(Change(text, *places))
        self.document.version += 1
        self.cursor = start + len(text)
        change = types.TextDocumentContentChangePartial(
            range=types.Range(*map(position_of, places)), text=text
        )
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                text_document=types.VersionedTextDocumentIdentifier(
                    self.document.version, self.document.uri
                ),
                content_changes=[change],
            )
        )


@dataclass
class Editor:
    """An editor window with its language server."""

    client: LanguageClient
    env: Env

    def open(self, text: str, name: str = "new.py") -> Buffer:
        """Open a document with the cursor at ▌, or at its end."""
        at = text.find("▌")
        text = text.replace("▌", "")
        uri = f"file:///work/{name}"
        document = Document(uri, text, 1, "python", "utf-8")
        item = types.TextDocumentItem(uri=uri, language_id="python", version=1, text=text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return Buffer(self.client, document, len(text) if at < 0 else at)

    async def command(self, name: str, *arguments: object) -> Any:
        """Run a command and return its result as plain data."""
        params = types.ExecuteCommandParams(command=name, arguments=list(arguments))
        call = self.client.protocol.send_request_async("workspace/executeCommand", params)
        return plain(await asyncio.wait_for(call, PATIENCE))

    async def model(self, name: str) -> dict[str, Any]:
        """The manager's row about a model."""
        rows = (await self.command("midspan.status"))["models"]["models"]
        return next(row for row in rows if row["name"] == name)

    def manager_pid(self) -> int:
        """The process id of the manager that this editor's server uses."""
        endpoint = state.read(Path(self.env["MIDSPAN_RUNTIME_DIR"]))
        assert endpoint is not None
        return endpoint.pid


def plain(value: Any) -> Any:
    """The JSON that pygls made objects of."""
    if hasattr(value, "_asdict"):
        return {key: plain(entry) for key, entry in value._asdict().items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


@pytest_asyncio.fixture
async def editor(midspan_env: Env) -> AsyncIterator[Editor]:
    """A window that has just been opened; everything it started ends with the test."""
    client = make_test_lsp_client()
    await client.start_io(*MIDSPAN, "lsp", env=midspan_env)
    await client.initialize_session(
        types.InitializeParams(
            capabilities=capabilities(),
            process_id=None,
            root_uri="file:///work",
            client_info=types.ClientInfo("pytest-lsp"),
        )
    )
    yield Editor(client, midspan_env)
    await client.shutdown_session()
    await client.stop()
