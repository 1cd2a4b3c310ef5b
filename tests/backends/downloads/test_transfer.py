"""Files from a hub with faults, over real sockets to a real disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backends.downloads import transfer
from backends.downloads.progress import State
from backends.downloads.web import Options, Web
from backends.errors import (
    BadRequest,
    Conflict,
    ModelFileError,
    RemoteFailed,
    RemoteProtocolError,
    RemoteRateLimited,
    RemoteTimeout,
    RemoteUnauthorized,
    RemoteUnreachable,
    UnknownModel,
)
from backends.remote.keys import Key
from tests.backends.downloads.conftest import (
    FILE,
    MODEL,
    REPOSITORY,
    Downloads,
    MakeDownloads,
    gguf,
)
from tests.backends.downloads.hub import Hub, serving

SIZE = len(MODEL)


def steps(downloads: Downloads) -> list[int]:
    return [row.received_bytes for row in downloads.rows]


def test_download_is_the_file_with_a_record_beside_it(hub: Hub, downloads: Downloads) -> None:
    job = downloads.run()
    assert (job.row.state, job.error) == (State.DONE, None)
    assert downloads.model.read_bytes() == MODEL
    assert sorted(os.listdir(downloads.folder / "coder")) == [FILE, "midspan-model.json"]
    assert not downloads.part.parent.exists()
    states = list(dict.fromkeys(row.state for row in downloads.rows))
    assert states == [State.WAITING, State.DOWNLOADING, State.VERIFYING, State.DONE]
    assert steps(downloads) == sorted(steps(downloads))
    assert len(set(steps(downloads))) > 5  # not 0 and 100 alone
    assert downloads.rows[-1].received_bytes == downloads.rows[-1].total_bytes == SIZE


def test_resume_takes_the_rest_alone(hub: Hub, downloads: Downloads) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.6
    job = downloads.run()
    assert isinstance(job.error, RemoteProtocolError)
    assert downloads.part.stat().st_size == int(0.6 * SIZE)
    assert not downloads.model.exists()
    hub.faults.cut_at, hub.sent = 0.0, 0
    downloads.rows.clear()
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL
    assert hub.sent == SIZE - int(0.6 * SIZE)
    asked = hub.files()[-1].headers
    assert asked["range"] == f"bytes={int(0.6 * SIZE)}-"
    assert asked["if-range"] == f'"{hashlib.sha256(MODEL).hexdigest()}"'
    assert steps(downloads) == sorted(steps(downloads))


def test_cut_connection_goes_on_by_itself(hub: Hub, downloads: Downloads) -> None:
    hub.faults.cut_at, hub.faults.cuts = 0.3, 1
    assert downloads.run().row.state is State.DONE
    assert hub.sent == SIZE
    waiting = [row for row in downloads.rows if row.state is State.WAITING and row.reason]
    assert "ended after" in waiting[0].reason
    assert steps(downloads) == sorted(steps(downloads))


def test_progress_makes_tries_good_again(hub: Hub, downloads: Downloads) -> None:
    # Each try moves on, so that more cuts than retries are no reason to give up.
    downloads.retries = 1
    hub.faults.most = SIZE // 6 + 1
    assert downloads.run().row.state is State.DONE
    assert len(hub.files()) == 6
    assert hub.sent == SIZE


def test_hub_without_ranges_starts_anew_and_progress_does_not_go_back(
    hub: Hub, downloads: Downloads
) -> None:
    hub.faults.cut_at, hub.faults.cuts, hub.faults.no_ranges = 0.5, 1, True
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL
    assert hub.sent == SIZE + SIZE // 2
    assert steps(downloads) == sorted(steps(downloads))


def test_changed_etag_starts_anew(hub: Hub, downloads: Downloads) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.5
    downloads.run()
    hub.faults.cut_at, hub.faults.etag, hub.sent = 0.0, '"another"', 0
    assert downloads.run().row.state is State.DONE
    assert hub.files()[-1].headers["if-range"] != '"another"'
    assert hub.sent == SIZE
    assert downloads.model.read_bytes() == MODEL


def test_changed_file_starts_anew_and_is_said(hub: Hub, downloads: Downloads) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.5
    downloads.run()
    hub.faults.cut_at, hub.sent = 0.0, 0
    newer = gguf(seed=1)
    hub.put(REPOSITORY, FILE, newer)
    job = downloads.run()
    assert job.row.state is State.DONE
    assert "another file at the hub now" in job.row.reason
    assert downloads.model.read_bytes() == newer
    assert hub.sent == len(newer)


def test_one_wrong_byte_is_rejected_and_put_aside(hub: Hub, downloads: Downloads) -> None:
    hub.faults.flip = SIZE // 2
    job = downloads.run()
    assert isinstance(job.error, ModelFileError)
    assert "not what the hub says it is" in str(job.error)
    assert not downloads.model.exists()
    assert not downloads.part.exists()
    aside = downloads.folder / ".downloads" / ".quarantine" / f"{FILE}.wrong"
    assert aside.stat().st_size == SIZE
    hub.faults.flip = None
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL


def test_part_that_was_changed_on_disk_is_rejected(hub: Hub, downloads: Downloads) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.5
    downloads.run()
    data = bytearray(downloads.part.read_bytes())
    data[1000] ^= 1
    downloads.part.write_bytes(data)
    hub.faults.cut_at = 0.0
    assert isinstance(downloads.run().error, ModelFileError)
    assert downloads.run().row.state is State.DONE


@pytest.mark.parametrize("foreign", ["device", "pipe", "link", "dangling"])
def test_part_that_is_no_file_of_ours_is_neither_read_nor_written(
    hub: Hub, downloads: Downloads, tmp_path: Path, foreign: str
) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.5
    downloads.run()
    elsewhere = tmp_path / "elsewhere"
    downloads.part.unlink()
    if foreign == "pipe":
        os.mkfifo(downloads.part)
    else:
        if foreign == "link":
            elsewhere.write_bytes(MODEL[:1000])
        downloads.part.symlink_to("/dev/full" if foreign == "device" else elsewhere)
    hub.faults.cut_at, hub.sent = 0.0, 0
    downloads.rows.clear()
    job = downloads.run()
    assert (job.row.state, job.error) == (State.DONE, None)
    assert hub.sent == SIZE
    assert not downloads.model.is_symlink()
    assert downloads.model.read_bytes() == MODEL
    assert elsewhere.exists() == (foreign == "link")
    if foreign == "link":
        assert elsewhere.read_bytes() == MODEL[:1000]


@pytest.mark.parametrize(
    ("fault", "value"), [("wrong_range", True), ("more", b"x" * 10), ("commit", "f" * 40)]
)
def test_lying_hub_is_not_believed(
    hub: Hub, downloads: Downloads, fault: str, value: object
) -> None:
    downloads.retries = 0
    hub.faults.cut_at = 0.5
    downloads.run()
    hub.faults.cut_at = 0.0
    setattr(hub.faults, fault, value)
    assert isinstance(downloads.run().error, RemoteProtocolError)
    assert not downloads.model.exists()


def test_dead_hub_leaves_it_to_the_mirror(
    downloads_from: MakeDownloads, hub: Hub, mirror: Hub
) -> None:
    downloads = downloads_from(hub, mirror, key="hf_secret")
    hub.faults.status = 503
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL
    assert mirror.sent == SIZE
    assert "hf_secret" in str(hub.asked)
    assert "hf_secret" not in str(mirror.asked)
    assert "authorization" not in str(mirror.asked)


def test_mirror_takes_over_in_the_middle(
    downloads_from: MakeDownloads, hub: Hub, mirror: Hub
) -> None:
    downloads = downloads_from(hub, mirror)
    hub.faults.cut_at = 0.6
    mirror.faults.etag = '"its own"'
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL
    assert (hub.sent, mirror.sent) == (int(0.6 * SIZE), SIZE - int(0.6 * SIZE))
    # An etag means something only to who gave it.
    assert "if-range" not in mirror.files()[0].headers


def test_redirect_goes_without_the_key(downloads_from: MakeDownloads, hub: Hub) -> None:
    downloads = downloads_from(hub, key="hf_secret")
    with serving() as cdn:
        cdn.put(REPOSITORY, FILE, MODEL)
        hub.faults.elsewhere, hub.faults.key = cdn.url, "hf_secret"
        assert downloads.run().row.state is State.DONE
        assert all(one.headers["authorization"] == "Bearer hf_secret" for one in hub.asked)
        assert len(cdn.files()) == 1
        assert "authorization" not in cdn.asked[0].headers
    assert downloads.model.read_bytes() == MODEL


def test_resume_after_a_redirect_asks_the_sender_by_its_own_etag(
    downloads_from: MakeDownloads, hub: Hub
) -> None:
    downloads = downloads_from(hub)
    with serving() as cdn:
        cdn.put(REPOSITORY, FILE, MODEL)
        hub.faults.elsewhere, cdn.faults.etag = cdn.url, '"of-the-cdn"'
        cdn.faults.cut_at, cdn.faults.cuts = 0.5, 1
        assert downloads.run().row.state is State.DONE
        assert cdn.files()[-1].headers["if-range"] == '"of-the-cdn"'
        assert "if-range" not in hub.files()[-1].headers
        assert cdn.sent == SIZE


@pytest.mark.parametrize("target", ["http://example.com", "ftp://127.0.0.1", "file:///etc"])
def test_redirect_to_what_is_not_encrypted_is_refused(
    hub: Hub, downloads: Downloads, target: str
) -> None:
    hub.faults.elsewhere = target
    job = downloads.run()
    assert job.error is not None
    assert "redirects to" in str(job.error)
    assert job.error.kind == "remote_refused"


def test_redirects_without_end_end(hub: Hub, downloads: Downloads) -> None:
    downloads.retries = 0
    hub.faults.elsewhere = hub.url
    job = downloads.run()
    assert "without end" in str(job.error)
    assert len(hub.files()) <= 8


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (404, {}, UnknownModel, "no such repository"),
        (401, {"X-Error-Code": "RepoNotFound"}, UnknownModel, "HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, RemoteUnauthorized, "accepted its terms"),
        (401, {}, RemoteUnauthorized, "wants a key"),
        (429, {"Retry-After": "0"}, RemoteRateLimited, "too many requests"),
        (500, {}, RemoteFailed, "failed (500)"),
    ],
)
def test_refusals_are_said(
    hub: Hub,
    downloads: Downloads,
    status: int,
    headers: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    hub.faults.status, hub.faults.headers = status, headers
    job = downloads.run()
    assert isinstance(job.error, error)
    assert words in str(job.error)
    assert len(hub.asked) == (3 if status in (429, 500) else 1)  # others are not repeated


def test_refusal_that_nests_without_end_is_its_status(hub: Hub, downloads: Downloads) -> None:
    hub.faults.status, hub.faults.body = 401, b"[" * 10_000
    assert isinstance(downloads.run().error, RemoteUnauthorized)


def test_rate_limit_and_failures_pass(hub: Hub, downloads: Downloads) -> None:
    hub.faults.status, hub.faults.failures = 500, 2
    assert downloads.run().row.state is State.DONE


def test_key_is_never_shown(downloads_from: MakeDownloads, hub: Hub) -> None:
    downloads = downloads_from(hub, key="hf_secret")
    hub.faults.status, hub.faults.headers = 403, {"X-Error-Message": "bad hf_secret"}
    job = downloads.run()
    assert "bad ***" in str(job.error)
    assert "hf_secret" not in repr(downloads.places[0].__dict__)


def test_hub_that_is_not_there(downloads_from: MakeDownloads) -> None:
    with serving() as gone:
        pass
    downloads = downloads_from(gone)
    downloads.retries = 1
    assert isinstance(downloads.run().error, RemoteUnreachable)


def test_hub_that_falls_silent_is_given_up(downloads_from: MakeDownloads, hub: Hub) -> None:
    downloads = downloads_from(hub, silence=0.3)
    downloads.retries = 0
    hub.faults.hold = threading.Event()
    assert isinstance(downloads.run().error, RemoteTimeout)
    assert downloads.part.stat().st_size > 0


def test_cancel_ends_a_wait_for_bytes_and_keeps_what_is_there(
    hub: Hub, downloads: Downloads
) -> None:
    hub.faults.hold = threading.Event()
    job = downloads.job()
    thread = threading.Thread(target=job.run)
    thread.start()
    while not any(row.received_bytes for row in downloads.rows):
        time.sleep(0.005)
    job.cancel()
    thread.join(3)  # far below the time that it would wait for bytes
    assert not thread.is_alive()
    assert job.row.state is State.CANCELLED
    kept = downloads.part.stat().st_size
    assert 0 < kept < SIZE
    hub.faults.hold.set()
    hub.sent = 0
    hub.faults.hold = None
    assert downloads.run().row.state is State.DONE
    assert hub.files()[-1].headers["range"] == f"bytes={kept}-"


def test_second_process_is_kept_out(hub: Hub, downloads: Downloads) -> None:
    hub.faults.hold = threading.Event()
    job = downloads.job()
    thread = threading.Thread(target=job.run)
    thread.start()
    while not downloads.part.exists():
        time.sleep(0.005)
    other = Downloads(downloads.folder, downloads.places)
    assert isinstance(other.run().error, Conflict)
    hub.faults.hold.set()
    thread.join(20)
    assert job.row.state is State.DONE


def test_no_room_is_said_before_anything_is_fetched(
    hub: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SPARE", 1 << 60)
    job = downloads.run()
    assert isinstance(job.error, Conflict)
    assert "no room" in str(job.error)
    assert hub.files() == []


def test_room_is_looked_at_on_the_way(
    hub: Hub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def check(folder: Path, needed: int) -> None:
        looks.append(needed)
        if len(looks) > 2:
            raise Conflict("There is no room.")

    monkeypatch.setattr(transfer, "check_room", check)
    monkeypatch.setattr(transfer, "LOOK_AT_DISK", 500_000)
    job = downloads.run()
    assert str(job.error) == "There is no room."
    assert looks == sorted(looks, reverse=True)
    assert 0 < downloads.part.stat().st_size < SIZE


LIMITED = """
import resource, sys, threading
from pathlib import Path
from backends.downloads.choice import Machine
from backends.downloads.job import Job, Request
from backends.downloads.web import Options, Web
from backends.remote.keys import Key
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
job = Job(
    Request("coder", "somebody/coder-GGUF"),
    Path(sys.argv[1]),
    [Web(sys.argv[2], Key(), Options())],
    2,
    lambda: Machine(1 << 40, 1 << 40, 2048),
    threading.Semaphore(),
)
job.run()
print(job.row.state, job.error.kind, job.error)
"""


def test_full_disk_leaves_nothing_visible_and_the_part_can_be_resumed(
    hub: Hub, downloads: Downloads
) -> None:
    # A limit on the size of files fails writes as a full disk does, and needs no disk to fill.
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(downloads.folder), hub.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.startswith("failed conflict There is no room"), done.stdout + done.stderr
    assert os.listdir(downloads.folder) == [".downloads"]
    kept = downloads.part.stat().st_size
    assert 0 < kept <= 1_000_000
    hub.sent = 0
    assert downloads.run().row.state is State.DONE
    assert hub.sent == SIZE - kept
    assert downloads.model.read_bytes() == MODEL


@pytest.mark.parametrize("url", ["http://example.com", "https://user:key@hub.example", "nonsense"])
def test_endpoint_that_may_not_be_used_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        Web(url, Key(), Options())
