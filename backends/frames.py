"""The messages between the manager and a worker, and their framing over pipes.

A frame is a 4-byte big-endian length and that many bytes of MessagePack. The manager sends
`ToWorker`, the worker answers with `FromWorker`; `id` ties answers to requests.
Must not know HTTP, asyncio or any runtime.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

from backends.backend import Capabilities, ChatRequest, Chunk, InfillRequest
from backends.config import ModelSettings

MAX_FRAME = 64 * 1024 * 1024
HEADER = struct.Struct(">I")


class Load(msgspec.Struct, tag=True):
    """Load the model; the first message a worker gets. Answered by `Loaded` or `Failed` (id 0)."""

    engine: str
    path: str
    name: str
    settings: ModelSettings = ModelSettings()
    safe_mode: bool = False  # no weight repacking (see engines/llama_cpp.py)
    cold_prefill_ms: float = 0.0  # for requests that give no `prompt_ms`; 0: as prompting has it
    backup_bytes: int = 0  # of cached cells to send while idle, in case the worker crashes


class Infill(msgspec.Struct, tag=True):
    """Generate; answered by `Piece`s, the last with a finish reason, or by `Failed`."""

    id: int
    request: InfillRequest


class Chat(msgspec.Struct, tag=True):
    """Answer a conversation; answered like `Infill`."""

    id: int
    request: ChatRequest


class Cancel(msgspec.Struct, tag=True):
    """Stop request `id`; it still ends with a `Piece` (finish reason "cancelled")."""

    id: int


class Ping(msgspec.Struct, tag=True):
    """Answered by `Pong` from the reading thread, also in mid-generation."""

    id: int


class Unload(msgspec.Struct, tag=True):
    """Answered by `Snapshot`s of what is cached; then the worker ends."""

    limit: int  # bytes of them all


class Snapshot(msgspec.Struct, tag=True):
    """Cells of `tokens`, on their way out of a worker or into one of the same model.

    Large ones go in parts, so that other frames need not wait: the first part has the tokens, and
    all but the last have `more`. With an `owner` it is a backup: it replaces that owner's last.
    """

    tokens: list[int]
    data: bytes
    more: bool = False
    owner: str = ""  # a document


class Loaded(msgspec.Struct, tag=True):
    """The model is loaded and warm."""

    capabilities: Capabilities
    model_bytes: int
    context_length: int
    load_ms: float
    description: str  # architecture, quantisation, engine version
    cache_bytes: int = 0  # of KV cells and their snapshots at most, beside model_bytes
    runtime_bytes: int = 0  # of the worker beside both


class Piece(msgspec.Struct, tag=True):
    """A chunk of request `id`."""

    id: int
    chunk: Chunk


class Failed(msgspec.Struct, tag=True):
    """Request `id` (0: the load) failed; `kind` is one of `backends.errors`."""

    id: int
    kind: str
    message: str


class Pong(msgspec.Struct, tag=True):
    """The worker's reading thread is alive; `active` requests wait or are under way."""

    id: int
    active: int
    generating: int  # of those, the ones that are being generated
    evaluated_tokens: int  # since the load, all requests


ToWorker = Load | Infill | Chat | Cancel | Ping | Unload | Snapshot
FromWorker = Loaded | Piece | Failed | Pong | Snapshot

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class FrameError(Exception):
    """The other side sent something that is no frame."""


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return the frame for `message`."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_to_worker(body: bytes) -> ToWorker:
    """Decode a frame's body in the worker. Raises FrameError."""
    try:
        return _to_worker.decode(body)
    except msgspec.MsgspecError as exc:
        raise FrameError(str(exc)) from exc


def decode_from_worker(body: bytes) -> FromWorker:
    """Decode a frame's body in the manager. Raises FrameError."""
    try:
        return _from_worker.decode(body)
    except msgspec.MsgspecError as exc:
        raise FrameError(str(exc)) from exc


def body_length(header: bytes) -> int:
    """Return the length of the body that follows `header` (4 bytes). Raises FrameError."""
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    return int(length)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame's body from a blocking stream; None at its end. Raises FrameError."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length = body_length(header)
    body = stream.read(length)
    return body if len(body) == length else None
