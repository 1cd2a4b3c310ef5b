"""Whether a downloaded model is still what was downloaded.

Rule: every byte is read and hashed, and compared with the record; a file that exists is no file
that is whole. Changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.downloads.record import Kept, Record

CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file; `reason` says what is wrong, if anything is."""

    file: str
    ok: bool
    sha256: str  # "" where it could not be read
    expected: str
    reason: str = ""


def verify(folder: Path, record: Record) -> Iterator[Verdict]:
    """Yield the verdict on each file of the model in `folder`."""
    for kept in record.files:
        yield _verdict(folder, kept)


def _verdict(folder: Path, kept: Kept) -> Verdict:
    digest, size = hashlib.sha256(), 0
    try:
        with (folder / kept.file).open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        return Verdict(kept.file, False, "", kept.sha256, "it is missing")
    except OSError as exc:
        return Verdict(kept.file, False, "", kept.sha256, f"it cannot be read: {exc.strerror}")
    found = digest.hexdigest()
    if size != kept.size:
        reason = f"it has {size} bytes, not {kept.size}"
    else:
        reason = "" if found == kept.sha256 else "its contents have changed"
    return Verdict(kept.file, not reason, found, kept.sha256, reason)
