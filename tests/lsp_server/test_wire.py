"""Each trap of pygls 2.1.1, on the wire: raw bytes to the real process, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import MIDSPAN
from tests.lsp_server.wire import PATIENCE, frame

URI = "file:///w/a.py"


def open_document(wire, text="x = 1\n", uri=URI, version=1):
    document = {"uri": uri, "languageId": "python", "version": version, "text": text}
    wire.notify("textDocument/didOpen", {"textDocument": document})


def change(text, start, end, version, uri=URI):
    places = [dict(zip(("line", "character"), place, strict=True)) for place in (start, end)]
    return {
        "method": "textDocument/didChange",
        "params": {
            "textDocument": {"uri": uri, "version": version},
            "contentChanges": [
                {"range": {"start": places[0], "end": places[1]}, "text": text},
            ],
        },
    }


# --- lifecycle --------------------------------------------------------------------------------


def test_request_before_initialize_is_answered_not_initialized(wire):
    assert wire.call("textDocument/hover", {})["error"]["code"] == -32002
    assert "capabilities" in wire.initialize()


def test_second_initialize_is_an_invalid_request(wire):
    wire.initialize()
    assert wire.call("initialize", {"capabilities": {}})["error"]["code"] == -32600


def test_request_after_shutdown_is_an_invalid_request(wire):
    wire.initialize()
    assert wire.call("shutdown")["result"] is None
    assert wire.call("midspan.status")["error"]["code"] == -32600
    assert wire.call("shutdown")["error"]["code"] == -32600
    wire.notify("exit")
    assert wire.wait() == 0


def test_shutdown_cancels_what_is_under_way(wire):
    wire.initialize({"window": {"workDoneProgress": True}})
    waiting = wire.request(
        "workspace/executeCommand", {"command": "midspan.selectModel", "arguments": ["x"]}
    )
    while wire.receive().get("method") != "window/workDoneProgress/create":
        pass
    stopping = wire.request("shutdown")
    answers = {}
    while len(answers) < 2:
        message = wire.receive()
        if "method" not in message:
            answers[message["id"]] = message
    assert answers[stopping]["result"] is None
    assert answers[waiting]["error"]["code"] == -32800
    wire.notify("exit")
    assert wire.wait() == 0


@pytest.mark.parametrize("initialized", [True, False])
def test_exit_without_shutdown_gives_exit_code_1(wire, initialized):
    if initialized:
        wire.initialize()
    wire.notify("exit")
    assert wire.wait() == 1


def test_end_of_stdin_ends_the_server(wire):
    wire.initialize()
    wire.process.stdin.close()
    assert wire.wait() == 1


def test_editor_that_dies_takes_the_server_along(start):
    """Even while something else holds our stdin open."""
    editor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    wire = start()
    wire.initialize(processId=editor.pid)
    editor.send_signal(signal.SIGKILL)  # not waited for: it stays a zombie, as under a bad parent
    started = time.monotonic()
    assert wire.wait(PATIENCE) == 1
    assert time.monotonic() - started < 10  # polled each second; 3 s on a quiet machine
    editor.wait()


def test_process_id_that_means_nothing_here_is_not_watched(wire):
    wire.initialize(processId=2**22 - 3)
    time.sleep(1.5)
    assert "result" in wire.call("shutdown")


def test_unknown_argument_is_refused():
    done = subprocess.run(
        [*MIDSPAN, "lsp", "--tcp"], capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert b"--tcp" in done.stderr
    assert done.stdout == b""


# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"params": None}, {"params": {"a": 1}}, {"params": [1]}])
def test_unknown_request_is_answered_and_not_shown_to_the_user(wire, params):
    wire.initialize()
    wire.send({"id": "q", "method": "some/unknownRequest", **params})
    assert wire.answer("q")["error"]["code"] == -32601
    assert not [m for m in wire.silence() if m.get("method") == "window/showMessage"]


def test_unknown_notification_is_ignored(wire):
    wire.initialize()
    wire.notify("some/unknownNotification", {"type_name": 1, "_": 2, "a b": [{}]})
    wire.send({"method": "$/unknown"})
    assert "result" in wire.call("shutdown")


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"shutdown",', -32700, "broken, with an id"),
        (b'{"jsonrpc":"2.0","id":7,"method":"a","params":"\xff"}', -32700, "no UTF-8"),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', -32600, "the method is a number"),
        (b'{"jsonrpc":"1.0","id":7,"method":"shutdown"}', -32600, "not our version"),
        (b'{"jsonrpc":"2.0","id":7,"method":"textDocument/inlineCompletion"}', -32602, "empty"),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"textDocument/completion",'
            b'"params":{"textDocument":{"uri":"file:///a"},"position":{"line":-1,"character":0}}}',
            -32602,
            "a negative line",
        ),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"workspace/executeCommand",'
            b'"params":{"command":"rm"}}',
            -32602,
            "an unknown command",
        ),
    ],
)
def test_malformed_request_is_answered_with_an_error(wire, content, code, why):
    wire.initialize()
    wire.raw(frame(content))
    assert wire.answer(7)["error"]["code"] == code, why
    assert not [m for m in wire.silence() if m.get("method") == "window/showMessage"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"[1,2]",
        b'"x"',
        b"{}",
        b"nonsense",
        b"\x00\x01",
        b'{"jsonrpc":"2.0"}',
        b'{"id":1}',
        b'{"id":[1],"method":"shutdown"}',
        b'{"id":null,"method":"shutdown"}',
        b'{"jsonrpc":"2.0","id":"nobody asked","result":5}',
        b'{"jsonrpc":"2.0","id":"nobody asked","error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","method":"textDocument/didOpen","params":{"textDocument":5}}',
        b'{"jsonrpc":"2.0","method":"textDocument/didChange"}',
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":99}}',
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{}}',
        b"[" * 100_000,
    ],
)
def test_any_content_is_survived(wire, content):
    wire.initialize()
    wire.raw(frame(content))
    assert wire.call("shutdown")["result"] is None


def test_header_names_have_no_case(wire):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "shutdown"}).encode()
    wire.raw(b"CONTENT-type: x\r\ncontent-LENGTH:%d\r\n\r\n%s" % (len(body), body))
    assert wire.answer(1)["error"]["code"] == -32002


def test_wrong_content_length_does_not_wedge_the_server(wire):
    wire.initialize()
    body = b'{"jsonrpc":"2.0","id":1000,"method":"some/request"}'
    wire.raw(b"Content-Length: %d\r\n\r\n%s" % (len(body) - 9, body))  # too short
    wire.raw(b"Content-Length: %d\r\n\r\n%s" % (len(body) + 9, body))  # too long
    for _ in range(2):  # the first may be swallowed by the one that was too long
        last = wire.request("shutdown")
    assert wire.answer(last)


def test_huge_content_length_is_not_believed(wire):
    wire.initialize()
    wire.raw(b"Content-Length: 99999999999999999999999\r\n\r\n")
    assert wire.call("shutdown")["result"] is None


def test_member_named_jsonrpc_inside_parameters_is_only_data(wire):
    """pygls converts every nested object that has one as if it were a message."""
    wire.initialize()
    wire.send(
        {
            "id": 5,
            "method": "workspace/executeCommand",
            "params": {
                "command": "midspan.didAccept",
                "arguments": [{"jsonrpc": "2.0", "method": "shutdown", "id": 1}],
            },
        }
    )
    assert wire.answer(5) == {"jsonrpc": "2.0", "id": 5, "result": None}


def test_capabilities_newer_than_lsprotocol_do_not_prevent_initialize(wire):
    result = wire.initialize(
        {
            "general": {"positionEncodings": ["utf-7", 5, "utf-32"]},
            "textDocument": {"completion": {"completionItem": "new"}, "codeAction": 7},
            "workspace": [],
        }
    )
    assert result["capabilities"]["positionEncoding"] == "utf-32"


def test_answer_with_the_id_of_the_clients_own_request_does_no_harm(wire):
    wire.initialize({"window": {"workDoneProgress": True}})
    asked = wire.request(
        "workspace/executeCommand", {"command": "midspan.selectModel", "arguments": ["x"]}
    )
    while wire.receive().get("method") != "window/workDoneProgress/create":
        pass
    wire.send({"id": asked, "result": 5})
    wire.notify("$/cancelRequest", {"id": asked})
    assert wire.answer(asked)["error"]["code"] == -32800


# --- capabilities -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "chosen", "client"),
    [
        (["utf-16"], "utf-16", "VS Code"),
        (["utf-8", "utf-16", "utf-32"], "utf-8", "Neovim 0.11"),
        (["utf-32", "utf-16"], "utf-32", "lsp-mode"),
        (None, "utf-16", "ALE, old eglot"),
        ([], "utf-16", "an empty list"),
    ],
)
def test_position_encoding_is_the_clients_first_choice(wire, offered, chosen, client):
    general = {} if offered is None else {"general": {"positionEncodings": offered}}
    assert wire.initialize(general)["capabilities"]["positionEncoding"] == chosen, client


def test_inline_completion_is_advertised_always(wire):
    capabilities = wire.initialize()["capabilities"]
    assert capabilities["inlineCompletionProvider"] == {}
    assert capabilities["textDocumentSync"]["change"] == 2
    assert capabilities["codeActionProvider"]["resolveProvider"] is True
    assert "completionProvider" in capabilities
    assert {"midspan.selectModel", "midspan.listModels", "midspan.status", "midspan.restart"} < set(
        capabilities["executeCommandProvider"]["commands"]
    )


def test_popup_is_not_offered_to_clients_with_inline_completion(wire):
    capabilities = wire.initialize({"textDocument": {"inlineCompletion": {}}})["capabilities"]
    assert "completionProvider" not in capabilities


# --- the streams ------------------------------------------------------------------------------


def test_print_does_not_corrupt_the_stream(start, tmp_path):
    """Neither Python's nor a native library's: both land on stderr."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, threading, time\n"
        "def shout():\n"
        "    while True:\n"
        "        time.sleep(0.5)\n"
        "        print('python-print', flush=True)\n"
        "        os.write(1, b'native-print\\n')\n"
        "threading.Thread(target=shout, daemon=True).start()\n"
    )
    wire = start(PYTHONPATH=str(tmp_path))
    wire.initialize()
    time.sleep(1.5)
    assert wire.call("shutdown")["result"] is None
    assert "python-print" in wire.stderr()
    assert "native-print" in wire.stderr()


