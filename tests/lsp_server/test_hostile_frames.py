"""Malformed and hostile frames, one table: what is answered, and that nothing else happens.

One server meets all of them, one after the other. After each row it still has the editor's text,
answers the next request, and has popped up nothing. `test_wire.py` has what ends a conversation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lsp_server.wire import Wire, frame

URI = "file:///w/kept.py"
TEXT = "s = '😀'\r\nx = 1\u2028\n"
PLACE = {"line": 0, "character": 0}
RANGE = {"start": PLACE, "end": PLACE}
PARSE, INVALID, UNKNOWN, PARAMS = -32700, -32600, -32601, -32602
OK = "result"
ASKED = "asked"  # the id in every row


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    wire = Wire(tmp_path_factory.mktemp("hostile"))
    wire.initialize()
    yield wire
    wire.close()


def request(method: str, params: Any = None, msg_id: Any = ASKED, **more: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": msg_id, "method": method, "params": params, **more}
    return frame(message)


def notify(method: str, params: Any = None) -> bytes:
    return frame({"jsonrpc": "2.0", "method": method, "params": params})


def body(text: str) -> bytes:
    return frame(text.encode())


def inline(**changed: Any) -> dict[str, Any]:
    params = {"textDocument": {"uri": URI}, "position": PLACE, "context": {"triggerKind": 1}}
    return params | changed


def changes(*content: Any, version: Any = 6, uri: Any = URI) -> bytes:
    document = {"uri": uri, "version": version}
    return notify(
        "textDocument/didChange", {"textDocument": document, "contentChanges": list(content)}
    )


def opened(uri: Any, text: Any = "x", **changed: Any) -> bytes:
    item = {"uri": uri, "languageId": "python", "version": 1, "text": text} | changed
    return notify("textDocument/didOpen", {"textDocument": item})


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def at(line: Any, character: Any) -> dict[str, Any]:
    return {"line": line, "character": character}


STATUS = request("workspace/executeCommand", {"command": "midspan.documents"})
INLINE, CHANGE = "textDocument/inlineCompletion", "textDocument/didChange"
NOTHING: tuple[object, ...] = ()

# What is sent, and the answers to `ASKED` (an error's code, or a result), in any order.
ROWS: dict[str, tuple[bytes, tuple[object, ...]]] = {
    # lengths and headers
    "a length too short": (b"Content-Length: 5\r\n\r\n" + b'{"jsonrpc":"2.0"}', NOTHING),
    "a negative length": (b"Content-Length: -1\r\n\r\n", NOTHING),
    "a length that is no number": (b"Content-Length: many\r\n\r\n", NOTHING),
    "a length of 100 digits": (b"Content-Length: " + b"9" * 100 + b"\r\n\r\n", NOTHING),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", NOTHING),
    "no length": (b"Content-Type: text/plain\r\n\r\n", NOTHING),
    "a header of 100 kB": (b"X-Long: " + b"y" * 100_000 + b"\r\n\r\n", NOTHING),
    "binary": (bytes(range(256)) * 20 + b"\r\n\r\n", NOTHING),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", NOTHING),
    "an empty body": (frame(b""), NOTHING),
    "a header in lower case": (STATUS.replace(b"Content-Length", b"content-length"), (OK,)),
    "a charset of old": (
        STATUS.replace(b"\r\n\r\n", b"\r\nContent-Type: a/b; charset=utf8\r\n\r\n"),
        (OK,),
    ),
    # JSON
    "no JSON": (body("nonsense"), NOTHING),
    "half a request": (
        body('{"jsonrpc":"2.0","id":"asked","method":"shutdown","params":{'),
        (PARSE,),
    ),
    "no UTF-8": (frame(b'{"jsonrpc":"2.0","id":"asked","method":"x","params":"\xff"}'), (PARSE,)),
    "a batch": (body('[{"jsonrpc":"2.0","id":"asked","method":"shutdown"}]'), NOTHING),
    "a number": (body("7"), NOTHING),
    "nested 100,000 deep": (body("[" * 100_000 + "]" * 100_000), NOTHING),
    "a request nested 100,000 deep": (
        body('{"jsonrpc":"2.0","id":"asked","method":"a","params":' + nested(100_000) + "}"),
        (PARSE,),
    ),
    "a request nested 900 deep": (
        body('{"jsonrpc":"2.0","id":"asked","method":"a","params":' + nested(900) + "}"),
        (UNKNOWN,),
    ),
    "arguments nested 900 deep": (
        body(
            '{"jsonrpc":"2.0","id":"asked","method":"workspace/executeCommand",'
            '"params":{"command":"midspan.didAccept","arguments":[' + nested(900) + "]}}"
        ),
        (OK,),
    ),
    "a string of 20 MB": (request("some/request", {"a": "x" * 20_000_000}), (UNKNOWN,)),
    "a method of 1 MB": (request("m" * 1_000_000), (UNKNOWN,)),
    "a number of 5,000 digits": (
        body('{"jsonrpc":"2.0","id":"asked","method":"a","params":{"n":' + "9" * 5000 + "}}"),
        (PARSE,),
    ),
    "a member twice": (
        body('{"jsonrpc":"2.0","id":"asked","id":"asked","method":"a","method":"b"}'),
        (UNKNOWN,),
    ),
    "NaN in a position": (
        body(
            '{"jsonrpc":"2.0","id":"asked","method":"'
            + INLINE
            + '","params":{"textDocument":{"uri":"'
            'x"},"position":{"line":NaN,"character":Infinity},"context":{"triggerKind":1}}}'
        ),
        (PARAMS,),
    ),
    # envelopes
    "no version of JSON-RPC": (body('{"id":"asked","method":"a"}'), (UNKNOWN,)),
    "another version of JSON-RPC": (request("a", jsonrpc="1.0"), (INVALID,)),
    "a method that is a list": (request(["shutdown"]), (INVALID,)),  # type: ignore[arg-type]
    "an id that is a list": (request("shutdown", msg_id=["asked"]), NOTHING),
    "an id that is true": (request("shutdown", msg_id=True), NOTHING),
    "an id that is no integer": (request("shutdown", msg_id=7.5), NOTHING),
    "an unknown request": (request("some/request", {}), (UNKNOWN,)),
    "an unknown request without parameters": (
        body('{"jsonrpc":"2.0","id":"asked","method":"a"}'),
        (UNKNOWN,),
    ),
    "an unknown notification": (notify("some/notification", {"a": 1}), NOTHING),
    "an id used twice": (STATUS + STATUS, (OK, OK)),
    "an answer to nothing": (frame({"jsonrpc": "2.0", "id": "x", "result": 1}), NOTHING),
    "an error to nothing": (frame({"jsonrpc": "2.0", "id": 1, "error": "oh"}), NOTHING),
    "a cancellation of nothing": (notify("$/cancelRequest", {"id": ASKED}), NOTHING),
    "a cancellation of what cannot be": (notify("$/cancelRequest", {"id": {"a": 1}}), NOTHING),
    "initialize again": (request("initialize", {"capabilities": {}}), (INVALID,)),
    # parameters
    "no parameters": (request(INLINE), (PARAMS,)),
    "parameters that are a list": (request(INLINE, [1, 2]), (PARAMS,)),
    "parameters that are a string": (request(INLINE, "x"), (PARAMS,)),
    "a document that is a list": (request(INLINE, inline(textDocument=[])), (PARAMS,)),
    "a URI that is a number": (request(INLINE, inline(textDocument={"uri": 5})), (PARAMS,)),
    "a position that is missing": (
        request(INLINE, {"textDocument": {"uri": URI}, "context": {}}),
        (PARAMS,),
    ),
    "a negative line": (request(INLINE, inline(position=at(-1, 0))), (PARAMS,)),
    "a negative character": (request(INLINE, inline(position=at(0, -1))), (PARAMS,)),
    "a line that is a string": (request(INLINE, inline(position=at("1", 0))), (PARAMS,)),
    "a line beyond any document": (request(INLINE, inline(position=at(2**40, 0))), (PARAMS,)),
    "a line behind the last": (request(INLINE, inline(position=at(2**31 - 1, 9))), (OK,)),
    "a position inside a character": (request(INLINE, inline(position=at(0, 6))), (OK,)),
    "a context that is a string": (request(INLINE, inline(context="x")), (PARAMS,)),
    "a trigger kind that is a list": (request(INLINE, inline(context={"triggerKind": []})), (OK,)),
    "a chosen entry that is none": (
        request(INLINE, inline(context={"triggerKind": 2, "selectedCompletionInfo": 3})),
        (PARAMS,),
    ),
    "a document nobody opened": (request(INLINE, inline(textDocument={"uri": "x"})), (OK,)),
    "a version that is a string": (
        request(INLINE, inline(textDocument={"uri": URI, "version": "5"})),
        (OK,),
    ),
    "code actions without a context": (
        request("textDocument/codeAction", {"textDocument": {"uri": URI}, "range": RANGE}),
        (PARAMS,),
    ),
    "an action that is none of ours": (request("codeAction/resolve", {"title": "x"}), (PARAMS,)),
    "an unknown command": (request("workspace/executeCommand", {"command": "rm"}), (PARAMS,)),
    "a command that is a list": (request("workspace/executeCommand", {"command": []}), (PARAMS,)),
    "settings that are a list": (
        notify("workspace/didChangeConfiguration", {"settings": [1]}),
        NOTHING,
    ),
    # documents
    "a change before its document is open": (changes({"text": "x"}, uri="file:///other"), NOTHING),
    "a change to an older version": (changes({"text": "x"}, version=4), NOTHING),
    "a change without a version": (changes({"text": "x"}, version=None), NOTHING),
    "a change whose text is a number": (changes({"text": 5}), NOTHING),
    "a change at a negative place": (
        changes({"range": {"start": at(-1, 0), "end": PLACE}, "text": "x"}),
        NOTHING,
    ),
    "a change after one that is wrong": (changes({"text": "x"}, {"text": None}), NOTHING),
    "changes that are no list": (
        notify(CHANGE, {"textDocument": {"uri": URI, "version": 6}, "contentChanges": "x"}),
        NOTHING,
    ),
    "no changes at all": (notify(CHANGE), NOTHING),
    "a document without a text": (opened(URI, None), NOTHING),
    "a document without a language": (opened("file:///w/b", languageId=None), NOTHING),
    "a document whose URI is a list": (opened([URI]), NOTHING),
    "a document whose URI is none": (opened("http://[", "x"), NOTHING),
    "a document with an odd URI": (opened("file:///%00%ff/../../\x00", "x"), NOTHING),
    "a document without a URI": (opened("", "x"), NOTHING),
    "a document with half a character": (opened("file:///w/half.py", "\ud83d"), NOTHING),
    "a document of one line of 10 MB": (opened("file:///w/huge.py", "x" * 10_000_001), NOTHING),
    "closing what is not open": (
        notify("textDocument/didClose", {"textDocument": {"uri": "file:///never"}}),
        NOTHING,
    ),
    "saving what nobody asked about": (
        notify("textDocument/didSave", {"textDocument": {"uri": URI}}),
        NOTHING,
    ),
}


@pytest.mark.parametrize(("sent", "expected"), ROWS.values(), ids=ROWS)
def test_hostile_frame_gets_its_answer_and_does_nothing_else(wire: Wire, sent, expected):
    document = {"uri": URI, "languageId": "python", "version": 5, "text": TEXT}
    wire.notify("textDocument/didOpen", {"textDocument": document})
    wire.raw(sent)
    if sent.startswith(b"Content-Length: 9999"):
        wire.raw(frame(b"{}"))  # where the server finds the next header
    probe = wire.request("workspace/executeCommand", {"command": "midspan.documents"})
    answers, state = [], None
    while state is None or len(answers) < len(expected):
        message = wire.receive()
        assert message.get("method") != "window/showMessage", message
        if message.get("id") == ASKED:
            answers.append(message["error"]["code"] if "error" in message else OK)
        elif message.get("id") == probe:
            state = message["result"]
    kept = next(document for document in state["documents"] if document["uri"] == URI)
    assert kept["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert kept["version"] == 5
    assert sorted(answers, key=str) == sorted(expected, key=str)


def test_hostile_frames_left_nothing_in_the_log_and_the_server_well(wire: Wire):
    """Runs behind the table: still the same process, and no handler failed with a bug."""
    assert wire.process.poll() is None
    assert "in a handler" not in wire.stderr(), wire.stderr()
    assert wire.call("shutdown")["result"] is None
    wire.notify("exit")
    assert wire.wait() == 0


@pytest.mark.parametrize(
    "params",
    [
        None,
        [],
        "x",
        {},
        {"capabilities": None},
        {"capabilities": [], "processId": "x"},
        {"capabilities": {}, "initializationOptions": [1], "workspaceFolders": 5},
        {"capabilities": {}, "rootUri": 7},
        {"capabilities": {}, "processId": 10**30},
        {"capabilities": {}, "clientInfo": "x"},
    ],
    ids=json.dumps,
)
def test_odd_initialize_is_answered_and_the_next_one_works(start, params):
    wire = start()
    first = wire.call("initialize", params)
    if "error" in first:
        assert first["error"]["code"] == PARAMS
        assert "capabilities" in wire.initialize()
    assert wire.call("shutdown")["result"] is None
    assert "in a handler" not in wire.stderr(), wire.stderr()
