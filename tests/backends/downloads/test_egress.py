"""Nothing is contacted before somebody asks for a download, and then the hub alone: at the sockets.

The real hub cannot be reached from tests; what its API answers is written from its documentation
and from the client library of its makers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.downloads.web import Options, Web
from backends.errors import RemoteUnreachable
from backends.remote.keys import Key
from tests.backends.downloads.conftest import FILE, MODEL, REPOSITORY, Downloads, MakeDownloads
from tests.backends.downloads.hub import Hub, serving

ROOT = Path(__file__).parents[3]

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

from pathlib import Path
from backends import config
from backends.manager import Manager
from backends.remembered import Remembered

async def main(folder):
    settings, problems = config.load()
    assert not problems, problems
    manager = Manager(settings, Remembered(Path(folder)))
    manager.downloads.offers()
    manager.downloads.rows()
    manager.catalogue.models()
    before = list(seen)
    from backends.downloads.downloader import Asked
    name = await manager.downloads.start(Asked(repository="somebody/coder-GGUF"))
    rows = [row async for row in manager.downloads.watch(name)]
    model = manager.catalogue.get(name)
    manager.downloads.verify(model)
    await manager.close()
    print(json.dumps([rows[-1].state, before, seen]))

asyncio.run(main(sys.argv[1]))
"""


async def _run(environment: dict[str, str], folder: Path) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(folder)),
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "MIDSPAN_DOWNLOADS_ENDPOINT"])
async def test_only_the_hub_is_ever_connected_to_and_only_when_asked(
    hub: Hub, tmp_path: Path, variable: str
) -> None:
    with serving() as trap:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login user password from-netrc\n")
        netrc.chmod(0o600)
        proxies = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY")
        folders = {f"MIDSPAN_{name}_DIR": str(tmp_path) for name in ("RUNTIME", "STATE", "MODELS")}
        state, before, seen = await _run(
            {
                **dict.fromkeys(proxies, trap.url),
                **folders,
                variable: hub.url,
                "MIDSPAN_CONFIG": str(tmp_path / "none.toml"),
                "NETRC": str(netrc),
                "HF_TOKEN": "hf_mine",
                "PATH": "/usr/bin",
            },
            tmp_path,
        )
        assert state == "done"
        assert before == []
        assert {tuple(address) for address in seen} == {("127.0.0.1", hub.server.server_port)}
        assert trap.asked == []
    assert all(one.headers["authorization"] == "Bearer hf_mine" for one in hub.asked)
    allowed = {*("host", "user-agent", "accept", "accept-encoding", "authorization")}
    assert {name for one in hub.asked for name in one.headers} <= allowed
    assert "netrc" not in str(hub.asked)


def test_proxy_that_is_configured_is_used(downloads_from: MakeDownloads, hub: Hub) -> None:
    # The proxy is a hub too: what is meant for a host that does not exist arrives there.
    with serving() as far:
        url = far.url
        far.put(REPOSITORY, FILE, MODEL)
    downloads = downloads_from(hub)
    downloads.retries = 0
    proxied = Web(url, Key(), Options(proxy=hub.url))
    downloads.places = [proxied]
    downloads.run()
    assert hub.asked
    assert all(one.path.startswith(url) for one in hub.asked)


def test_proxy_that_is_gone_is_no_reason_to_go_without(
    downloads_from: MakeDownloads, hub: Hub
) -> None:
    with serving() as gone:
        pass
    downloads = downloads_from(hub, proxy=gone.url)
    downloads.retries = 0
    assert isinstance(downloads.run().error, RemoteUnreachable)
    assert hub.asked == []


def test_tunnel_is_asked_for_where_the_hub_is_encrypted(tmp_path: Path, hub: Hub) -> None:
    # An encrypted hub is reached by CONNECT: the proxy sees its name and nothing else.
    downloads = Downloads(
        tmp_path / "models",
        [Web("https://hub.invalid", Key("hf_secret"), Options(proxy=hub.url, silence=5.0))],
    )
    downloads.retries = 0
    heard: list[str] = []
    handler = hub.server.RequestHandlerClass

    def connect(self: Any) -> None:
        heard.append(f"{self.path} {self.headers}")
        self.send_error(502)

    handler.do_CONNECT = connect  # type: ignore[attr-defined]
    assert isinstance(downloads.run().error, RemoteUnreachable)
    assert len(heard) == 1
    assert heard[0].startswith("hub.invalid:443")
    assert "hf_secret" not in heard[0]


def test_language_server_imports_none_of_it() -> None:
    program = (
        "import sys\n"
        "from lsp_server.server import create_server\n"
        "create_server()\n"
        "print([name for name in sys.modules if name.startswith('backends.downloads')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_manager_imports_the_record_alone() -> None:
    program = (
        "import sys, backends.serve\n"
        "print(sorted(name for name in sys.modules if name.startswith('backends.downloads')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    names = ["backends.downloads", "backends.downloads.names", "backends.downloads.record"]
    assert done.stdout.strip() == str(names), done.stdout + done.stderr
