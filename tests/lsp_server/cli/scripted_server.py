"""A language server that suggests what its environment tells it to: for tests of the typist.

What a model would suggest can't be known; here it is exactly the next characters of $BODY.
"""

from __future__ import annotations

import os
import sys

from lsprotocol import types
from pygls.lsp.server import LanguageServer

BODY = os.environ.get("BODY", "")
LENGTH = int(os.environ.get("LENGTH", "10"))  # characters suggested at a time
WRONG_AT = int(os.environ.get("WRONG_AT", "-1"))  # from here on suggestions are wrong

server = LanguageServer("scripted", "0")


@server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
def inline_completion(
    ls: LanguageServer, params: types.InlineCompletionParams
) -> types.InlineCompletionList:
    document = ls.workspace.get_text_document(params.text_document.uri)
    before = document.source[: document.offset_at_position(params.position)]
    typed = next(n for n in range(len(BODY), -1, -1) if before.endswith(BODY[:n]))
    text = "wrong" if 0 <= WRONG_AT <= typed else BODY[typed : typed + LENGTH]
    if not text:
        return types.InlineCompletionList(items=[])
    # As servers do that replace what is before the cursor on the line.
    start = types.Position(params.position.line, 0)
    line = before.rpartition("\n")[2]
    item = types.InlineCompletionItem(
        insert_text=line + text,
        range=types.Range(start, params.position),
        command=types.Command(title="Accepted", command="accepted"),
    )
    return types.InlineCompletionList(items=[item])


@server.command("accepted")
def accepted(ls: LanguageServer) -> None:
    ls.window_log_message(types.LogMessageParams(types.MessageType.Info, "accepted"))


@server.command("ask")
async def ask(ls: LanguageServer) -> list[object]:
    items = [types.ConfigurationItem(section="a"), types.ConfigurationItem(section="b")]
    return list(await ls.workspace_configuration_async(types.ConfigurationParams(items)))


@server.command("die")
def die(ls: LanguageServer) -> None:
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    os._exit(3)


if __name__ == "__main__":
    server.start_io()
