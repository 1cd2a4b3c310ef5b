"""Nothing goes to a host that is not configured, seen from outside the code: at the sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.errors import BadRequest, RemoteRefused, RemoteUnreachable
from backends.remote.endpoint import parse
from backends.remote.keys import Key
from tests.backends.remote.conftest import Connect, collected
from tests.backends.remote.test_faults import GOOD, chat, infill
from tests.backends.remote.upstream import Reply, Upstream, as_json, serving

# Everything that could lead a client elsewhere is set; Python reports each look-up and connection.
PROGRAM = """
import asyncio, json, sys
seen = []
def hook(event, arguments):
    if event == "socket.connect":
        seen.append(list(arguments[1])[:2])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        seen.append([str(arguments[0]), arguments[1] if len(arguments) > 1 else None])
sys.addaudithook(hook)

from backends.backend import ChatRequest, InfillRequest, Message, Role
from backends.config import ModelSettings
from backends.remote.backend import RemoteBackend

async def main(url):
    backend = await RemoteBackend.connect("m", ModelSettings(endpoint=url, family="codestral"))
    texts = []
    for ask in (
        backend.infill(InfillRequest("a = ", "b", document="d")),
        backend.chat(ChatRequest((Message(Role.USER, "hello"),), session="s")),
    ):
        texts.append("".join([chunk.text async for chunk in ask]))
    await backend.health()
    await backend.close()
    print(json.dumps([texts, seen]))

asyncio.run(main(sys.argv[1]))
"""


async def test_only_the_endpoint_is_ever_connected_to(upstream: Upstream, tmp_path: Path) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        upstream.answers(path, GOOD)
    async with serving() as trap:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login user password from-netrc\n")
        netrc.chmod(0o600)
        lures = {
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), trap.url),
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "OPENAI_BASE_URL"), trap.url),
            "OPENAI_API_KEY": "sk-lure",
            "OPENAI_ORG_ID": "org-lure",
            "NETRC": str(netrc),
            "OPENAI_PROJECT_ID": "project-lure",
            "PATH": "/usr/bin",
        }
        done = await _run(upstream.url, lures)
        texts, seen = json.loads(done)
        assert [text.strip() for text in texts] == ["one two"] * 2
        assert {tuple(address) for address in seen} == {("127.0.0.1", upstream.port)}
        assert trap.requests == []
    sent = str(upstream.requests)
    assert "lure" not in sent
    assert "netrc" not in sent
    assert "authorization" not in sent


async def _run(url: str, environment: dict[str, str]) -> str:
    import asyncio

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, url),
        env=environment,
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_proxy_that_is_configured_is_used(connect: Connect, upstream: Upstream) -> None:
    # The upstream is the proxy: requests for a host that does not exist arrive there.
    host = "http://engine.invalid:8000"
    upstream.answers(f"{host}/v1/models", as_json({"data": [{"id": "Codestral-22B"}]}))
    upstream.answers(f"{host}/v1/completions", GOOD)
    backend = await connect(endpoint=host, proxy=upstream.url)
    assert (await collected(infill(backend)))[0]
    assert all(request.headers["host"] == "engine.invalid:8000" for request in upstream.requests)


async def test_proxy_that_is_gone_is_no_reason_to_go_without(
    connect: Connect, upstream: Upstream
) -> None:
    async with serving() as gone:
        port = gone.port
    with pytest.raises(RemoteUnreachable, match="through the proxy that is set"):
        await connect(proxy=f"http://127.0.0.1:{port}", retries=0)
    assert upstream.requests == []
    with pytest.raises(BadRequest, match="proxy"):
        await connect(proxy="nonsense")


async def test_no_other_origin_gets_through_the_connection(
    connect: Connect, upstream: Upstream
) -> None:
    backend = await connect("sk-key")
    client = backend._connection.client
    async with serving() as elsewhere:
        for url in (elsewhere.url, upstream.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(RemoteRefused):
                await client.get(url)
        leads = (("Location", elsewhere.url),)
        upstream.answers("/moved", Reply((), 302, headers=leads))
        with pytest.raises(RemoteRefused):
            await client.get(f"{upstream.url}/moved", follow_redirects=True)
        assert elsewhere.requests == []


async def test_only_known_headers_go_out(connect: Connect, upstream: Upstream) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        upstream.answers(path, GOOD)
    backend = await connect("sk-key")
    await collected(infill(backend))
    await collected(chat(backend))
    allowed = {
        *("host", "accept", "accept-encoding", "connection", "user-agent", "authorization"),
        *("content-type", "content-length"),
    }
    assert {name for request in upstream.requests for name in request.headers} <= allowed


def test_certificate_of_an_unknown_authority_names_the_setting() -> None:
    httpx2 = pytest.importorskip("httpx2")
    from backends.remote.transport import Connection, Options

    connection = Connection(parse("https://coder.example.com"), Key(), Options())
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)"
    with pytest.raises(RemoteUnreachable, match="set ca_file") as caught, connection.failures():
        raise httpx2.ConnectError(reason)
    assert "proxy" not in str(caught.value)


async def test_ca_file_that_is_none_is_said(connect: Connect, tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    for path in (wrong, tmp_path / "missing.pem"):
        with pytest.raises(BadRequest, match="ca_file"):
            await connect(endpoint="https://127.0.0.1:1", ca_file=str(path))
