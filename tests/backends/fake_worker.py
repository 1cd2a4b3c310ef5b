"""A worker without a model: it speaks the frames, and misbehaves as the model's name says.

`warmup-crash…` dies by SIGSEGV while loading unless in safe mode, `always-crash…` in safe mode too,
`refuse…` says that it cannot load, `exit…` ends while loading, `hang…` never loads, `slow…` takes
half a second, `die…` dies by SIGKILL at its first request, `stuck…` never answers a request,
`garbage…` answers one with bytes that are no frame, and `mute…` does not chat. Any other name
serves: one letter "x" per token, 20 ms each, and the model's name at the end. Each says that it
takes LARGE bytes, and hands over its name, and what it was given, as snapshots.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from backends import frames
from backends.backend import Capabilities, Chunk, FinishReason, Usage

TOKEN_SECONDS = 0.02
LARGE = 600 * 1024 * 1024


class FakeWorker:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._name = ""
        self._given: list[frames.Snapshot] = []

    def run(self) -> None:
        body = frames.read_frame(sys.stdin.buffer)
        if body is None:
            return
        load = frames.decode_to_worker(body)
        assert isinstance(load, frames.Load)
        self._name = load.name
        self._load(load)
        while (body := frames.read_frame(sys.stdin.buffer)) is not None:
            match frames.decode_to_worker(body):
                case frames.Infill(id=id) as message:
                    threading.Thread(target=self._infill, args=(id, message), daemon=True).start()
                case frames.Cancel(id=id):
                    self._cancelled.add(id)
                case frames.Snapshot() as snapshot:
                    self._given.append(snapshot)
                case frames.Unload():
                    own = frames.Snapshot([len(self._given)], self._name.encode())
                    for snapshot in (own, *self._given):
                        self._send(snapshot)
                    return
                case frames.Ping(id=id):
                    self._send(frames.Pong(id, 0, 0, 0))

    def _load(self, load: frames.Load) -> None:
        sys.stderr.write(f"loading {load.name}\n")
        kind = load.name.partition("-at-")[0]
        if kind.startswith("always-crash") or (
            kind.startswith("warmup-crash") and not load.safe_mode
        ):
            os.kill(os.getpid(), signal.SIGSEGV)
        elif kind.startswith("refuse"):
            self._send(frames.Failed(0, "load_failed", "out of memory"))
            sys.exit(1)
        elif kind.startswith("exit"):
            sys.exit("the engine gave up")
        elif kind.startswith("hang"):
            time.sleep(600)
        elif kind.startswith("slow"):
            time.sleep(0.5)
        capabilities = Capabilities(
            fim=True,
            family="fake",
            context_length=2048,
            chat=not kind.startswith("mute"),
            no_chat_reason="It is mute.",
        )
        description = f"safe={load.safe_mode}"
        self._send(frames.Loaded(capabilities, LARGE - 1, 2048, 1.0, description, cache_bytes=1))

    def _infill(self, id: int, message: frames.Infill) -> None:
        if self._name.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._name.startswith("garbage"):
            os.write(1, b"\x00\x00\x00\x02{}")
        if self._name.startswith(("stuck", "garbage")):
            return
        for done in range(message.request.max_tokens):
            if id in self._cancelled:
                self._end(id, "", done, FinishReason.CANCELLED)
                return
            time.sleep(TOKEN_SECONDS)
            self._send(frames.Piece(id, Chunk("x", (1,))))
        self._end(id, self._name, message.request.max_tokens, FinishReason.LENGTH)

    def _end(self, id: int, text: str, tokens: int, reason: FinishReason) -> None:
        self._send(frames.Piece(id, Chunk(text, finish_reason=reason, usage=Usage(10, 4, tokens))))

    def _send(self, message: frames.FromWorker) -> None:
        with self._lock:
            sys.stdout.buffer.write(frames.encode(message))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    FakeWorker().run()
