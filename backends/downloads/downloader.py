"""The manager's table of downloads: begun, watched, cancelled, verified, deleted.

Rule: a download is the manager's, not the client's who asked for it; one of a name at a time, and
nothing is contacted before somebody asks. Those that a manager before this one did not finish are
in the table as cancelled. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from backends import hardware
from backends.catalogue import Catalogue, Model, Source, check_name
from backends.config import DownloadSettings
from backends.downloads import job as jobs
from backends.downloads import names, offers, record, verifier
from backends.downloads.catalogue import BY_NAME, DOWNLOADABLE
from backends.downloads.choice import Machine
from backends.downloads.job import Job, Request
from backends.downloads.progress import Row, State
from backends.downloads.web import Options, Web
from backends.errors import BadRequest, Conflict, UnknownModel
from backends.remote import keys

logger = logging.getLogger(__name__)

TELL_EVERY_S: Final = 0.1
HEARTBEAT_S: Final = 5.0  # a watcher hears of a download that does not move
KEY_VARIABLE: Final = "HF_TOKEN"
INTERRUPTED: Final = "It was interrupted; asking for it again goes on where it was."


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for; empty where it is left open."""

    model: str = ""  # a name of the catalogue, or of a download that was interrupted
    repository: str = ""
    file: str = ""
    quantisation: str = ""
    revision: str = ""
    name: str = ""