def test_children_do_not_inherit_the_editors_pipes(wire):
    wire.initialize()
    if not os.path.isdir(f"/proc/{wire.process.pid}/fd"):
        pytest.skip("needs /proc")
    read = {n: os.readlink(f"/proc/{wire.process.pid}/fd/{n}") for n in (0, 1, 2)}
    assert read[0] == "/dev/null"
    assert read[1] == read[2]


def test_client_that_stops_reading_does_not_freeze_the_server(wire):
    """It goes on reading (or it would block us here), and gives the client up in the end."""
    wire.initialize()
    long = "m" * 100_000
    request = frame({"jsonrpc": "2.0", "id": 1, "method": long})
    sent = 0
    try:
        for _ in range(2000):  # the answers, which name the method, are never read
            wire.raw(request)
            sent += 1
    except BrokenPipeError:
        pass
    assert wire.wait() == 1
    assert sent > 300  # far more than pipes hold: it was reading all the while


def test_log_holds_no_document_text(start):
    wire = start(MIDSPAN_LOG="info")
    wire.initialize()
    open_document(wire, "password = 'hunter2-document'\n")
    wire.send(change("hunter2-typed", (0, 0), (0, 0), 2))
    wire.send(change("hunter2-stale", (0, 0), (0, 0), 1))
    wire.send(change("hunter2-unopened", (0, 0), (0, 0), 1, uri="file:///other"))
    wire.notify("textDocument/didOpen", {"textDocument": {"text": "hunter2-invalid"}})
    wire.raw(frame(b'{"id":1,"method":"x","params":"hunter2-broken'))
    wire.call(
        "textDocument/inlineCompletion",
        {
            "textDocument": {"uri": URI},
            "position": {"line": 0, "character": 3},
            "context": {"triggerKind": 2},
        },
    )
    wire.call("workspace/executeCommand", {"command": "midspan.toggle", "arguments": ["hunter2"]})
    wire.call("shutdown")
    wire.notify("exit")
    wire.wait()
    assert "stopping: the client said exit" in wire.stderr()  # INFO is on
    assert "hunter2" not in wire.stderr()
    assert "pygls" not in wire.stderr()  # which logs bodies at INFO and parameters in errors


def test_late_answer_to_a_cancelled_request_of_ours_is_ignored(wire):
    """pygls raises there, and the message after it may be lost."""
    wire.initialize({"window": {"workDoneProgress": True}})
    asked = wire.request(
        "workspace/executeCommand", {"command": "midspan.selectModel", "arguments": ["x"]}
    )
    while (message := wire.receive()).get("method") != "window/workDoneProgress/create":
        pass
    wire.notify("$/cancelRequest", {"id": asked})
    assert wire.answer(asked)["error"]["code"] == -32800
    wire.send({"id": message["id"], "result": None})
    assert wire.call("shutdown")["result"] is None
    assert "InvalidState" not in wire.stderr()
