from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.api.guard import MAX_BODY
from tests.backends import gguf_files
from tests.backends.conftest import TOKEN, MakeManager, Serve, Served


def head(served: Served, method: str, path: str, **changes: str | None) -> bytes:
    """A request's head; `changes` replace a header (underscores for dashes) or, None, drop it."""
    headers: dict[str, str | None] = {
        "Host": f"127.0.0.1:{served.port}",
        "Authorization": f"Bearer {TOKEN}",
        "Connection": "close",
    }
    if method == "POST":
        headers["Content-Type"] = "application/json"
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


async def ask(
    served: Served, method: str, path: str, body: object = None, **changes: str | None
) -> tuple[int, Any]:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if method == "POST":
        changes.setdefault("Content_Length", str(len(data)))
    raw = await served.raw(head(served, method, path, **changes) + data)
    status, _, rest = raw.partition(b"\r\n\r\n")
    return int(status.split(b" ")[1]), json.loads(rest) if rest else None


@pytest.fixture
async def served(make_manager: MakeManager, serve: Serve) -> Any:
    manager = await make_manager("a", "slow-b", "refuse")
    async with serve(manager) as running:
        yield running


FORBIDDEN = [
    ({"Host": "evil.example"}, 403, "forbidden"),
    ({"Host": "127.0.0.1"}, 403, "forbidden"),  # no port
    ({"Host": "127.0.0.1:1"}, 403, "forbidden"),
    ({"Host": "localhost.evil.example"}, 403, "forbidden"),
    ({"Origin": "https://evil.example"}, 403, "forbidden"),
    ({"Origin": "null"}, 403, "forbidden"),
    ({"Authorization": None}, 401, "unauthorized"),
    ({"Authorization": "Bearer wrong"}, 401, "unauthorized"),
    ({"Authorization": f"Basic {TOKEN}"}, 401, "unauthorized"),
    ({"Authorization": f"bearer  {TOKEN} "}, 401, "unauthorized"),
    ({"Content_Type": None}, 415, "content_type"),
    ({"Content_Type": "text/plain"}, 415, "content_type"),
    ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "content_type"),
    ({"Content_Length": str(MAX_BODY + 1)}, 413, "too_large"),
]


@pytest.mark.parametrize(("changes", "status", "kind"), FORBIDDEN)
@pytest.mark.parametrize("path", ["/infill", "/api/models/select", "/nothing"])
async def test_guard_refuses(
    served: Served, path: str, changes: dict[str, Any], status: int, kind: str
) -> None:
    found, body = await ask(served, "POST", path, {}, **changes)
    assert (found, body["error"]["kind"], body["error"]["code"]) == (status, kind, status)


@pytest.mark.parametrize("path", ["/health", "/api/models/available", "/api/models/status"])
async def test_guard_asks_for_the_token_everywhere(served: Served, path: str) -> None:
    status, _ = await ask(served, "GET", path, Authorization=None)
    assert status == 401


async def test_guard_lets_our_own_names_and_origin_pass(served: Served) -> None:
    local = f"localhost:{served.port}"
    status, _ = await ask(
        served, "GET", "/api/models/current", Host=local, Origin=f"http://{local}"
    )
    assert status == 200
    body = b'{"n_predict": 1}'
    status, _ = await ask(
        served, "POST", "/infill", body, Content_Type="application/json; charset=utf-8"
    )
    assert status == 200