class Downloader:
    """The downloads of one manager."""

    def __init__(
        self,
        settings: DownloadSettings,
        catalogue: Catalogue,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._environment = environment
        self._jobs: dict[str, Job] = {}
        self._turn = threading.Semaphore()
        self._starting = asyncio.Lock()

    @property
    def active(self) -> bool:
        """Whether anything is being downloaded."""
        return any(not job.row.is_final for job in self._jobs.values())

    @property
    def folder(self) -> Path:
        """Where models go, each into a folder of its own."""
        return self._catalogue.downloads_folder

    def rows(self) -> list[Row]:
        """Return all downloads of this run, and those of earlier ones that are not finished."""
        running = [job.row for job in self._jobs.values()]
        left = [kept for name, kept in self._left().items() if name not in self._jobs]
        return [*(_interrupted(self.folder, kept) for kept in left), *running]

    def row(self, name: str) -> Row:
        """Return one download. Raises UnknownModel."""
        if (job := self._jobs.get(name)) is not None:
            return job.row
        if (kept := self._left().get(name)) is not None:
            return _interrupted(self.folder, kept)
        raise UnknownModel(f"Nothing called {name!r} is being downloaded.")

    async def start(self, asked: Asked) -> str:
        """Begin a download, or find the one of the same name that runs; return its name.

        Returns when it is known what will be fetched. Raises MidspanError: UnknownModel where
        there is no such thing, Conflict where its name is taken, BadRequest.
        """
        async with self._starting:
            job = await asyncio.to_thread(self._found_or_begun, asked)
        while not job.resolved:  # noqa: ASYNC110 - a thread moves on, and tells no loop
            await asyncio.sleep(TELL_EVERY_S)
        if job.error is not None:
            raise job.error
        return job.request.name

    async def watch(self, name: str) -> AsyncGenerator[Row, None]:
        """Yield a download's rows as they change, until it ends. Raises what it failed for."""
        job = self._jobs.get(name)
        if job is None:
            yield self.row(name)
            return
        shown, quiet = None, 0.0
        while True:
            row = job.row
            if row != shown or quiet >= HEARTBEAT_S:
                yield row
                shown, quiet = row, 0.0
            if row.is_final:
                break
            await asyncio.sleep(TELL_EVERY_S)
            quiet += TELL_EVERY_S
        if job.error is not None:
            raise job.error

    async def cancel(self, name: str) -> Row:
        """Stop a download; what it has stays. Raises UnknownModel, Conflict where it has ended."""
        row, job = self.row(name), self._jobs.get(name)
        if job is None or row.is_final:
            raise Conflict(f"The download of {name} is {row.state} already.")
        job.cancel()
        while not job.row.is_final:  # noqa: ASYNC110 - as above
            await asyncio.sleep(TELL_EVERY_S / 2)
        return job.row

    def verify(self, model: Model) -> list[dict[str, Any]]:
        """Hash every file of a downloaded model; blocks. Raises Conflict for others."""
        folder = self._home(model)
        return [asdict(one) for one in verifier.verify(folder, record.read(folder))]

    def delete(self, model: Model) -> int:
        """Delete the files of a downloaded model; return their bytes. Blocks. Raises Conflict."""
        folder = self._home(model)
        size = sum(kept.size for kept in record.read(folder).files)
        # Without its record it is no model any more, however far the rest gets.
        (folder / record.NAME).unlink()
        shutil.rmtree(folder, ignore_errors=True)
        self._jobs.pop(model.name, None)
        return size

    def delete_left(self, name: str) -> int:
        """Delete what an unfinished download left; return the bytes. Raises UnknownModel."""
        job = self._jobs.get(name)
        if job is not None and not job.row.is_final:
            raise Conflict(f"{name} is being downloaded; cancel that first.")
        folder = jobs.staging(self.folder, check_name(name))
        if not folder.is_dir():
            raise UnknownModel(f"No model is called {name!r}.")
        size = jobs.received(folder)
        shutil.rmtree(folder, ignore_errors=True)
        self._jobs.pop(name, None)
        return size

    def offers(self) -> dict[str, Any]:
        """Return what can be downloaded, with what suits this machine; blocks."""
        machine = hardware.detect()
        found = offers.offers(machine)
        downloaded = {
            name for name, m in self._catalogue.models().items() if m.source is Source.DOWNLOADED
        }
        here = offers.machine(machine)
        return {
            "models": [offers.as_json(one, one.row.name in downloaded) for one in found],
            "recommended": offers.recommended(found, machine),
            "machine": {
                "processor": machine.processor,
                "cores": machine.cores,
                "device": machine.best.name,
                "memory_bytes": machine.memory_total,
                "free_bytes": here.free_bytes,  # for a model
                "quick_bytes": here.quick_bytes,  # of weights, to write as fast as one types
            },
        }

    async def close(self) -> None:
        """Stop all downloads; what they have stays."""
        for job in self._jobs.values():
            job.cancel()
        with contextlib.suppress(TimeoutError):  # a thread that is just connecting ends with us
            async with asyncio.timeout(1):
                while self.active:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(TELL_EVERY_S / 4)

    # Making a job of what was asked.

    def _found_or_begun(self, asked: Asked) -> Job:
        request = self._request(asked)
        running = self._jobs.get(request.name)
        if running is not None and not running.row.is_final:
            if running.request.repository != request.repository:
                raise Conflict(f"{request.name} is being downloaded, from elsewhere; give a name.")
            return running
        job = self._job(request)
        self._jobs[request.name] = job
        threading.Thread(target=job.run, name=f"download {request.name}", daemon=True).start()
        return job

    def _request(self, asked: Asked) -> Request:
        if bool(asked.model) == bool(asked.repository):
            raise BadRequest("Either 'model', a name of the catalogue, or 'repository' is needed.")
        left = self._left()
        if asked.model in left and asked.model not in BY_NAME:
            kept = left[asked.model]
        elif asked.model:
            if asked.model not in BY_NAME:
                raise UnknownModel(
                    f"No model of the catalogue is called {asked.model!r}; `midspan models "
                    "search` lists them. Others can be had by their repository, owner/name."
                )
            kept = Request(asked.name or asked.model, BY_NAME[asked.model].repository)
        else:
            repository = names.repository(asked.repository)
            kept = Request(asked.name or self._free_name(repository), repository)
        before = left.get(kept.name, kept)
        if before.repository != kept.repository:
            before = kept
        wanted = Request(
            name=check_name(kept.name),
            repository=kept.repository,
            revision=names.revision(asked.revision or before.revision),
            file=names.file(asked.file) if asked.file else "",
            quantisation=asked.quantisation,
            chosen=before.chosen,
        )
        self._check_free(wanted.name)
        return wanted

    def _free_name(self, repository: str) -> str:
        """Return what to call a repository's model: after it, with its owner if need be."""
        own = _called(repository)
        taken = self._catalogue.models().get(own)
        if taken is None or taken.source is Source.DOWNLOADED:
            return own
        return f"{repository.partition('/')[0]}-{own}"

    def _check_free(self, name: str) -> None:
        taken = self._catalogue.models().get(name)
        if taken is not None and taken.source is not Source.DOWNLOADED:
            raise Conflict(f"{name!r} is already the name of {taken.place}; give another name.")

    def _job(self, request: Request) -> Job:
        return Job(
            request=request,
            folder=self.folder,
            places=self._places(),
            retries=self._settings.retries,
            machine=lambda: self._machine(request.repository),
            turn=self._turn,
        )

    def _places(self) -> list[Web]:
        settings = self._settings
        options = Options(settings.proxy, settings.ca_file, settings.timeout_s)
        key = keys.find(settings, KEY_VARIABLE, self._environment)
        places = [Web(settings.endpoint, key, options)]
        return places + [Web(mirror, keys.Key(), options) for mirror in settings.mirrors]

    def _machine(self, repository: str) -> Machine:
        row = next((row for row in DOWNLOADABLE if row.repository == repository), None)
        return offers.machine(hardware.detect(), row)

    def _home(self, model: Model) -> Path:
        if model.source is not Source.DOWNLOADED:
            raise Conflict(
                f"{model.name} was not downloaded: it comes from the {model.source}, and there is "
                "no record of what it should be."
            )
        return self.folder / model.name

    def _left(self) -> dict[str, Request]:
        """Return the downloads that are not finished, of this run or an earlier one."""
        found = {}
        root = self.folder / jobs.STAGING
        for entry in sorted(root.iterdir()) if root.is_dir() else ():
            try:
                data = (entry / jobs.REQUEST).read_bytes()
                found[entry.name] = msgspec.json.decode(data, type=Request)
            except (OSError, msgspec.MsgspecError, RecursionError):
                continue
        return {name: kept for name, kept in found.items() if kept.name == name}


def _interrupted(folder: Path, kept: Request) -> Row:
    there = jobs.received(jobs.staging(folder, kept.name))
    return Row(
        kept.name,
        State.CANCELLED,
        kept.chosen.rpartition("/")[2],
        min(there, kept.total_bytes),
        kept.total_bytes,
        reason=INTERRUPTED,
    )


def _called(repository: str) -> str:
    """Return what to call a repository's model.

    >>> _called("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF")
    'Qwen2.5-Coder-1.5B-Instruct'
    """
    own = repository.rpartition("/")[2]
    for ending in ("-GGUF", "-gguf", "_gguf"):
        own = own.removesuffix(ending)
    return own
