"""The contract of each endpoint for downloads: shapes, codes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backends.config import DownloadSettings
from backends.downloads import tries
from backends.downloads.downloader import Downloader
from tests.backends.api.conftest import dechunked
from tests.backends.api.test_endpoints import ask, head
from tests.backends.conftest import MakeManager, Serve, Served
from tests.backends.downloads.conftest import FILE, MODEL, REPOSITORY, gguf
from tests.backends.downloads.hub import Hub, serving

DOWNLOAD = "/api/models/download"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        hub.put(REPOSITORY, FILE, MODEL)
        yield hub


@pytest_asyncio.fixture
async def served(
    make_manager: MakeManager, serve: Serve, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.02)
    manager = await make_manager("a")
    settings = DownloadSettings(endpoint=hub.url, retries=0)
    manager.__dict__["downloads"] = Downloader(settings, manager.catalogue, {})
    async with serve(manager) as running:
        yield running


async def events(served: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    data = json.dumps(body | {"stream": True}).encode()
    raw = await served.raw(head(served, "POST", DOWNLOAD, Content_Length=str(len(data))) + data)
    assert raw.startswith(b"HTTP/1.1 200"), raw
    blocks = dechunked(raw.partition(b"\r\n\r\n")[2]).split(b"\n\n")[:-1]
    assert all(block.startswith(b"data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks if block != b"data: [DONE]"]


async def post(served: Served, path: str, **body: Any) -> tuple[int, Any]:
    return await ask(served, "POST", path, body)


async def test_catalogue_says_what_fits(served: Served, hub: Hub) -> None:
    status, answer = await ask(served, "GET", "/api/models/catalogue")
    assert status == 200
    rows = {row["name"]: row for row in answer["models"]}
    assert len(rows) >= 20
    assert answer["recommended"] in rows
    assert answer["machine"]["cores"] >= 1
    wanted = {
        *("name", "repository", "family", "parameters", "licence", "fim", "chat", "note"),
        *("context_length", "downloaded", "quantisation", "size_bytes", "memory_bytes", "fits"),
        "why",
    }
    assert all(wanted <= row.keys() for row in rows.values())
    assert {row["fits"] for row in rows.values()} <= {"yes", "tight", "no"}
    assert hub.asked == []


async def test_recommend_names_one_and_why(served: Served, hub: Hub) -> None:
    status, answer = await ask(served, "GET", "/api/models/recommend")
    assert status == 200
    assert answer["models"][0]["name"] == answer["recommended"]
    assert len(answer["models"]) == 3
    assert answer["why"]
    assert hub.asked == []


async def test_download_streams_until_the_model_is_there(served: Served) -> None:
    rows = await events(served, {"repository": REPOSITORY})
    assert rows[-1]["state"] == "done"
    model = rows[-1]["model"]
    assert (model["name"], model["source"], model["fim"]) == ("coder", "downloaded", True)
    keys = {*("name", "state", "file", "received_bytes", "total_bytes", "rate", "eta_s", "reason")}
    assert all(keys <= row.keys() for row in rows)
    _, listed = await ask(served, "GET", "/api/models/available")
    assert "coder" in {row["name"] for row in listed["models"]}
    _, downloads = await ask(served, "GET", "/api/models/downloads")
    assert [row["state"] for row in downloads["downloads"]] == ["done"]
    _, verified = await post(served, "/api/models/verify", name="coder")
    assert verified["ok"] is True
    assert verified["files"][0]["sha256"] == verified["files"][0]["expected"]


async def test_download_without_a_stream_answers_when_it_is_begun(served: Served, hub: Hub) -> None:
    hub.faults.rate = 3e5  # it is not over before it is cancelled, on a busy machine either
    status, row = await post(served, DOWNLOAD, repository=REPOSITORY, name="b")
    assert status == 200
    assert row["state"] in ("waiting", "downloading")
    assert row["total_bytes"] == len(MODEL)
    # The same once more is the same download; the same name from elsewhere is none.
    assert (await post(served, DOWNLOAD, repository=REPOSITORY, name="b"))[0] == 200
    hub.put("else/where", FILE, MODEL)
    assert (await post(served, DOWNLOAD, repository="else/where", name="b"))[0] == 409
    status, row = await post(served, "/api/models/download/cancel", name="b")
    assert (status, row["state"]) == (200, "cancelled")
    assert (await post(served, "/api/models/download/cancel", name="b"))[0] == 409
    # What is left of it can be deleted.
    status, gone = await post(served, "/api/models/delete", name="b")
    assert (status, gone["deleted"]) == (200, "b")
    assert (await post(served, "/api/models/delete", name="b"))[0] == 404


async def test_failure_in_the_middle_is_the_streams_last_event(served: Served, hub: Hub) -> None:
    hub.faults.flip, hub.faults.rate = 2_000_000, 6e6
    rows = await events(served, {"repository": REPOSITORY})
    assert rows[-2]["state"] == "failed"
    assert rows[-1]["error"]["kind"] == "model_file"
    assert rows[-1]["error"]["message"] == rows[-2]["reason"]


ERRORS = [
    (DOWNLOAD, {}, 422, "bad_request"),
    (DOWNLOAD, {"model": "a", "repository": "b/c"}, 422, "bad_request"),
    (DOWNLOAD, {"model": 5}, 422, "bad_request"),
    (DOWNLOAD, {"modle": "x"}, 422, "bad_request"),
    (DOWNLOAD, {"model": "no-such"}, 404, "unknown_model"),
    (DOWNLOAD, {"repository": "no/such"}, 404, "unknown_model"),
    (DOWNLOAD, {"repository": "no/such", "stream": True}, 404, "unknown_model"),
    (DOWNLOAD, {"repository": REPOSITORY, "revision": "nope"}, 404, "unknown_model"),
    (DOWNLOAD, {"repository": "../etc"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "file": "x.gguf"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "file": "../x.gguf"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "file": "model.bin"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "quantisation": "Q2_K"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "name": "../x"}, 422, "bad_request"),
    (DOWNLOAD, {"repository": REPOSITORY, "name": "a"}, 409, "conflict"),
    (DOWNLOAD, {"repository": REPOSITORY, "name": "starter"}, 409, "conflict"),
    ("/api/models/download/cancel", {}, 422, "bad_request"),
    ("/api/models/download/cancel", {"name": "none"}, 404, "unknown_model"),
    ("/api/models/verify", {"name": "none"}, 404, "unknown_model"),
    ("/api/models/verify", {"name": "starter"}, 409, "conflict"),
    ("/api/models/verify", {}, 422, "bad_request"),
    ("/api/models/delete", {"name": "none"}, 404, "unknown_model"),
    ("/api/models/delete", {"name": "starter"}, 409, "conflict"),
    ("/api/models/delete", {"name": "../.."}, 422, "bad_request"),
]


async def test_errors_have_their_codes(served: Served) -> None:
    for path, body, status, kind in ERRORS:
        found, answer = await ask(served, "POST", path, body)
        assert (found, answer["error"]["kind"]) == (status, kind), (path, body, answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models/catalogue"),
        ("GET", "/api/models/recommend"),
        ("GET", "/api/models/downloads"),
        ("POST", DOWNLOAD),
        ("POST", "/api/models/download/cancel"),
        ("POST", "/api/models/verify"),
        ("POST", "/api/models/delete"),
    ],
)
async def test_guard_stands_before_all_of_them(served: Served, method: str, path: str) -> None:
    body = {} if method == "POST" else None
    assert (await ask(served, method, path, body, Authorization=None))[0] == 401
    assert (await ask(served, method, path, body, Host="evil.example"))[0] == 403


async def test_delete_refuses_what_is_in_use_and_frees_the_rest(served: Served, hub: Hub) -> None:
    await events(served, {"repository": REPOSITORY})
    manager = served.manager
    await manager.select("coder")
    assert (await post(served, "/api/models/delete", name="coder"))[0] == 409
    await manager.select("a")
    status, gone = await post(served, "/api/models/delete", name="coder")
    assert (status, gone["freed_bytes"]) == (200, len(MODEL))
    assert "coder" not in manager.catalogue.models()
    assert not (manager.catalogue.downloads_folder / "coder").exists()
    assert (await post(served, "/api/models/remove", name="coder"))[0] == 404
    # It can be had again.
    assert (await events(served, {"repository": REPOSITORY}))[-1]["state"] == "done"
    assert (await post(served, "/api/models/remove", name="coder"))[0] == 409


async def test_catalogues_model_is_downloaded_under_its_name(served: Served, hub: Hub) -> None:
    hub.put("ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF", "qwen2.5-coder-0.5b-q8_0.gguf", gguf(50_000))
    rows = await events(served, {"model": "qwen2.5-coder-0.5b"})
    assert rows[-1]["model"]["name"] == "qwen2.5-coder-0.5b"
    _, answer = await ask(served, "GET", "/api/models/catalogue")
    downloaded = [row["name"] for row in answer["models"] if row["downloaded"]]
    assert downloaded == ["qwen2.5-coder-0.5b"]


async def test_downloads_take_turns(served: Served, hub: Hub) -> None:
    hub.faults.rate = 3e6
    hub.put("other/one-GGUF", FILE, gguf(50_000))
    await post(served, DOWNLOAD, repository=REPOSITORY)
    _, second = await post(served, DOWNLOAD, repository="other/one-GGUF")
    assert second["state"] == "waiting"
    hub.faults.rate = 0
    assert (await events(served, {"repository": "other/one-GGUF"}))[-1]["state"] == "done"
    assert (await events(served, {"repository": REPOSITORY}))[-1]["state"] == "done"


async def test_folder_of_downloads_can_be_elsewhere(
    make_manager: MakeManager, serve: Serve, hub: Hub, tmp_path: Path
) -> None:
    manager = await make_manager("a")
    settings = DownloadSettings(endpoint=hub.url, folder=str(tmp_path / "big disk"))
    manager.catalogue._settings = replace(manager.catalogue._settings, downloads=settings)
    manager.__dict__["downloads"] = Downloader(settings, manager.catalogue, {})
    async with serve(manager) as served:
        row = (await events(served, {"repository": REPOSITORY}))[-1]["model"]
    assert row["path"] == str(tmp_path / "big disk" / "coder" / FILE)
