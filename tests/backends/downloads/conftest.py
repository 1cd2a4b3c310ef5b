"""A hub on localhost, and downloads from it with no manager around."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backends.downloads import tries
from backends.downloads.choice import Machine
from backends.downloads.job import Job, Request
from backends.downloads.progress import Row
from backends.downloads.web import Options, Web
from backends.remote.keys import Key
from tests.backends import gguf_files
from tests.backends.downloads.hub import Hub, serving

REPOSITORY = "somebody/coder-GGUF"
FILE = "coder-Q8_0.gguf"
PLENTY = Machine(free_bytes=1 << 40, quick_bytes=1 << 40, context=2048)


def gguf(size: int = 3_000_000, seed: int = 0, magic: bytes = b"GGUF") -> bytes:
    """A GGUF of about `size` bytes, its weights random."""
    floats = size // 128 * 32
    tensors = [gguf_files.tensor("one", (32, floats // 32))]
    weights = random.Random(seed).randbytes(floats * 4)
    return gguf_files.gguf(gguf_files.values(), tensors, weights, magic=magic)


MODEL = gguf()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one model of 3 MB."""
    with serving() as hub:
        hub.put(REPOSITORY, FILE, MODEL)
        yield hub


@pytest.fixture
def mirror() -> Iterator[Hub]:
    """A mirror of it."""
    with serving() as hub:
        hub.put(REPOSITORY, FILE, MODEL)
        yield hub


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.02)


@dataclass
class Downloads:
    """Runs downloads into `folder` and keeps the rows that were shown."""

    folder: Path
    places: list[Web]
    rows: list[Row] = field(default_factory=list)
    retries: int = 2
    machine: Machine = PLENTY
    turn: threading.Semaphore = field(default_factory=threading.Semaphore)

    def job(self, repository: str = REPOSITORY, **request: Any) -> Job:
        shown = self.rows

        class Watched(Job):
            def _show(self, row: Row) -> None:
                super()._show(row)
                shown.append(row)

        return Watched(
            Request(request.pop("name", "coder"), repository, **request),
            self.folder,
            self.places,
            self.retries,
            lambda: self.machine,
            self.turn,
        )

    def run(self, repository: str = REPOSITORY, **request: Any) -> Job:
        job = self.job(repository, **request)
        job.run()
        return job

    @property
    def part(self) -> Path:
        return self.folder / ".downloads" / "coder" / f"{FILE}.part"

    @property
    def model(self) -> Path:
        return self.folder / "coder" / FILE


MakeDownloads = Callable[..., Downloads]


@pytest.fixture
def downloads_from(tmp_path: Path) -> MakeDownloads:
    """Make downloads from hubs, the first one with a key."""

    def make(*hubs: Hub, key: str = "", **options: Any) -> Downloads:
        options = {"silence": 5.0, **options}
        urls = [hub.url for hub in hubs]
        places = [Web(urls[0], Key(key), Options(**options))]
        places += [Web(url, Key(), Options(**options)) for url in urls[1:]]
        return Downloads(tmp_path / "models", places)

    return make


@pytest.fixture
def downloads(downloads_from: MakeDownloads, hub: Hub) -> Downloads:
    """Downloads from the one hub."""
    return downloads_from(hub)
