"""Whether a downloaded model is still what was downloaded.

Rule: every byte is read and hashed, and compared with the record; a file that exists is no file
that is whole. Changes nothing.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.downloads.record import Kept, Record


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
    path = folder / kept.file
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may have no end
            return Verdict(kept.file, False, "", kept.sha256, "it is no file")
        with path.open("rb") as file:
            found, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except FileNotFoundError:
        return Verdict(kept.file, False, "", kept.sha256, "it is missing")
    except OSError as exc:
        return Verdict(kept.file, False, "", kept.sha256, f"it cannot be read: {exc.strerror}")
    if size != kept.size:
        reason = f"it has {size} bytes, not {kept.size}"
    else:
        reason = "" if found == kept.sha256 else "its contents have changed"
    return Verdict(kept.file, not reason, found, kept.sha256, reason)
