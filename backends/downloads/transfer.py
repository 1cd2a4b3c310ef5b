"""One file from a hub to the disk, resumable, and whole or not there at all.

Rule: bytes go to FILE.part, beside a sidecar that says what they are of; they are hashed as they
come, those of an earlier run too, and the part becomes FILE in one step once its hash is right. A
part whose hash is wrong is put aside and never used. Progress never goes back. Blocking. Must not
know models, tables or clients.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from backends import paths
from backends.downloads.hub import RemoteFile, file_path
from backends.downloads.tries import Tries
from backends.downloads.web import Answer, Cancel, Origin
from backends.errors import Conflict, MidspanError, ModelFileError, RemoteProtocolError

logger = logging.getLogger(__name__)

CHUNK: Final = 256 * 1024  # bytes read at once
LOOK_AT_DISK: Final = 64 * 1024 * 1024  # bytes between two looks at the free space
SPARE: Final = 64 * 1024 * 1024  # bytes of the disk that are left to others
QUARANTINE: Final = ".quarantine"  # beside the folders of downloads: files with a wrong hash
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Sidecar(msgspec.Struct, frozen=True):
    """What a part is of. `etag` is that of the server at `origin`, which sent the bytes."""

    sha256: str
    blob: str
    size: int
    commit: str
    url: str
    etag: str = ""
    origin: Origin = ("", "", 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch: what it is at the hub, and where it goes."""

    repository: str
    commit: str
    file: RemoteFile
    target: Path

    @property
    def part(self) -> Path:
        """Where its bytes are until all are there."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def sidecar(self) -> Path:
        """What says what the part is of."""
        return self.target.with_name(f"{self.target.name}.part.json")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there and was checked."""

    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class Listener:
    """What a transfer tells: the bytes of the file that are there, and what is odd."""

    bytes_there: Callable[[int, bool], None]  # (bytes, whether they came just now)
    note: Callable[[str], None]


