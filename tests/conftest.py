"""What tests of several folders share: private folders, real processes and small models."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from backends import launcher, state

# A busy machine is no defect: hypothesis must not fail a test for its time.
settings.register_profile("midspan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("midspan")

# What is started in a shell's background is deaf to Ctrl+C, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# As `midspan`, but of this very checkout and environment, wherever the script was installed.
MIDSPAN = (sys.executable, "-P", "-m", "lsp_server.cli.main")

Env = dict[str, str]


def private_env(folder: Path) -> Env:
    """Return an environment in which midspan touches nothing outside `folder`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIDSPAN_")}
    for name in ("RUNTIME", "STATE", "MODELS", "VECTORS"):
        path = folder / name.lower()
        path.mkdir(mode=0o700)
        env[f"MIDSPAN_{name}_DIR"] = str(path)
    env["MIDSPAN_CONFIG"] = str(folder / "config.toml")
    return env


def stop_manager(env: Env) -> None:
    """End the manager of `env`, if one runs."""
    endpoint = state.read(Path(env["MIDSPAN_RUNTIME_DIR"]))
    if endpoint is not None:
        launcher.stop(endpoint)


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests that ask for no private environment away from the user's own."""
    private = private_env(tmp_path_factory.mktemp("nobody"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNTIME_DIR", "STATE_DIR", "MODELS_DIR", "VECTORS_DIR", "CONFIG"):
            patch.setenv(f"MIDSPAN_{name}", private[f"MIDSPAN_{name}"])
        yield
    stop_manager(private)


@pytest.fixture
def midspan_env(tmp_path: Path) -> Iterator[Env]:
    """A private environment; its manager, if one was started, ends with the test."""
    folder = tmp_path / "midspan"
    folder.mkdir()
    env = private_env(folder)
    yield env
    stop_manager(env)


@pytest.fixture(scope="session")
def shared_midspan_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """A private environment for tests that leave its manager and models as they found them."""
    env = private_env(tmp_path_factory.mktemp("midspan"))
    yield env
    stop_manager(env)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second, very small model with random weights."""
    from benchmarks import random_gguf

    return random_gguf.write(tmp_path_factory.mktemp("models") / "tiny.gguf", "tiny")


@pytest.fixture(scope="session")
def run_midspan() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `midspan ARGUMENTS` in an environment and return what came of it."""

    def run(
        arguments: Sequence[str], env: Env, timeout: float = 120, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MIDSPAN, *arguments],
            env=env,
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def one_object() -> Callable[[str], dict[str, Any]]:
    """Return stdout's one JSON object; fail if there is anything else."""

    def parse(stdout: str) -> dict[str, Any]:
        value = json.loads(stdout)  # refuses a second object or a stray line
        assert isinstance(value, dict)
        return value

    return parse


# Where tests run in several processes (`-n 2 --dist loadfile`): what takes longest begins first,
# and one process runs all of a folder whose tests share something costly. (xdist's own groups are
# lost on pytest 9.2, which makes node ids anew.)
TOGETHER = ("tests/e2e/vscode",)
LONGEST = (
    *TOGETHER,
    "tests/lsp_server/kernels/test_verify.py",
    "tests/backends/test_backend_contract.py",
    "tests/e2e/test_neovim.py",
    "tests/backends/downloads",
    "tests/lsp_server/kernels",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files, in the order of the collection, and folders of `TOGETHER` as one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folders = (folder for folder in TOGETHER if nodeid.startswith(f"{folder}/"))
            return next(folders, nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def _missing(*modules: str) -> str:
    return ", ".join(name for name in modules if importlib.util.find_spec(name) is None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose engine or kernel tools are not installed; what takes longest goes first."""
    missing = {"engine": _missing("llama_cpp"), "kernels": _missing("torch", "triton", "numba")}
    if not missing["kernels"] and shutil.which("bwrap") is None:
        missing["kernels"] = "bubblewrap"
    for item in items:
        for marker, what in missing.items():
            if what and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{what} is not installed"))

    def rank(item: pytest.Item) -> int:
        file = item.path.relative_to(config.rootpath)
        found = (n for n, where in enumerate(LONGEST) if file.is_relative_to(where))
        return next(found, len(LONGEST))

    if config.pluginmanager.hasplugin("dsession") or hasattr(config, "workerinput"):
        items.sort(key=rank)
