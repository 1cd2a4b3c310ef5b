"""What is kept beside a downloaded model: where each of its files came from, and its sha256.

Rule: the record is written last and replaced in one step, so a folder with a record holds a whole
model. Its contents are checked when it is read, since anybody may have edited it. Must not know
hubs or networks; the catalogue reads records, so nothing heavy is imported.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from backends import paths
from backends.downloads import names
from backends.errors import BadRequest, ModelFileError

NAME: Final = "midspan-model.json"
PINS: Final = "pins.json"
MAX_BYTES: Final = 8 * 1024 * 1024

# By path, with the version of the file that was read.
_records: dict[Path, tuple[tuple[int, int, int], Record]] = {}


class Kept(msgspec.Struct, frozen=True):
    """A file of the model."""

    file: str  # in the model's folder
    size: int  # bytes
    sha256: str
    source: str = ""  # its path in the repository
    etag: str = ""


class Record(msgspec.Struct, frozen=True):
    """A downloaded model. `main` is the GGUF to load, "" where the folder is the model."""

    name: str
    repository: str
    revision: str  # as it was asked for
    commit: str
    endpoint: str
    main: str
    files: tuple[Kept, ...]
    quantisation: str = ""
    downloaded: float = 0.0  # seconds since 1970


def model_path(folder: Path, record: Record) -> Path:
    """Return what an engine loads of the model in `folder`."""
    return folder / record.main if record.main else folder


def write(folder: Path, record: Record) -> None:
    """Write the record of the model in `folder`. Raises OSError."""
    paths.write_private(folder / NAME, msgspec.json.format(msgspec.json.encode(record)))


def read(folder: Path) -> Record:
    """Return the record of the model in `folder`. Raises ModelFileError."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            record = msgspec.json.decode(file.read(MAX_BYTES), type=Record)
        for kept in record.files:
            _check(kept.file)
        if record.main and record.main not in {kept.file for kept in record.files}:
            raise BadRequest(f"{record.main!r} is none of its files.")
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as exc:
        raise ModelFileError(f"{path} is not as midspan wrote it: {exc}") from exc
    return record


def found(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Yield the models of a models folder that were downloaded, each with its own folder.

    A record that cannot be read is passed over: it is no model then.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if (kept := _current(entry)) is not None:
            yield entry, kept


def _current(folder: Path) -> Record | None:
    """Return the record in `folder`, None where there is none that can be read.

    Each version of it is read once: a request that names its model looks at all of them.
    """
    path = folder / NAME
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return None
        version = (info.st_ino, info.st_size, info.st_mtime_ns)
        known = _records.get(path)
        if known is None or known[0] != version:
            known = _records[path] = version, read(folder)
    except (OSError, ModelFileError):
        return None
    return known[1]


class Pins:
    """The hash that each file of each repository had when it was first fetched.

    It outlives the model: whoever takes over a name on a hub cannot change what is behind it
    without that being said.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PINS

    def changed(self, repository: str, hashes: dict[str, str]) -> list[str]:
        """Return the files whose hash is another than the pinned one."""
        known = self._load().get(repository, {})
        return [file for file, digest in hashes.items() if known.get(file, digest) != digest]

    def keep(self, repository: str, hashes: dict[str, str]) -> None:
        """Pin `hashes`. Raises OSError."""
        pins = self._load()
        pins[repository] = {**pins.get(repository, {}), **hashes}
        paths.write_private(self._path, msgspec.json.encode(pins))

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, str]])
        except (OSError, msgspec.MsgspecError):
            return {}


def _check(file: str) -> None:
    if "/" in file:
        raise BadRequest(f"{file!r} leads out of its folder.")
    names.file(file)
