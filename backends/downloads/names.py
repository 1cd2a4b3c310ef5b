"""What may name a repository, a revision and a file of a hub.

Rule: the one validator for all that a hub or a user says about names, before it becomes part of a
URL or a path. Files are weights in GGUF or safetensors, and the text files beside them: nothing
that runs when it is loaded. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from backends.errors import BadRequest

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")
_GIT_HASH: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
MOST_FOLDERS: Final = 3

WEIGHTS: Final = (".gguf", ".safetensors")
_SUFFIXES: Final = (*WEIGHTS, ".json")
_TEXTS: Final = frozenset({"merges.txt", "vocab.txt", "chat_template.jinja", "tokenizer.model"})


def repository(name: str) -> str:
    """Return `name` if it may be a repository's: owner/name. Raises BadRequest."""
    if not _REPOSITORY.fullmatch(name) or ".." in name:
        raise BadRequest(f"{name[:120]!r} is no repository: owner/name is wanted.")
    return name


def revision(name: str) -> str:
    """Return `name` if it may be a branch, tag or commit. Raises BadRequest."""
    if not _REVISION.fullmatch(name) or ".." in name or "//" in name:
        raise BadRequest(f"{name[:120]!r} is no revision: a branch, tag or commit is wanted.")
    return name


def file(path: str) -> str:
    """Return `path` if it may be a file of a repository that is fetched. Raises BadRequest."""
    segments = path.split("/")
    if len(segments) > MOST_FOLDERS + 1 or not all(map(_is_segment, segments)):
        raise BadRequest(f"{path[:200]!r} is no name that a model's file may have.")
    if not is_wanted(path):
        raise BadRequest(
            f"{path[:200]!r} is not fetched: only GGUF and safetensors files are, and their "
            "configuration and tokenizer. Others can run any code when they are loaded."
        )
    return path


def is_wanted(path: str) -> bool:
    """Return whether a file of this name is of use, and safe to keep."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(_SUFFIXES) or name in _TEXTS


def is_git_hash(text: str) -> bool:
    """Return whether `text` is git's whole name of a commit or a file's contents."""
    return _GIT_HASH.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Return whether `text` is a sha256 in hexadecimal."""
    return _SHA256.fullmatch(text) is not None


def _is_segment(segment: str) -> bool:
    plain = _SEGMENT.fullmatch(segment) is not None
    return plain and ".." not in segment and not segment.endswith((".", " "))
