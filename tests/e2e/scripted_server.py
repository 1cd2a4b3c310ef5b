"""A language server that answers as its script says and writes down what it was told.

For what no real model does on demand: several suggestions of given texts, late answers, none.
`python scripted_server.py FOLDER`: `FOLDER/script.json` is read anew for each request and holds
`{"items": [text, ...], "delay": seconds, "replace": characters, "commands": {name: answer}}`; every
message is a line of `FOLDER/told.jsonl`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
CAPABILITIES = {
    "positionEncoding": "utf-16",
    "textDocumentSync": 2,
    "inlineCompletionProvider": {},
    "executeCommandProvider": {"commands": ["midspan.didAccept"]},
}
_lock = threading.Lock()


def send(message: dict[str, Any]) -> None:
    """Write one message."""
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    with _lock:
        sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        sys.stdout.buffer.flush()


def receive() -> dict[str, Any] | None:
    """Read one message; None at the end."""
    length = 0
    while (line := sys.stdin.buffer.readline()).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def script_now() -> dict[str, Any]:
    """Read the script."""
    script: dict[str, Any] = json.loads((FOLDER / "script.json").read_text("utf-8"))
    return script


def suggest(call: dict[str, Any]) -> None:
    """Answer a request of inline completions as the script says now."""
    script = script_now()
    at = call["params"]["position"]
    end = {**at, "character": at["character"] + script.get("replace", 0)}
    items = [
        {
            "insertText": text,
            "range": {"start": at, "end": end},
            "command": {"title": "", "command": "midspan.didAccept", "arguments": [f"id-{index}"]},
        }
        for index, text in enumerate(script["items"])
    ]
    if call["params"]["context"]["triggerKind"] == 2:
        del items[1:]  # more of them only where they are asked for by hand

    def answer() -> None:
        time.sleep(script.get("delay", 0))
        send({"id": call["id"], "result": {"items": items}})

    threading.Thread(target=answer, daemon=True).start()


def main() -> None:
    """Serve until the client says exit."""
    while (message := receive()) is not None:
        with (FOLDER / "told.jsonl").open("a", encoding="utf-8") as told:
            told.write(json.dumps(message) + "\n")
        method = message.get("method")
        if method == "exit":
            return
        if method == "textDocument/inlineCompletion":
            suggest(message)
        elif method == "workspace/executeCommand":
            answers = script_now().get("commands", {})
            send({"id": message["id"], "result": answers.get(message["params"]["command"])})
        elif "id" in message and method is not None:
            result = {"capabilities": CAPABILITIES} if method == "initialize" else None
            send({"id": message["id"], "result": result})


main()
