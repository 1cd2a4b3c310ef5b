"""What a worker had evaluated outlives its crash, and no key waits for the copying."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from backends import frames
from backends.backend import InfillRequest, Usage
from backends.backups import PART, Backups, BackupSender, Joiner, parts
from backends.config import Settings
from backends.decoding.snapshots import Snapshot
from backends.manager import Manager
from backends.remembered import Remembered
from tests.backends.decoding.harness import running
from tests.backends.decoding.hash_model import HashModel

TEXT = "def f(x):\n    return x\n" * 20


def owned(owner: str, tokens: list[int], size: int) -> frames.Snapshot:
    return frames.Snapshot(tokens, bytes(size), owner=owner)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART])
def test_parts_are_joined_to_what_they_were(size: int) -> None:
    snapshot = Snapshot([1, 2, 3], os.urandom(size))
    sent = list(parts(snapshot, "d"))
    assert all(len(part.data) <= PART for part in sent)
    joiner = Joiner()
    whole = [joined for part in sent if (joined := joiner.add(part)) is not None]
    assert whole == [frames.Snapshot([1, 2, 3], snapshot.data, owner="d")]


def test_joiner_forgets_one_that_was_given_up() -> None:
    first, *_ = parts(Snapshot([1], bytes(2 * PART)))
    joiner = Joiner()
    assert joiner.add(first) is None
    assert joiner.add(frames.Snapshot([2], b"x")) == frames.Snapshot([2], b"x")
    assert joiner.add(frames.Snapshot([], b"rest of nothing")) is None


def test_backups_keep_each_owners_latest_under_their_budget() -> None:
    backups = Backups(100)
    backups.put(owned("a", [1, 2, 3], 40))
    backups.put(owned("b", [5, 6], 30))
    backups.put(owned("a", [1, 9], 30))
    assert [s.tokens for s in backups.newest_first()] == [[1, 9], [5, 6]]
    backups.put(owned("c", [7], 60))
    assert [s.tokens for s in backups.newest_first()] == [[7], [1, 9]]
    backups.put(owned("c", [7, 8], 101))
    assert [s.tokens for s in backups.newest_first()] == [[1, 9]]


def test_backups_drop_beginnings_of_a_longer_one() -> None:
    backups = Backups(100)
    backups.put(owned("a", [1, 2], 10))
    backups.put(owned("b", [1, 2, 3], 10))
    assert [s.tokens for s in backups.newest_first()] == [[1, 2, 3]]


def test_sender_waits_while_requests_are_under_way() -> None:
    sent: list[frames.Snapshot] = []
    busy, done = threading.Event(), threading.Event()

    def send(part: frames.Snapshot) -> None:
        sent.append(part)
        busy.set()  # a key comes in the middle
        if not part.more:
            done.set()

    sender = BackupSender(1000, send, busy.is_set)
    sender.put("d", Snapshot([1], bytes(3 * PART)))
    assert not done.wait(0.2)
    assert (len(sent), sender.ready) == (1, False)
    for _ in range(100):
        busy.clear()
        if done.wait(0.05):
            break
    assert [part.more for part in sent] == [True, True, False]
    sender.stop()


class Kept:
    """Where a scheduler under test puts its backups."""

    limit = 1 << 20

    def __init__(self) -> None:
        self.ready = True
        self.taken: list[tuple[str, Snapshot]] = []
        self.came = threading.Event()

    def put(self, owner: str, snapshot: Snapshot) -> None:
        self.taken.append((owner, snapshot))
        self.came.set()


def test_scheduler_backs_up_documents_and_nothing_else() -> None:
    kept = Kept()
    with running(HashModel(), backups=kept) as engine:
        engine.infill(InfillRequest(TEXT, "\n", None, max_tokens=2))
        engine.infill(InfillRequest(TEXT, "\n", "d", max_tokens=2))
        assert kept.came.wait(30)
        kept.came.clear()
        engine.infill(InfillRequest(TEXT + "x", "\n", "d", max_tokens=2))  # too little is new
        assert not kept.came.wait(1.5)
    assert [owner for owner, _ in kept.taken] == ["d"]


def test_scheduler_makes_no_backup_before_the_last_was_sent() -> None:
    kept = Kept()
    kept.ready = False
    with running(HashModel(), backups=kept) as engine:
        engine.infill(InfillRequest(TEXT, "\n", "d", max_tokens=2))
        assert not kept.came.wait(1.5)
        kept.ready = True
        assert kept.came.wait(30)


async def type_into(manager: Manager, text: str) -> Usage:
    _, backend = await manager.ready()
    request = InfillRequest(text, "\n", "file:///a.py", max_tokens=4)
    async with aclosing(backend.infill(request)) as chunks:
        last = [chunk async for chunk in chunks][-1]
    assert last.usage is not None
    return last.usage


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.engine
async def test_killed_workers_document_is_cached_in_the_next(private_dirs: Path) -> None:
    manager = Manager(Settings(), Remembered(private_dirs / "state"))
    try:
        cold = await type_into(manager, TEXT)
        first = manager.backend("starter")
        assert first is not None
        await until(lambda: bool(first.backups))
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: manager.backend("starter") is None)
        usage = await type_into(manager, TEXT + "y")
        second = manager.backend("starter")
        assert second is not None
        assert second.pid != first.pid
    finally:
        await manager.close()
    assert cold.cached_tokens == 0
    assert usage.prompt_tokens - usage.cached_tokens <= 3
