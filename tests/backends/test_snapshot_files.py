"""Files of cells: used whole and by the very same model, or not at all."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backends import catalogue, memory, paths, snapshot_files, starter
from backends.backend import InfillRequest, Usage
from backends.config import CompletionSettings, ManagerSettings, ModelSettings, Settings
from backends.errors import ManagerUnavailable
from backends.frames import Snapshot
from backends.handover import Fingerprint
from backends.manager import Manager
from backends.remembered import Remembered
from backends.snapshot_files import SnapshotFiles, UnusableError
from tests.backends.conftest import MakeManager

MADE = Fingerprint(Path("/m.gguf"), (1, 2), "engine 1 on a processor", False, 0, (), "00")
CELLS = Snapshot([5, 70000, 2**31], b"cells of three tokens")
OVERHEAD = snapshot_files.HEADER.size + snapshot_files.CHECKSUM
SIZE = OVERHEAD + 12 + len(CELLS.data)
CAP = 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cells"
    path.mkdir(mode=0o700)
    return path


def saved(folder: Path) -> Path:
    SnapshotFiles(folder, CAP).save(MADE, [CELLS])
    (file,) = folder.iterdir()
    return file


def load(folder: Path, made: Fingerprint = MADE, budget: int = CAP) -> list[Snapshot]:
    return SnapshotFiles(folder, CAP).load(made, budget)


def cells(number: int, size: int = 1000) -> Snapshot:
    return Snapshot([number], bytes([number]) * size)


def test_what_was_saved_is_loaded_newest_first(folder: Path) -> None:
    snapshots = [CELLS, *(cells(n) for n in range(5))]
    SnapshotFiles(folder, CAP).save(MADE, snapshots)
    assert load(folder) == snapshots
    SnapshotFiles(folder, CAP).save(MADE, [snapshots[3]])  # the same again is the newest now
    assert load(folder)[0] == snapshots[3]
    assert len(list(folder.iterdir())) == 6


def test_files_are_for_the_user_alone(folder: Path) -> None:
    assert saved(folder).stat().st_mode & 0o777 == 0o600


def test_load_keeps_to_the_budget(folder: Path) -> None:
    SnapshotFiles(folder, CAP).save(MADE, [cells(1), cells(2), cells(3)])
    assert load(folder, budget=2 * (1000 + OVERHEAD + 4)) == [cells(1), cells(2)]


@pytest.mark.parametrize("position", range(SIZE))
def test_one_flipped_bit_is_rejected(folder: Path, position: int) -> None:
    file = saved(folder)
    assert file.stat().st_size == SIZE
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << position % 8
    file.write_bytes(data)
    with pytest.raises(UnusableError):
        snapshot_files.read(file, snapshot_files.model_key(MADE))
    assert load(folder) == []
    assert not file.exists()


@pytest.mark.parametrize("length", [0, 1, OVERHEAD - 1, OVERHEAD, SIZE - 1, SIZE + 1])
def test_file_of_another_length_is_rejected(
    folder: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(folder)
    file.write_bytes((file.read_bytes() + b"x")[:length])
    with caplog.at_level(logging.DEBUG):
        assert load(folder) == []
    assert not file.exists()
    assert len(caplog.records) == 1


def test_huge_lengths_are_rejected_before_they_are_read(folder: Path) -> None:
    file = saved(folder)
    key = snapshot_files.model_key(MADE)
    header = snapshot_files.HEADER.pack(b"midspanS", 1, key, 2**32 - 1, 2**64 - 1)
    file.write_bytes(header + file.read_bytes()[len(header) :])
    with pytest.raises(UnusableError, match="lengths"):
        snapshot_files.read(file, key)


def test_file_of_another_format_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "FORMAT", 2)
    file = saved(folder)
    monkeypatch.undo()
    with pytest.raises(UnusableError, match="format is 2"):
        snapshot_files.read(file, snapshot_files.model_key(MADE))
    assert load(folder) == []


OTHERS: list[dict[str, object]] = [
    {"path": Path("/n.gguf")},
    {"version": (1, 3)},
    {"engine": "engine 2 on a processor"},
    {"safe_mode": True},
    {"gpu_layers": -1},
    {"computed": ("kv_type=q8_0",)},
    {"sample": "01"},
]


@pytest.mark.parametrize("other", OTHERS)
def test_file_of_another_model_is_not_used(folder: Path, other: dict[str, object]) -> None:
    file = saved(folder)
    made = replace(MADE, **other)  # type: ignore[arg-type]
    assert load(folder, made) == []
    assert load(folder) == [CELLS]
    key = snapshot_files.model_key(made)
    renamed = file.rename(file.with_name(f"{key[:16].hex()}-{'0' * 32}.cells"))
    assert load(folder, made) == []  # its name is not believed
    assert not renamed.exists()


def test_file_of_another_midspan_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(folder)
    monkeypatch.setattr(snapshot_files, "__version__", "99.0.0")
    assert load(folder) == []


def test_least_recently_used_files_make_room(folder: Path) -> None:
    files = SnapshotFiles(folder, 3 * (1000 + OVERHEAD + 4))
    files.save(MADE, [cells(1), cells(2), cells(3)])
    files.save(MADE, [cells(3)])
    other = replace(MADE, sample="01")
    files.save(other, [cells(4)])
    assert files.load(other, CAP) == [cells(4)]
    assert files.load(MADE, CAP) == [cells(3), cells(1)]
    files.save(MADE, [cells(n) for n in range(10, 20)])
    assert files.load(MADE, CAP) == [cells(10), cells(11), cells(12)]
    files.save(MADE, [cells(5, 4000)])  # over the cap alone
    assert len(files.load(MADE, CAP)) == 3
    SnapshotFiles(folder, 1500).save(MADE, [])
    assert files.load(MADE, CAP) == [cells(10)]


@pytest.mark.parametrize("broken", ["fsync", "replace", "open"])
def test_full_disk_leaves_nothing_and_one_line(
    folder: Path,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((Path, broken) if broken == "replace" else (os, broken)), fail)
    with caplog.at_level(logging.DEBUG):
        SnapshotFiles(folder, CAP).save(MADE, [CELLS, cells(1)])
    monkeypatch.undo()
    assert list(folder.iterdir()) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text


def test_folder_that_is_gone_costs_nothing(folder: Path) -> None:
    folder.rmdir()
    SnapshotFiles(folder, CAP).save(MADE, [CELLS])
    assert load(folder) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_costs_nothing(folder: Path) -> None:
    saved(folder)
    folder.chmod(0o500)
    SnapshotFiles(folder, CAP).save(MADE, [cells(1)])
    assert load(folder) == [CELLS]
    folder.chmod(0o700)


def test_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    file = saved(folder)
    target = file.rename(tmp_path / "elsewhere")
    file.symlink_to(target)
    assert load(folder) == []
    assert target.exists()


def test_folder_others_can_enter_is_refused(private_dirs: Path) -> None:
    assert paths.cells_dir().stat().st_mode & 0o777 == 0o700
    paths.cells_dir().chmod(0o755)
    with pytest.raises(ManagerUnavailable, match="folder of saved cells"):
        paths.cells_dir()


WRITER = """
import os, signal, sys
from pathlib import Path
from backends import snapshot_files
from tests.backends.test_snapshot_files import MADE, CELLS
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
snapshot_files.SnapshotFiles(Path(sys.argv[1]), 100_000).save(MADE, [CELLS])
"""


def test_writer_killed_in_mid_write_leaves_nothing_visible(folder: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", WRITER, str(folder)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    (torn,) = folder.iterdir()
    assert torn.name.startswith(".")
    assert load(folder) == []
    SnapshotFiles(folder, CAP).save(MADE, [])
    assert torn.exists()  # it may be somebody's who is writing now
    old = time.time() - snapshot_files.ABANDONED - 1
    os.utime(torn, (old, old))
    SnapshotFiles(folder, CAP).save(MADE, [CELLS])
    assert not torn.exists()
    assert load(folder) == [CELLS]


def test_sample_differs_where_size_and_time_do_not(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(bytes(200_000))
    before = catalogue.sample(path)
    assert catalogue.sample(path) == before
    path.write_bytes(b"\1" * 200_000)
    assert catalogue.sample(path) != before


async def test_what_memory_has_no_room_for_goes_to_disk(
    make_manager: MakeManager, folder: Path
) -> None:
    manager = await make_manager("a")
    manager._files = SnapshotFiles(folder, CAP)
    manager._handovers.budget = 0
    await manager.select("a")
    manager._handovers.budget = 100
    made = manager._loaded_from["a"]
    await manager.close()
    assert load(folder, made) == [Snapshot([0], b"a")]


@asynccontextmanager
async def started(folder: Path, state: Path, disk: bool = True) -> AsyncIterator[Manager]:
    models = {"m": ModelSettings(path=str(starter.path()))}
    settings = Settings(ManagerSettings(), CompletionSettings("m"), models=models)
    files = SnapshotFiles(folder, 256 * memory.MIB) if disk else None
    manager = Manager(settings, Remembered(state), files=files)
    try:
        await manager.ready()
        await asyncio.gather(*manager._tasks)  # what was saved is on its way until then
        yield manager
    finally:
        await manager.close()


async def usage_of(manager: Manager, text: str) -> Usage:
    _, backend = await manager.ready()
    request = InfillRequest(text, "\n", "file:///a.py", max_tokens=4)
    async with aclosing(backend.infill(request)) as chunks:
        last = [chunk async for chunk in chunks][-1]
    assert last.usage is not None
    return last.usage


@pytest.mark.engine
async def test_next_key_after_a_restart_evaluates_a_few_tokens(
    private_dirs: Path, folder: Path
) -> None:
    text = "def area(width, height):\n    return width * height\n\n\n" * 12 + "def vol"
    state = private_dirs / "state"
    async with started(folder, state) as manager:
        cold = await usage_of(manager, text)
        assert cold.prompt_tokens > 100
    async with started(folder, state, disk=False) as manager:
        assert (await usage_of(manager, text + "u")).cached_tokens < 10
    async with started(folder, state) as manager:
        usage = await usage_of(manager, text + "u")
        assert usage.cached_tokens >= usage.prompt_tokens - 3
