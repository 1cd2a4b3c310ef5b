"""Snapshots of models' cells in files, so that they outlive the manager.

Rule: a file is whole, of this format and of this very model, or it is removed unused; whatever
goes wrong with a disk costs only what was to be saved. Files are found by the model and hold exact
tokens. Least recently used go first, under a cap of bytes. Blocks: not for the event loop. Must
not know workers, nor log what the tokens say.

A file is, little-endian: HEADER, the tokens as 32-bit numbers, the cells' bytes, and a BLAKE2b-256
checksum of all before it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends import __version__, paths
from backends.frames import MAX_FRAME, Snapshot
from backends.handover import Fingerprint

logger = logging.getLogger(__name__)

MAGIC = b"midspanS"
FORMAT = 1  # also to be raised when the same weights get other cells from our code
# Magic, format, the model's key, number of tokens, bytes of cells.
HEADER = struct.Struct("<8sI32sIQ")
CHECKSUM = 32  # bytes
SUFFIX = ".cells"
ABANDONED = 3600.0  # seconds after which an unfinished file's writer is surely gone
_MAX_FILE = MAX_FRAME + HEADER.size + CHECKSUM  # what does not fit a frame reaches no worker


class UnusableError(Exception):
    """A file is not what it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file in the folder."""

    path: Path
    size: int
    used: int  # when, in nanoseconds since the epoch


class SnapshotFiles:
    """The snapshots in one folder. Any thread may use it."""

    def __init__(self, folder: Path, cap: int) -> None:
        """Take a folder that is the user's alone, and the bytes all files may have together."""
        self.cap = cap
        self._folder = folder
        self._lock = threading.Lock()

    def save(self, model: Fingerprint, snapshots: Sequence[Snapshot]) -> None:
        """Keep what `model` had cached, most recently used first, as far as the cap allows.

        Older files make room. Never raises OSError: what cannot be written is left out.
        """
        key = model_key(model)
        with self._lock:
            try:
                self._sweep()
                for snapshot in reversed(self._worth(snapshots)):  # the last written is the newest
                    self._write(key, snapshot)
            except OSError as exc:
                logger.warning("cells of %s are not kept on disk: %s", model.path.name, exc)

    def load(self, model: Fingerprint, budget: int) -> list[Snapshot]:
        """Return the snapshots of `model`, most recently used first, of up to `budget` bytes."""
        key = model_key(model)
        loaded: list[Snapshot] = []
        with self._lock:
            for found in reversed(self._files(f"{_stem(key)}-")):
                if found.size > budget:
                    break
                try:
                    snapshot = read(found.path, key)
                except (UnusableError, OSError) as exc:
                    logger.warning("%s is ignored and removed: %s", found.path.name, exc)
                    _remove(found.path)
                    continue
                loaded.append(snapshot)
                budget -= len(snapshot.data)
        return loaded

    def _worth(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        kept, left = [], self.cap
        for snapshot in snapshots:
            left -= _file_size(snapshot)
            if left < 0:
                break
            kept.append(snapshot)
        return kept

    def _write(self, key: bytes, snapshot: Snapshot) -> None:
        tokens = _packed(snapshot.tokens)
        name = hashlib.blake2b(tokens, digest_size=16).hexdigest()
        path = self._folder / f"{_stem(key)}-{name}{SUFFIX}"
        if not path.exists():
            self._make_room(_file_size(snapshot))
            paths.write_private(path, encode(key, snapshot))
        now = time.time_ns()  # the kernel's own stamps are too coarse to order files by
        os.utime(path, ns=(now, now))

    def _make_room(self, wanted: int) -> None:
        files = self._files()
        total = sum(found.size for found in files)
        for found in files:
            if total + wanted <= self.cap:
                return
            found.path.unlink(missing_ok=True)
            total -= found.size

    def _sweep(self) -> None:
        """Remove what a killed manager left unfinished, and what is over a cap that was lowered."""
        for path in self._folder.glob(f".*{SUFFIX}.*"):
            if path.lstat().st_mtime < time.time() - ABANDONED:
                path.unlink(missing_ok=True)
        self._make_room(0)

    def _files(self, beginning: str = "") -> list[_Found]:
        """Return the files whose names begin so, least recently used first."""
        return sorted(self._scan(beginning), key=lambda found: found.used)

    def _scan(self, beginning: str) -> Iterator[_Found]:
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(beginning) and name.endswith(SUFFIX) and name[0] != ".":
                        info = entry.stat(follow_symlinks=False)
                        yield _Found(Path(entry.path), info.st_size, info.st_mtime_ns)
        except OSError as exc:
            logger.warning("the folder of saved cells cannot be read: %s", exc)


def model_key(model: Fingerprint) -> bytes:
    """Return 32 bytes that two models share only if the one's cells are as good as the other's.

    Rope scaling follows from the weights' file, the engine's build and our version.
    """
    facts = (
        __version__,
        os.fspath(model.path),
        model.version,
        model.sample,
        model.engine,
        model.safe_mode,
        model.gpu_layers,
        model.computed,
    )
    return hashlib.blake2b(repr(facts).encode(errors="surrogateescape"), digest_size=32).digest()


def encode(key: bytes, snapshot: Snapshot) -> bytes:
    """Return the file of `snapshot`."""
    header = HEADER.pack(MAGIC, FORMAT, key, len(snapshot.tokens), len(snapshot.data))
    tokens = _packed(snapshot.tokens)
    return b"".join((header, tokens, snapshot.data, _checksum(header, tokens, snapshot.data)))


def read(path: Path, key: bytes) -> Snapshot:
    """Return a file's snapshot if it is of the model of `key`. Raises UnusableError, OSError.

    Every length is checked against the file's size before anything of that length is read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid():
            raise UnusableError("it is not a file of ours")
        if not HEADER.size + CHECKSUM <= info.st_size <= _MAX_FILE:
            raise UnusableError(f"no such file has {info.st_size} bytes")
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise UnusableError("it was cut off")
        magic, format_, made_by, token_count, data_length = HEADER.unpack(header)
        if magic != MAGIC:
            raise UnusableError("it does not begin as one")
        if format_ != FORMAT:
            raise UnusableError(f"its format is {format_}, not {FORMAT}")
        if made_by != key:
            raise UnusableError("it is of another model, engine or version")
        if HEADER.size + 4 * token_count + data_length + CHECKSUM != info.st_size:
            raise UnusableError("its lengths do not add up to its size")
        tokens, data = file.read(4 * token_count), file.read(data_length)
        if file.read(CHECKSUM) != _checksum(header, tokens, data):
            raise UnusableError("its checksum is wrong")
    return Snapshot(_unpacked(tokens), data)


def _packed(tokens: Sequence[int]) -> bytes:
    numbers = array("I", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(data: bytes) -> list[int]:
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _checksum(*parts: bytes) -> bytes:
    checksum = hashlib.blake2b(digest_size=CHECKSUM)
    for part in parts:
        checksum.update(part)
    return checksum.digest()


def _file_size(snapshot: Snapshot) -> int:
    return HEADER.size + 4 * len(snapshot.tokens) + len(snapshot.data) + CHECKSUM


def _stem(key: bytes) -> str:
    return key[:16].hex()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        logger.warning("%s cannot be removed: %s", path.name, exc)
