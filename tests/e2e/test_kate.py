"""Kate with no window system: Qt's own VNC server takes the keys, and the file says what came."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="pyte is not installed")
pytest.importorskip("pexpect", reason="pexpect is not installed")

from backends import state
from tests.e2e.editor_terminals import PATIENCE, Desk, desk

__all__ = ["desk"]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(150),
    # It types without looking: on a machine that does other things, keys come at the wrong time.
    pytest.mark.skipif(
        not os.environ.get("MIDSPAN_TEST_KATE"), reason="MIDSPAN_TEST_KATE=1 runs Kate"
    ),
    pytest.mark.skipif(
        shutil.which("kate") is None or shutil.which("dbus-run-session") is None,
        reason="Kate is not installed: apt-get install kate",
    ),
]

# The configuration of editors/README.md.
SERVERS = {
    "servers": {
        "python": {"command": ["midspan", "lsp"], "url": "", "highlightingModeRegex": "^Python$"}
    }
}
CONTROL, RETURN, END = 0xFFE3, 0xFF0D, 0xFF57  # X11's names for keys, as RFB has them


class Keyboard:
    """A client of a VNC server (RFB 3.3) that types and looks at nothing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._receive(12)
        self._socket.sendall(b"RFB 003.003\n")
        assert self._receive(4) == b"\0\0\0\1"  # no authentication
        self._socket.sendall(b"\1")
        *_, size = struct.unpack(">HH16sI", self._receive(24))
        self._receive(size)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            assert piece, "the VNC server is gone"
            data += piece
        return data

    def press(self, *keys: int) -> None:
        """Press keys together."""
        for down, order in ((1, keys), (0, keys[::-1])):
            for key in order:
                self._socket.sendall(struct.pack(">BBHI", 4, down, 0, key))
        time.sleep(0.1)

    def click(self, x: int, y: int) -> None:
        """Click at a place."""
        for buttons in (0, 1, 0):
            self._socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))
        time.sleep(0.3)


def connected(port: int) -> Keyboard:
    """A keyboard, as soon as the server listens."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return Keyboard(port)
        except ConnectionRefusedError:
            assert time.monotonic() < ends, "Kate did not start"
            time.sleep(0.2)


def configure(desk: Desk) -> None:
    """Switch the plugin on, name the server, and allow it, which Kate would ask."""
    config = Path(desk.env["XDG_CONFIG_HOME"])
    sessions = Path(desk.env["XDG_DATA_HOME"]) / "kate"
    (config / "kate" / "lspclient").mkdir(parents=True)
    sessions.mkdir(parents=True)
    (config / "kate" / "lspclient" / "settings.json").write_text(json.dumps(SERVERS))
    command = shutil.which("midspan", path=desk.env["PATH"])
    (config / "katerc").write_text(
        "[General]\nShow Tip of the Day=false\nStartup Session=none\n\n"
        f"[lspclient]\nAllowedServerCommandLines={command} lsp\n"
    )
    (sessions / "anonymous.katesession").write_text("[Kate Plugins]\nlspclientplugin=true\n")


@contextmanager
def kate(desk: Desk) -> Iterator[Keyboard]:
    """Run Kate on the desk's file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    runtime = desk.folder / "runtime"
    runtime.mkdir(mode=0o700)
    env = {
        **desk.env,
        "QT_QPA_PLATFORM": f"vnc:size=800x600:port={port}",
        "XDG_RUNTIME_DIR": str(runtime),
    }
    with subprocess.Popen(
        ["dbus-run-session", "--", "kate", "--new", str(desk.file)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield connected(port)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_completion_is_shown_and_accepted(desk: Desk) -> None:
    configure(desk)
    desk.file.write_text(desk.file.read_text().replace("pass\n", ""))
    with kate(desk) as keyboard:
        ends = time.monotonic() + PATIENCE
        while state.read(Path(desk.env["MIDSPAN_RUNTIME_DIR"])) is None:
            assert time.monotonic() < ends, "the language server did not start"
            time.sleep(0.2)
        time.sleep(2)
        keyboard.click(400, 300)
        keyboard.press(CONTROL, END)
        for letter in "ret":
            keyboard.press(ord(letter))
        for _ in range(6):  # until the model is loaded
            keyboard.press(CONTROL, ord(" "))
            time.sleep(3)
            keyboard.press(RETURN)
            keyboard.press(CONTROL, ord("s"))
            time.sleep(1)
            if desk.file.read_text().count("return first + second") == 2:
                break
            keyboard.press(CONTROL, ord("z"))
    assert desk.file.read_text().count("return first + second") == 2
