from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsp_server.cli.exits import Exit
from tests.backends.downloads.hub import Hub, add_starter, serving
from tests.conftest import MIDSPAN

Run = Callable[..., subprocess.CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]
STARTER = "midspan/starter-GGUF"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        add_starter(hub)
        yield hub


def test_pull_verify_delete(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, hub: Hub
) -> None:
    env = midspan_env | {"MIDSPAN_DOWNLOADS_ENDPOINT": hub.url}
    hub.faults.rate = 20e6
    pulled = run_midspan(["models", "pull", f"{STARTER}:q8_0", "--name", "mine"], env)
    assert pulled.returncode == Exit.OK, pulled.stderr
    assert "To use it: midspan models use mine" in pulled.stdout
    assert "of 6 MiB" in pulled.stderr
    assert "\x1b" not in pulled.stderr
    listed = run_midspan(["models", "list"], env).stdout
    assert "from downloaded" in listed
    assert run_midspan(["models", "verify", "mine"], env).returncode == Exit.OK
    (file,) = (Path(env["MIDSPAN_MODELS_DIR"]) / "mine").glob("*.gguf")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    wrong = run_midspan(["models", "verify", "mine", "--json"], env)
    assert wrong.returncode == Exit.FAILURE
    assert one_object(wrong.stdout)["files"][0]["reason"] == "its contents have changed"
    kept = run_midspan(["models", "remove", "mine"], env)
    assert kept.returncode == Exit.FAILURE
    assert "midspan models delete mine" in kept.stderr
    assert run_midspan(["models", "delete", "mine"], env).returncode == Exit.OK
    assert not file.exists()


def test_pull_is_cancelled_by_ctrl_c_and_goes_on(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, hub: Hub
) -> None:
    env = midspan_env | {"MIDSPAN_DOWNLOADS_ENDPOINT": hub.url}
    hub.faults.rate = 2e6
    command = [*MIDSPAN, "models", "pull", STARTER, "--yes"]
    pulling = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    parts = Path(env["MIDSPAN_MODELS_DIR"]) / ".downloads"
    while not any(part.stat().st_size for part in parts.glob("*/*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # until it has seen a row
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate(timeout=60)
    assert pulling.returncode == Exit.INTERRUPTED, said
    assert "the same command goes on" in said
    hub.faults.rate = 0
    done = run_midspan(["models", "pull", STARTER, "--json"], env)
    assert one_object(done.stdout)["model"]["name"] == "midspan-starter"
    assert hub.files()[-1].headers["range"].startswith("bytes=")


def test_search_and_recommend_ask_no_hub(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject, hub: Hub
) -> None:
    env = midspan_env | {"MIDSPAN_DOWNLOADS_ENDPOINT": hub.url}
    every = one_object(run_midspan(["models", "search", "--json"], env).stdout)
    assert len(every["models"]) >= 20
    listed = run_midspan(["models", "search"], env).stdout.partition("\n\n")[0].splitlines()
    assert len({line.index("B  ") for line in listed}) == 1, "sizes stand in one column"
    longest = max(len(row["name"]) for row in every["models"])
    assert longest > 28
    some = run_midspan(["models", "search", "granite", "apache"], env)
    names = [line.split()[1] for line in some.stdout.splitlines() if "granite" in line]
    assert names == ["granite-3b-code", "granite-8b-code", "granite-20b-code"]
    assert "OWNER/NAME" in run_midspan(["models", "search", "nothing-like-it"], env).stdout
    best = one_object(run_midspan(["models", "recommend", "--json"], env).stdout)
    assert best["recommended"] == every["recommended"]
    said = run_midspan(["models", "recommend"], env).stdout
    assert f"midspan models pull {best['recommended']}" in said
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["pull", "no/such"], "unknown_model", Exit.USAGE),
        (["pull", STARTER, "--file", "x.bin"], "bad_request", Exit.USAGE),
        (["pull", STARTER, "--name", "starter"], "conflict", Exit.FAILURE),
        (["delete", "no-such"], "unknown_model", Exit.USAGE),
    ],
)
def test_models_pull_explains_what_cannot_be(
    shared_midspan_env: dict[str, str],
    run_midspan: Run,
    one_object: OneObject,
    hub_of_shared: None,
    arguments: list[str],
    kind: str,
    code: Exit,
) -> None:
    done = run_midspan(["models", *arguments, "--json"], shared_midspan_env)
    assert done.returncode == code, done.stderr
    assert one_object(done.stdout)["error"]["kind"] == kind


@pytest.fixture(scope="module")
def hub_of_shared(shared_midspan_env: dict[str, str]) -> Iterator[None]:
    """Let the shared manager, which may run already, use a hub: by its configuration file."""
    from tests.conftest import stop_manager

    config = Path(shared_midspan_env["MIDSPAN_CONFIG"])
    with serving() as hub:
        add_starter(hub)
        stop_manager(shared_midspan_env)
        before = config.read_text() if config.exists() else None
        config.write_text(f'[downloads]\nendpoint = "{hub.url}"\nretries = 0\n')
        yield
        stop_manager(shared_midspan_env)
        if before is None:
            config.unlink()
        else:
            config.write_text(before)
