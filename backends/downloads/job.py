"""One download from the first question to a model that can be used, in a thread of its own.

    resolving → (waiting) → downloading → verifying → done

Rule: everything is made in a folder that is no model yet, and becomes one in one step, after every
hash is right and the header was read; a download that ends early leaves what it has, to be taken
up again. Must not know HTTP servers, nor what else is being downloaded.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from backends import catalogue, paths
from backends.downloads import choice, hub, names, record, transfer
from backends.downloads.choice import Chosen, Kind, Machine, Wish
from backends.downloads.hub import Listing, RemoteFile
from backends.downloads.progress import Meter, Row, State
from backends.downloads.record import Kept, Pins, Record
from backends.downloads.transfer import Fetched, Listener, Transfer, Wanted
from backends.downloads.tries import Tries
from backends.downloads.web import Cancel, Cancelled, Web
from backends.errors import Conflict, MidspanError, ModelFileError

logger = logging.getLogger(__name__)

STAGING: Final = ".downloads"  # in the models folder, where no model is looked for
REQUEST: Final = "request.json"


class Request(msgspec.Struct, frozen=True):
    """What was asked for. `chosen` is the file that was taken, so that going on takes the same."""

    name: str
    repository: str
    revision: str = "main"
    file: str = ""
    quantisation: str = ""
    chosen: str = ""
    total_bytes: int = 0


@dataclass(slots=True)
class Job:
    """A download that runs, or has ended; `row` is replaced as it goes."""

    request: Request
    folder: Path  # of models
    places: Sequence[Web]
    retries: int
    machine: Callable[[], Machine]
    turn: threading.Semaphore  # one download at a time moves bytes
    row: Row = field(init=False)
    error: MidspanError | None = None
    resolved: bool = False  # it is known what will be fetched, or that nothing will
    _cancel: Cancel = field(default_factory=Cancel)
    _meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.row = Row(self.request.name, State.RESOLVING)
        self._meter = Meter(self.row)

    @property
    def staging(self) -> Path:
        """Where its files are until it is done."""
        return staging(self.folder, self.request.name)

    def cancel(self) -> None:
        """Stop; what was received stays."""
        self._cancel.set()

    def run(self) -> None:
        """Do it all; `row` and `error` tell what came of it. Never raises."""
        try:
            reason = self._run()
            self._show(self._meter.enter(State.DONE, reason))
        except Cancelled:
            self._show(self._meter.enter(State.CANCELLED, "What was received stays."))
        except MidspanError as exc:
            self._fail(exc)
        except OSError as exc:
            self._fail(transfer.disk_error(exc, self.folder))
        except Exception:
            logger.exception("a download failed")
            self._fail(MidspanError("The download failed; the manager's log says more."))

    def _fail(self, error: MidspanError) -> None:
        logger.info("download of %s failed: %s", self.request.name, error.kind)
        self.error = error
        self._show(self._meter.enter(State.FAILED, str(error)))

    def _show(self, row: Row) -> None:
        self.row = row
        self.resolved = self.resolved or row.is_final

    def _run(self) -> str:
        listing = self._listing()
        chosen = self._choose(listing)
        if (there := self._there(listing, chosen)) is not None:
            return there
        self._look_at_pins(listing, chosen)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self.staging.with_name(f".{self.request.name}.lock"), timeout=0):
                self._write_request(chosen)
                transfer.check_room(self.folder, chosen.size - received(self.staging))
                self.resolved = True
                self._show(self._meter.enter(State.WAITING, total_bytes=chosen.size))
                self._wait_for_turn()
                try:
                    kept = [self._fetch(listing, file) for file in chosen.files]
                finally:
                    self.turn.release()
                self._finish(listing, chosen, kept)
        except Timeout:
            raise Conflict(
                f"{self.request.name} is being downloaded by another process already."
            ) from None
        said = ", ".join(part for part in (chosen.quantisation, chosen.reason) if part)
        return f"{said[0].upper()}{said[1:]}."

    def _listing(self) -> Listing:
        tries = Tries(self.places, self.retries, self._cancel, self._waiting)
        while True:
            try:
                wanted = self.request
                return hub.listing(tries.place, wanted.repository, wanted.revision, self._cancel)
            except MidspanError as exc:
                tries.failed(exc)

    def _waiting(self, reason: str) -> None:
        self._show(self._meter.enter(State.WAITING, reason))

    def _choose(self, listing: Listing) -> Chosen:
        wanted = self.request
        known = {file.path for file in listing.files}
        insists = wanted.file or wanted.quantisation
        file = wanted.file if insists or wanted.chosen not in known else wanted.chosen
        return choice.choose(listing, Wish(file, wanted.quantisation), self.machine())

    def _there(self, listing: Listing, chosen: Chosen) -> str | None:
        """Return a sentence if the model is there already, as the hub has it. Raises Conflict."""
        home = self.folder / self.request.name
        if not home.exists():
            return None
        if not (home / record.NAME).is_file():
            raise Conflict(f"{home} exists already, and is no downloaded model; give another name.")
        old = record.read(home)
        have = {kept.source: kept.sha256 for kept in old.files}
        wanted = {file.path: file.sha256 for file in chosen.files if file.sha256}
        if old.repository == self.request.repository and wanted.items() <= have.items():
            self._show(self._meter.enter(State.VERIFYING, total_bytes=chosen.size))
            return f"It is there already, from commit {old.commit[:12]}."
        raise Conflict(
            f"{self.request.name} is there already, from {old.repository} at commit "
            f"{old.commit[:12]}; what was asked for is another version or file (commit "
            f"{listing.commit[:12]}). Delete it first, or give another name."
        )

    def _look_at_pins(self, listing: Listing, chosen: Chosen) -> None:
        changed = Pins(self.folder / STAGING).changed(listing.repository, _hashes(chosen.files))
        if changed:
            self._meter.notes.append(
                f"{changed[0]} of {listing.repository} is another file than the one that was "
                f"downloaded before (it is commit {listing.commit[:12]} now)."
            )

    def _write_request(self, chosen: Chosen) -> None:
        file = chosen.files[0].path if chosen.kind is Kind.GGUF else ""
        kept = msgspec.structs.replace(self.request, chosen=file, total_bytes=chosen.size)
        paths.write_private(self.staging / REQUEST, msgspec.json.encode(kept))

    def _wait_for_turn(self) -> None:
        while not self.turn.acquire(timeout=0.2):
            self._cancel.check()

    def _fetch(self, listing: Listing, file: RemoteFile) -> Kept:
        target = self.staging / file.path.rpartition("/")[2]
        self._show(self._meter.enter(State.DOWNLOADING, file=target.name))
        last = 0

        def count(there: int, fresh: bool) -> None:
            nonlocal last
            self._show(self._meter.count(there, last, fresh))
            last = there

        def note(text: str) -> None:
            self._meter.notes.append(text)

        wanted = Wanted(listing.repository, listing.commit, file, target)
        tries = Tries(self.places, self.retries, self._cancel, self._waiting)
        done: Fetched = Transfer(wanted, tries, self._cancel, Listener(count, note)).run()
        self._meter.file_done(file.size)
        return Kept(target.name, file.size, done.sha256, file.path, done.etag)

    def _finish(self, listing: Listing, chosen: Chosen, kept: list[Kept]) -> None:
        self._show(self._meter.enter(State.VERIFYING, file=""))
        main = kept[0].file if chosen.kind is Kind.GGUF else ""
        try:
            catalogue.read_header(self.staging / main if main else self.staging)
        except ModelFileError as exc:
            raise self._put_aside(exc) from exc
        self._cancel.check()
        made = Record(
            name=self.request.name,
            repository=listing.repository,
            revision=self.request.revision,
            commit=listing.commit,
            endpoint=self.places[0].root,
            main=main,
            files=tuple(kept),
            quantisation=chosen.quantisation,
            downloaded=time.time(),
        )
        wanted = {record.NAME, *(one.file for one in kept)}
        record.write(self.staging, made)
        Pins(self.folder / STAGING).keep(listing.repository, _hashes(chosen.files))
        for entry in self.staging.iterdir():  # of choices that were given up
            if entry.name not in wanted:
                entry.unlink()
        self.staging.rename(self.folder / self.request.name)
        transfer.sync_folder(self.folder)

    def _put_aside(self, error: ModelFileError) -> ModelFileError:
        """Put a model with a bad header where it is not used, and say so."""
        aside = self.folder / STAGING / transfer.QUARANTINE / self.request.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True, mode=0o700)
        self.staging.rename(aside)
        return ModelFileError(f"What the hub sent is no model: {error} It lies in {aside}.")


def staging(folder: Path, name: str) -> Path:
    """Return where the model `name` is made."""
    return folder / STAGING / name


def received(folder: Path) -> int:
    """Return the bytes of model files that lie in a staging folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(
            entry.stat(follow_symlinks=False).st_size
            for entry in entries
            if entry.name.removesuffix(".part").endswith(names.WEIGHTS)
            and entry.is_file(follow_symlinks=False)
        )


def _hashes(files: Sequence[RemoteFile]) -> dict[str, str]:
    return {file.path: file.sha256 for file in files if file.sha256}
