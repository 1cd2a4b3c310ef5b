"""A GGUF that is split is all of its parts: MODEL-00001-of-0000N.gguf and the others beside it.

Rule: whoever asks for a model's files, bytes or header by its first part gets those of the whole;
a missing part is a `ModelFileError`. Must not know engines, which find the parts by themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from backends import gguf_header
from backends.errors import ModelFileError
from backends.gguf_header import GGUFHeader

PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})")  # of a name without its ".gguf"
MAX_PARTS: Final = 1024


def files(path: Path) -> list[Path]:
    """Return the files that the model at `path` is made of, `path` first.

    >>> [part.name for part in files(Path("m-00001-of-00002.gguf"))]
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    found = _part(path)
    if found is None or found[2] != "00001" or int(found[3]) > MAX_PARTS:
        return [path]
    count = int(found[3])
    return [
        path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf")
        for number in range(1, count + 1)
    ]


def is_later_part(path: Path) -> bool:
    """Return whether `path` is a part that is no model without the first."""
    found = _part(path)
    return found is not None and found[2] != "00001"


def _part(path: Path) -> re.Match[str] | None:
    return PART.fullmatch(path.stem) if path.suffix == ".gguf" else None


def read(path: Path) -> GGUFHeader:
    """Read and check the headers of all parts; return that of the whole. Raises ModelFileError."""
    first, *others = files(path)
    header = gguf_header.read(first)
    if not others:
        return header
    headers = [header]
    for part in others:
        if not part.exists():
            raise ModelFileError(f"{part} is missing: the model is split, and needs all its parts.")
        headers.append(gguf_header.read(part))
    bytes_of: Counter[int] = Counter()
    for one in headers:
        bytes_of.update(one.type_bytes)
    return replace(
        header,
        tensor_count=sum(one.tensor_count for one in headers),
        file_bytes=sum(one.file_bytes for one in headers),
        parameters=sum(one.parameters for one in headers),
        type_bytes=dict(bytes_of),
    )
