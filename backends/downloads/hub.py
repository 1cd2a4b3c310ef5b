"""What a hub says of a repository: its commit, its files, their sizes and hashes.

    GET /api/models/OWNER/NAME/revision/REVISION          {"sha": COMMIT, …}
    GET /api/models/OWNER/NAME/tree/COMMIT?recursive=true [{"type", "path", "size", "oid", "lfs"}]
    GET /OWNER/NAME/resolve/COMMIT/PATH                   the file, perhaps by redirect

Rule: everything is asked for by commit once that is known, so a listing is of one moment; names
pass `names`, sizes and hashes are checked for form. Must not know which files are wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urljoin

import msgspec

from backends.downloads import names
from backends.downloads.web import Cancel, Web, origin
from backends.errors import BadRequest, RemoteProtocolError

MAX_PAGES: Final = 20  # of a thousand files each
MAX_SIZE: Final = 1 << 43  # bytes of one file; no model has them
_NEXT: Final = re.compile(r'<([^<>]+)>\s*;\s*rel="next"')


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. Large ones have a sha256; `blob` is git's own hash of the others."""

    path: str
    size: int  # bytes
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit; `skipped` are names of files that are not fetched."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    skipped: tuple[str, ...] = ()


def listing(web: Web, repository: str, revision: str, cancel: Cancel) -> Listing:
    """Return the files of `repository` at `revision`. Raises UnknownModel, RemoteError."""
    where = f"/api/models/{names.repository(repository)}"
    asked = quote(names.revision(revision), safe="")
    info = _json(web, f"{where}/revision/{asked}", cancel)[0]
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not names.is_git_hash(commit):
        raise RemoteProtocolError(f"{web.root} names no commit of {repository}.")
    found: list[RemoteFile] = []
    skipped: list[str] = []
    page = f"{where}/tree/{commit}?recursive=true"
    for _ in range(MAX_PAGES):
        rows, following = _json(web, page, cancel)
        for row in rows if isinstance(rows, list) else [None]:
            _sort_in(web, row, found, skipped)
        if not following:
            return Listing(repository, commit, tuple(found), tuple(skipped))
        page = following
    raise RemoteProtocolError(f"{repository} has more files than any model.")


def file_path(repository: str, commit: str, path: str) -> str:
    """Return the path of a file's address at any hub."""
    return f"/{repository}/resolve/{commit}/{quote(path)}"


def _json(web: Web, path: str, cancel: Cancel) -> tuple[Any, str]:
    """Return the JSON at `path`, and the address of its next page, if it has one."""
    answer = web.get(path, cancel)
    try:
        value = msgspec.json.decode(answer.whole())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RemoteProtocolError(f"{web.root} sent something that is no JSON.") from exc
    finally:
        answer.close()
    link = _NEXT.search(answer.headers.get("link", ""))
    following = urljoin(answer.url, link[1]) if link else ""
    if following and origin(following) != origin(web.root):
        raise RemoteProtocolError(f"{web.root} continues its list elsewhere.")
    return value, following


def _sort_in(web: Web, row: Any, found: list[RemoteFile], skipped: list[str]) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("path"), str):
        raise RemoteProtocolError(f"{web.root} sent a list of files that cannot be read.")
    if row.get("type") != "file":
        return
    try:
        path = names.file(row["path"])
    except BadRequest:
        skipped.append(row["path"][:200])
        return
    lfs = row.get("lfs")
    size = lfs.get("size") if isinstance(lfs, dict) else row.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < MAX_SIZE:
        raise RemoteProtocolError(f"{web.root} gives {path} the size {size!r}.")
    sha256 = str(lfs.get("oid", "")).removeprefix("sha256:") if isinstance(lfs, dict) else ""
    blob = "" if sha256 else str(row.get("oid", ""))
    if not (names.is_sha256(sha256) or (not sha256 and names.is_git_hash(blob))):
        raise RemoteProtocolError(f"{web.root} gives {path} no hash to check it by.")
    found.append(RemoteFile(path, size, sha256, blob))
