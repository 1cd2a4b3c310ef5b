"""A hub on localhost, with every fault that a hub can have.

    python -m tests.backends.downloads.hub FOLDER --port 8020 [--rate BYTES_PER_S]

serves FOLDER/OWNER/NAME/FILES as repositories, and the starter model as "midspan/starter-GGUF". It
prints its address, which goes into MIDSPAN_DOWNLOADS_ENDPOINT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PIECE = 64 * 1024


@dataclass
class Faults:
    """What is wrong with a hub."""

    rate: float = 0.0  # bytes per second; 0 for no limit
    cut_at: float = 0.0  # share of a file after which the connection ends
    cuts: int = 0  # how often it is cut; 0 with `cut_at` for always
    most: int = 0  # bytes of one answer, after which the connection ends; 0 for no limit
    flip: int | None = None  # number of the byte that is sent wrong
    no_ranges: bool = False
    wrong_range: bool = False
    status: int = 0  # in place of every answer
    headers: dict[str, str] = field(default_factory=dict)  # with that status
    body: bytes = b'{"error": "as was wished"}'  # with that status
    failures: int = 0  # how often; 0 with `status` for always
    elsewhere: str = ""  # where files are redirected to
    key: str = ""  # that is wanted
    hold: threading.Event | None = None  # files wait for it after their first piece
    etag: str = ""
    more: bytes = b""  # behind the end of a file
    page: int = 1000  # files of one page of the listing
    commit: str = ""  # that files say they are of


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that left in mid-answer
            super().handle_error(request, client_address)


class Hub:
    """Repositories, faults, and what was asked."""

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.small: set[str] = set()  # files that are in git itself: no sha256
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.sent = 0  # bytes of files
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repository: str, **files: bytes) -> None:
        self.repositories[repository] = files

    def put(self, repository: str, path: str, data: bytes) -> None:
        self.repositories.setdefault(repository, {})[path] = data

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1()
        for path, data in sorted(self.repositories[repository].items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()

    def files(self, ending: str = "") -> list[Asked]:
        """The requests for files."""
        return [one for one in self.asked if "/resolve/" in one.path and one.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, faults = self.hub, self.hub.faults
        path, _, query = self.path.partition("?")
        path = unquote(path)
        hub.asked.append(Asked(path, {k.lower(): v for k, v in self.headers.items()}))
        if faults.status:
            status = faults.status
            if faults.failures:
                faults.failures -= 1
                if not faults.failures:
                    faults.status = 0
            self._reply(faults.body, status, faults.headers)
        elif faults.key and self.headers.get("Authorization") != f"Bearer {faults.key}":
            self._json({"error": "Invalid credentials"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(found[1], found[2])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([0-9a-f]{40})", path):
            self._tree(found[1], found[2], query)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._json({"error": "Not found"}, 404)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._reply(json.dumps(value).encode(), status, headers or {})

    def _reply(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _known(self, repository: str, revision: str) -> bool:
        known = repository in self.hub.repositories
        if known and revision in ("main", self.hub.commit(repository)):
            return True
        code = "RevisionNotFound" if known else "RepoNotFound"
        self._json({"error": "Repository not found"}, 404, {"X-Error-Code": code})
        return False

    def _info(self, repository: str, revision: str) -> None:
        if self._known(repository, revision):
            self._json({"id": repository, "sha": self.hub.commit(repository), "siblings": []})

    def _tree(self, repository: str, commit: str, query: str) -> None:
        if not self._known(repository, commit):
            return
        rows: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "path": "folder"}]
        for path, data in sorted(self.hub.repositories[repository].items()):
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            row = {"type": "file", "oid": blob, "size": len(data), "path": path}
            if path not in self.hub.small:
                digest = hashlib.sha256(data).hexdigest()
                row["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            rows.append(row)
        first = int(query.partition("cursor=")[2] or 0)
        last = first + self.hub.faults.page
        link = f"{self.hub.url}{self.path.partition('&')[0]}&cursor={last}"
        more = {"Link": f'<{link}>; rel="next"'} if last < len(rows) else {}
        self._json(rows[first:last], headers=more)

    def _file(self, repository: str, commit: str, path: str) -> None:
        faults = self.hub.faults
        data = self.hub.repositories.get(repository, {}).get(path)
        if data is None or commit != self.hub.commit(repository):
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        digest = hashlib.sha256(data).hexdigest()
        if faults.elsewhere:
            self.send_response(302)
            self.send_header("Location", faults.elsewhere + self.path)
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = faults.etag or f'"{digest}"'
        start = self._start(etag)
        self.send_response(206 if start else 200)
        if start:
            told = start + 1 if faults.wrong_range else start
            self.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", faults.commit or commit)
        self.send_header("Content-Length", str(len(data) - start + len(faults.more)))
        self.end_headers()
        self._send(data, start)

    def _start(self, etag: str) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found is None or self.hub.faults.no_ranges:
            return 0
        same = self.headers.get("If-Range", etag) == etag
        return int(found[1]) if same else 0

    def _send(self, data: bytes, start: int) -> None:
        faults = self.hub.faults
        if faults.flip is not None:
            data = data[: faults.flip] + bytes([data[faults.flip] ^ 1]) + data[faults.flip + 1 :]
        end = len(data)
        if faults.cut_at and start < faults.cut_at * len(data):
            end = int(faults.cut_at * len(data))
            if faults.cuts:
                faults.cuts -= 1
                faults.cut_at = faults.cut_at if faults.cuts else 0.0
        if faults.most:
            end = min(end, start + faults.most)
        for at in range(start, end, PIECE):
            piece = data[at : min(at + PIECE, end)]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            self.hub.sent += len(piece)
            if faults.hold is not None:
                faults.hold.wait(60)
            if faults.rate:
                time.sleep(len(piece) / faults.rate)
        if end < len(data):
            self.close_connection = True
        elif faults.more:
            self.wfile.write(faults.more)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub while in the context."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.faults.hold is not None:
            hub.faults.hold.set()
        hub.server.shutdown()
        hub.server.server_close()


def add_starter(hub: Hub, repository: str = "midspan/starter-GGUF") -> bytes:
    """Make the starter model a repository, and return it."""
    from backends import starter

    data = starter.path().read_bytes()
    hub.put(repository, "midspan-starter-q8_0.gguf", data)
    hub.put(repository, "README.md", b"# A card\n")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="bytes per second")
    options = parser.parse_args()
    hub = Hub(options.port)
    hub.faults.rate = options.rate
    add_starter(hub)
    for file in sorted(options.folder.glob("*/*/**/*")):
        if file.is_file():
            owner, name, *rest = file.relative_to(options.folder).parts
            hub.put(f"{owner}/{name}", "/".join(rest), file.read_bytes())
    print(hub.url, flush=True)  # noqa: T201
    hub.server.serve_forever()


if __name__ == "__main__":
    main()