async def test_guard_limits_a_chunked_body(served: Served) -> None:
    request = head(served, "POST", "/infill", Transfer_Encoding="chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    raw = await served.raw(request + chunk * (MAX_BODY // 0x10000 + 1) + b"0\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 413")


async def test_answers_send_no_cors_header(served: Served) -> None:
    raw = await served.raw(head(served, "OPTIONS", "/infill", Access_Control_Request_Method="POST"))
    assert raw.startswith(b"HTTP/1.1 405")
    assert b"access-control" not in raw.lower()


ERRORS = [
    ("GET", "/nothing", None, 404, "not_found"),
    ("GET", "/infill", None, 405, "method"),
    ("POST", "/infill", b"{", 400, "bad_request"),
    ("POST", "/infill", b"\xff", 400, "bad_request"),
    ("POST", "/infill", b"[1]", 422, "bad_request"),
    ("POST", "/infill", {"n_predict": "many"}, 422, "bad_request"),
    ("POST", "/infill", {"model": "none"}, 404, "unknown_model"),
    ("POST", "/infill", {"model": "slow-b"}, 409, "conflict"),
    ("POST", "/api/models/select", {}, 422, "bad_request"),
    ("POST", "/api/models/select", {"name": 3}, 422, "bad_request"),
    ("POST", "/api/models/select", {"name": "none"}, 404, "unknown_model"),
    ("POST", "/api/models/select", {"name": "refuse"}, 503, "load_failed"),
    ("POST", "/api/models/add", {"path": "/no/such.gguf"}, 409, "model_file"),
    ("POST", "/api/models/add", {"path": "/x.gguf", "name": 3}, 422, "bad_request"),
    ("POST", "/api/models/remove", {"name": "none"}, 404, "unknown_model"),
    ("POST", "/api/models/remove", {"name": "starter"}, 409, "conflict"),
    ("POST", "/api/manager/stop", {"drain": 1}, 422, "bad_request"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "kind"), ERRORS)
async def test_errors_have_one_shape(
    served: Served, method: str, path: str, body: object, status: int, kind: str
) -> None:
    found, answer = await ask(served, method, path, body)
    assert (found, answer["error"]["kind"]) == (status, kind)
    assert set(answer["error"]) == {"code", "kind", "type", "message"}
    assert answer["error"]["message"]


async def test_infill_answers_compactly(served: Served) -> None:
    request = head(served, "POST", "/infill", Content_Length="16") + b'{"n_predict": 3}'
    raw = await served.raw(request)
    assert b'"content":"xxxa"' in raw
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 3


async def test_infill_streams_events(served: Served) -> None:
    body = json.dumps({"n_predict": 2, "stream": True}).encode()
    raw = await served.raw(head(served, "POST", "/infill", Content_Length=str(len(body))) + body)
    assert b"content-type: text/event-stream" in raw.lower()
    events = [
        json.loads(part) for part in raw.split(b"data: ")[1:] for part in [part.split(b"\n\n")[0]]
    ]
    assert [event["content"] for event in events] == ["x", "x", "a"]
    assert [event["stop"] for event in events] == [False, False, True]
    assert events[-1]["finish_reason"] == "length"


async def test_infill_stream_that_cannot_begin_has_a_status(served: Served) -> None:
    status, body = await ask(served, "POST", "/infill", {"stream": True, "model": "none"})
    assert (status, body["error"]["kind"]) == (404, "unknown_model")


@pytest.mark.parametrize("stream", [True, False])
async def test_infill_of_a_client_that_vanishes_is_cancelled(served: Served, stream: bool) -> None:
    body = json.dumps({"n_predict": 2000, "stream": stream}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head(served, "POST", "/infill", Content_Length=str(len(body))) + body)
    async with asyncio.timeout(20):
        while served.manager.in_flight != 1:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while served.manager.in_flight:
            await asyncio.sleep(0.01)


async def test_infill_ends_with_the_worker_that_dies(
    make_manager: MakeManager, serve: Serve
) -> None:
    async with serve(await make_manager("die")) as served:
        for stream in (False, True):
            status, body = await ask(served, "POST", "/infill", {"stream": stream})
            assert (status, body["error"]["kind"]) == (503, "worker_died")


async def test_health_is_503_until_a_model_is_ready(served: Served) -> None:
    status, body = await ask(served, "GET", "/health")
    assert (status, body["state"], body["error"]["code"]) == (503, "stopped", 503)
    await ask(served, "POST", "/infill", {"n_predict": 0})
    status, body = await ask(served, "GET", "/health")
    assert (status, body["status"], body["model"], body["state"]) == (200, "ok", "a", "ready")


async def test_health_tells_why_the_model_failed(make_manager: MakeManager, serve: Serve) -> None:
    async with serve(await make_manager("refuse")) as served:
        await ask(served, "POST", "/infill", {})
        status, body = await ask(served, "GET", "/health")
        assert (status, body["state"]) == (503, "failed")
        assert "out of memory" in body["error"]["message"]


async def test_select_then_status_and_current(served: Served) -> None:
    await ask(served, "POST", "/infill", {"n_predict": 1})
    async with AsyncExitStack():
        selecting = asyncio.create_task(
            ask(served, "POST", "/api/models/select", {"name": "slow-b"})
        )
        await asyncio.sleep(0.2)
        _, body = await ask(served, "GET", "/api/models/status")
        states = {model["name"]: model["state"] for model in body["models"]}
        assert (states["a"], states["slow-b"]) == ("ready", "starting")
        assert (body["current"], body["target"]) == ("a", "slow-b")
        status, body = await selecting
    assert (status, body["name"], body["state"]) == (200, "slow-b", "ready")
    assert body["rss"] > 0
    _, body = await ask(served, "GET", "/api/models/current")
    assert body["name"] == "slow-b"
    assert body["since"] > 1e9


async def test_status_does_not_look_for_all_models_for_each(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    models = served.manager.catalogue.models
    monkeypatch.setattr(served.manager.catalogue, "models", lambda: looked.append(1) or models())
    _, body = await ask(served, "GET", "/api/models/status")
    rows = {row["name"]: row for row in body["models"]}
    assert rows["starter"]["engine"]
    assert len(rows) == 4
    # For the rows, and for what completes and chats by default.
    assert len(looked) <= 3


async def test_available_lists_what_is_known(served: Served) -> None:
    _, body = await ask(served, "GET", "/api/models/available")
    rows = {row["name"]: row for row in body["models"]}
    assert {"a", "slow-b", "refuse", "starter"} == set(rows)
    assert rows["a"]["fim"]
    assert rows["a"]["size_bytes"] == len(gguf_files.good())


async def test_add_select_remove(served: Served, tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "mine.gguf")
    status, body = await ask(served, "POST", "/api/models/add", {"path": str(path)})
    assert (status, body["name"], body["source"]) == (200, "mine", "added")
    assert (await ask(served, "POST", "/api/models/select", {"name": "mine"}))[0] == 200
    status, body = await ask(served, "POST", "/api/models/remove", {"name": "mine"})
    assert (status, body["error"]["kind"]) == (409, "conflict")  # in use
    assert (await ask(served, "POST", "/api/models/select", {"name": "a"}))[0] == 200
    _, body = await ask(served, "GET", "/api/models/status")
    rows = {row["name"]: row for row in body["models"]}
    assert (rows["mine"]["standby"], rows["a"]["standby"]) == (True, False)
    assert rows["mine"]["active"] == 0
    assert body["memory"]["taken"] == 2 * rows["mine"]["memory_bytes"]
    assert 0 < body["memory"]["kept_limit"] <= body["memory"]["swap_limit"]
    # On standby it is not in use, so it can be forgotten; its worker ends.
    assert (await ask(served, "POST", "/api/models/remove", {"name": "mine"}))[0] == 200
    async with asyncio.timeout(20):
        while served.manager.backend("mine") is not None:
            await asyncio.sleep(0.05)


async def test_restart_worker_gives_another_process(served: Served) -> None:
    await ask(served, "POST", "/infill", {"n_predict": 1})
    _, before = await ask(served, "GET", "/api/models/current")
    status, after = await ask(served, "POST", "/api/manager/restart-worker", {})
    assert status == 200
    assert after["pid"] != before["pid"]


async def test_stop_asks_for_the_end(served: Served) -> None:
    await ask(served, "POST", "/api/manager/stop", {})
    await ask(served, "POST", "/api/manager/stop", {"drain": False})
    assert served.stops == [True, False]
