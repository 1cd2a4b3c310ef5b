from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from backends import __version__, errors
from lsp_server.cli import exits
from lsp_server.cli.app import COMMANDS, LazyGroup, cli, run_command
from lsp_server.cli.exits import Exit, exit_code

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

# What the language server must not import: an editor window waits for it, and there may be many.
HEAVY = ("click", "rich", "msgspec", "starlette", "uvicorn", "numpy", "llama_cpp", "gguf")


def test_lsp_imports_nothing_heavy(midspan_env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", "-m", "lsp_server.cli.main", "lsp"],
        env=midspan_env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "pygls" in imported, done.stderr
    assert imported.isdisjoint(HEAVY)


def test_lsp_help_is_a_page_and_no_server(midspan_env: dict[str, str], run_midspan: Run) -> None:
    done = run_midspan(["lsp", "--help"], midspan_env, timeout=30)
    assert done.returncode == Exit.OK
    assert "language server" in done.stdout


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from lsp_server.cli.main import main; main(['--help']);"
        "print([m for m in sys.modules if m.startswith('lsp_server.cli.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = done.stdout.splitlines()[-1]
    assert "lsp_server.cli.app" in loaded
    assert "lsp_server.cli.complete" not in loaded
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_its_line_is_its_own(name: str) -> None:
    assert isinstance(cli, LazyGroup)
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.name == name
    assert command.help


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == Exit.OK
    assert capsys.readouterr().out.split()[-1] == __version__


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["complete"], ["complete", "--no-such-option"], ["serve", "--log-level"]],
)
def test_wrong_usage_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_command(arguments) == Exit.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_wrong_usage_is_an_object_with_json(
    capsys: pytest.CaptureFixture[str], one_object: OneObject
) -> None:
    assert run_command(["models", "use", "--json"]) == Exit.USAGE
    assert one_object(capsys.readouterr().out)["error"]["kind"] == "usage"


def test_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backends.launcher.find", interrupted)
    assert run_command(["stop"]) == Exit.INTERRUPTED
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def _tree(root: type[errors.MidspanError]) -> list[type[errors.MidspanError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


@pytest.mark.parametrize(
    "error", [kind for kind in _tree(errors.MidspanError) if kind.__module__ == errors.__name__]
)
def test_every_error_class_has_its_own_row(error: type[errors.MidspanError]) -> None:
    rows = [kind for kind, _ in exits._ROWS if kind is not errors.MidspanError]
    assert error is errors.MidspanError or any(issubclass(error, kind) for kind in rows), (
        f"add {error.__name__} to the table in lsp_server/cli/exits.py"
    )
    assert exit_code(error("why")) is not Exit.OK


def test_stop_says_whether_a_manager_ran(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    assert one_object(run_midspan(["stop", "--json"], midspan_env).stdout)["stopped"] is False
    listed = run_midspan(["models", "list", "--json"], midspan_env)
    assert listed.returncode == Exit.OK, listed.stderr
    stopped = run_midspan(["stop", "--json"], midspan_env)
    assert one_object(stopped.stdout)["stopped"] is True
    assert run_midspan(["stop"], midspan_env).stdout == "No manager was running.\n"


def test_serve_runs_in_the_foreground_and_a_second_one_stands_back(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    started = run_midspan(["models", "list", "--json"], midspan_env)
    assert started.returncode == Exit.OK, started.stderr
    second = run_midspan(["serve"], midspan_env, timeout=60)
    assert second.returncode == Exit.FAILURE
    assert "already" in second.stderr
    assert one_object(run_midspan(["stop", "--json"], midspan_env).stdout)["stopped"] is True


def test_serve_logs_on_stderr_where_that_is_no_terminal_too(
    midspan_env: dict[str, str], run_midspan: Run
) -> None:
    arguments = ["serve", "--set", "manager.prot=1", "--set", "manager.idle_minutes=0.001"]
    done = run_midspan(arguments, midspan_env)  # it ends by itself: nobody asks it anything
    assert done.returncode == Exit.OK
    assert "listening on 127.0.0.1:" in done.stderr
    assert "unknown key 'prot'; did you mean 'port'?" in done.stderr


def test_serve_refuses_a_model_that_is_not_there(
    midspan_env: dict[str, str], run_midspan: Run
) -> None:
    done = run_midspan(["serve", "--model", "no-such"], midspan_env)
    assert done.returncode == Exit.FAILURE
    assert "No model is called 'no-such'" in done.stderr