class Digest:
    """The hashes of a file: sha256 always, git's where the hub knows no other."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        # git's own hash; it is what hubs give for small files.
        self._blob = None if file.sha256 else hashlib.sha1(usedforsecurity=False)
        if self._blob is not None:
            self._blob.update(b"blob %d\0" % file.size)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._blob is not None:
            self._blob.update(data)

    @property
    def sha256(self) -> str:
        """The sha256 of what was taken."""
        return self._sha256.hexdigest()

    @property
    def is_right(self) -> bool:
        """Whether it is what the hub says."""
        if self._blob is None:
            return self.sha256 == self._file.sha256
        return self._blob.hexdigest() == self._file.blob


class Transfer:
    """Fetches one file from the first of several places that has it."""

    def __init__(self, wanted: Wanted, tries: Tries, cancel: Cancel, tell: Listener) -> None:
        self._wanted = wanted
        self._tries = tries
        self._cancel = cancel
        self._tell = tell
        self._digest = Digest(wanted.file)
        self._at = 0  # bytes that are there and hashed
        self._known: Sidecar | None = None

    def run(self) -> Fetched:
        """Return when the file is there. Raises MidspanError, Cancelled; the part stays."""
        try:
            return self._run()
        except OSError as exc:
            raise disk_error(exc, self._wanted.target.parent) from exc

    def _run(self) -> Fetched:
        wanted = self._wanted
        if (there := self._there_already()) is not None:
            return there
        self._discard_foreign()
        with wanted.part.open("a+b") as part:
            if part.seek(0, os.SEEK_END) > wanted.file.size:
                part.truncate(0)
            part.seek(0)
            self._hash(part)
            while self._at < wanted.file.size:
                before = self._at
                try:
                    self._ask(part)
                except MidspanError as exc:
                    part.flush()
                    self._tries.failed(exc, moved=self._at > before)
            part.flush()
            os.fsync(part.fileno())
        return self._finish()

    def _there_already(self) -> Fetched | None:
        """Return the file if an earlier run finished it, and it is right."""
        wanted = self._wanted
        if not wanted.target.is_file() or wanted.target.stat().st_size != wanted.file.size:
            return None
        with wanted.target.open("rb") as file:
            self._hash(file)
        if self._digest.is_right:
            return Fetched(self._digest.sha256, "")
        self._begin_anew()
        return None

    def _discard_foreign(self) -> None:
        """Begin anew where the part is of another version of the file, of none, or no file."""
        wanted = self._wanted
        for path in (wanted.part, wanted.sidecar):
            # A pipe is not read, and a device without end; a link leads to what is another's.
            if path.is_symlink() or not path.is_file():
                path.unlink(missing_ok=True)
        known = self._sidecar()
        same = known is not None and (known.sha256, known.blob, known.size) == (
            wanted.file.sha256,
            wanted.file.blob,
            wanted.file.size,
        )
        if same:
            self._known = known
            return
        if wanted.part.exists() and wanted.part.stat().st_size:
            self._tell.note(
                f"{wanted.file.path} is another file at the hub now than when this download "
                "began; it begins anew."
            )
            wanted.part.unlink()
        self._note_sender("", ("", "", 0))

    def _note_sender(self, etag: str, origin: Origin) -> None:
        """Write down what the part is of, and who sends it."""
        wanted = self._wanted
        self._known = Sidecar(
            sha256=wanted.file.sha256,
            blob=wanted.file.blob,
            size=wanted.file.size,
            commit=wanted.commit,
            url=file_path(wanted.repository, wanted.commit, wanted.file.path),
            etag=etag,
            origin=origin,
        )
        paths.write_private(wanted.sidecar, msgspec.json.encode(self._known))

    def _sidecar(self) -> Sidecar | None:
        try:
            return msgspec.json.decode(self._wanted.sidecar.read_bytes(), type=Sidecar)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None

    def _hash(self, file: BinaryIO) -> None:
        """Hash what is there already."""
        self._begin_anew()
        while data := file.read(min(CHUNK * 4, self._wanted.file.size - self._at)):
            self._cancel.check()
            self._digest.update(data)
            self._at += len(data)
            self._tell.bytes_there(self._at, False)

    def _begin_anew(self) -> None:
        self._digest, self._at = Digest(self._wanted.file), 0

    def _ask(self, part: BinaryIO) -> None:
        """Take the rest of the file from the place that is asked now."""
        wanted, at, known = self._wanted, self._at, self._known

        def headers(origin: Origin) -> Mapping[str, str]:
            if not at:
                return {}
            span = {"Range": f"bytes={at}-"}
            if known is not None and known.origin == origin and _is_strong(known.etag):
                span["If-Range"] = known.etag
            return span

        path = file_path(wanted.repository, wanted.commit, wanted.file.path)
        answer = self._tries.place.get(path, self._cancel, headers)
        try:
            self._check_same(answer)
            if at and not self._continues(answer):
                part.truncate(0)
                self._begin_anew()
            self._note_sender(answer.headers.get("etag", ""), answer.origin)
            self._take(answer, part)
        finally:
            answer.close()

    def _check_same(self, answer: Answer) -> None:
        """Refuse an answer that says it is of another commit or another file."""
        wanted = self._wanted
        commit = answer.said.get("x-repo-commit", wanted.commit)
        linked = answer.said.get("x-linked-etag", "").strip('"')
        size = answer.said.get("x-linked-size", str(wanted.file.size))
        other = wanted.file.sha256 and len(linked) == 64 and linked != wanted.file.sha256
        if commit != wanted.commit or other or size != str(wanted.file.size):
            raise RemoteProtocolError(
                f"The hub sends another version of {wanted.file.path} than it listed; ask again."
            )

    def _continues(self, answer: Answer) -> bool:
        """Return whether the answer goes on where the part ends; False: it is the whole file."""
        if answer.status == 200:
            return False
        span = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        size = self._wanted.file.size
        asked = span and int(span[1]) == self._at and int(span[2]) < size
        if answer.status == 206 and span and asked and span[3] in ("*", str(size)):
            return True
        raise RemoteProtocolError("The hub sent a part of a file that was not asked for.")

    def _take(self, answer: Answer, part: BinaryIO) -> None:
        path, size = self._wanted.file.path, self._wanted.file.size
        looked = self._at
        while data := answer.read(CHUNK):
            self._cancel.check()
            if self._at + len(data) > size:
                raise RemoteProtocolError(f"The hub sent more of {path} than its {size} bytes.")
            part.write(data)
            self._digest.update(data)
            self._at += len(data)
            self._tell.bytes_there(self._at, True)
            if self._at - looked >= LOOK_AT_DISK:
                looked = self._at
                part.flush()
                check_room(self._wanted.target.parent, size - self._at)
        self._cancel.check()
        if self._at < size:
            raise RemoteProtocolError(
                f"The connection ended after {self._at} of {size} bytes of {path}."
            )

    def _finish(self) -> Fetched:
        wanted = self._wanted
        if not self._digest.is_right:
            aside = self._put_aside()
            raise ModelFileError(
                f"{wanted.file.path} is not what the hub says it is: its hash is "
                f"{self._digest.sha256[:12]}…, announced was "
                f"{(wanted.file.sha256 or wanted.file.blob)[:12]}…. It is not used and lies in "
                f"{aside}; ask again to fetch it anew."
            )
        wanted.part.replace(wanted.target)
        wanted.sidecar.unlink(missing_ok=True)
        sync_folder(wanted.target.parent)
        return Fetched(self._digest.sha256, self._known.etag if self._known else "")

    def _put_aside(self) -> Path:
        wanted = self._wanted
        folder = wanted.target.parent.parent / QUARANTINE
        folder.mkdir(exist_ok=True, mode=0o700)
        aside = folder / f"{wanted.target.name}.wrong"
        wanted.part.replace(aside)
        wanted.sidecar.unlink(missing_ok=True)
        return aside


def check_room(folder: Path, needed: int) -> None:
    """Raise Conflict where the disk has no room for `needed` more bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise _full(folder, f"{_mib(needed + SPARE - free)} more are needed there")


def disk_error(error: OSError, folder: Path) -> MidspanError:
    """Return what to tell of a failure to write."""
    if error.errno in FULL:
        return _full(folder, "no more can be written there")
    return Conflict(f"{folder} cannot be written: {error.strerror or error}.")


def _full(folder: Path, why: str) -> Conflict:
    return Conflict(
        f"There is no room for the model in {folder}: {why}. What was received stays; make room "
        "and ask again, or set another [downloads] folder."
    )


def _mib(size: int) -> str:
    return f"{max(1, size // 2**20)} MiB"


def _is_strong(etag: str) -> bool:
    return bool(etag) and not etag.startswith("W/")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
