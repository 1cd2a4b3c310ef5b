from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks import tasks
from benchmarks.task_list import TASKS, Task
from benchmarks.tasks import LANGUAGES, Outcome
from lsp_server.kernels import sandbox

Run = Callable[..., CompletedProcess[str]]
OneObject = Callable[[str], dict[str, Any]]

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
HERE = [task for task in TASKS if task.language in tasks.available()]


@pytest.fixture(scope="module")
def bwrap() -> str:
    return asyncio.run(sandbox.require())


def test_there_are_tasks_of_every_language() -> None:
    counts = Counter(task.language for task in TASKS)
    assert len(TASKS) >= 15
    assert set(counts) == set(LANGUAGES)
    assert min(counts.values()) >= 3
    assert len({task.name for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", HERE, ids=lambda task: task.name)
def test_the_reference_passes_and_mutants_fail(task: Task, bwrap: str) -> None:
    assert tasks.grade(task, task.reference, bwrap) is Outcome.PASSED
    for mutant in task.mutants:
        assert tasks.grade(task, mutant, bwrap) is not Outcome.PASSED, mutant


def _python(text: str, bwrap: str) -> Outcome:
    return tasks.grade(Task("", "python", "", "", "\n", "assert False", ()), text, bwrap)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("def (", Outcome.BROKEN),
        ("x = 1", Outcome.WRONG),
        ("import os; os._exit(0)", Outcome.WRONG),  # ending well is no pass
        ("raise SystemExit", Outcome.WRONG),
    ],
)
def test_what_does_not_pass_is_told_apart(text: str, outcome: Outcome, bwrap: str) -> None:
    assert _python(text, bwrap) is outcome


def test_an_endless_program_is_ended(bwrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CPU_S", 1)
    assert _python("while True: pass", bwrap) is Outcome.ENDLESS


def test_programs_see_no_network_and_none_of_the_users_files(bwrap: str, tmp_path: Path) -> None:
    assert tmp_path.exists()
    check = (
        "import os, socket\n"
        f"assert not os.path.exists({str(tmp_path)!r}) and not os.path.exists('/home')\n"
        "assert 'MIDSPAN_CONFIG' not in os.environ\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', 9), 2)\n"
        "except OSError as error:\n"
        "    assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
    )
    task = Task("", "python", "", "", "\n", check, ())
    assert tasks.grade(task, "x = 1", bwrap) is Outcome.PASSED


@pytest.mark.engine
def test_the_report_is_of_what_was_run(
    midspan_env: dict[str, str], run_midspan: Run, one_object: OneObject
) -> None:
    done = run_midspan(["bench", "tasks", "--language", "sql", "--details", "--json"], midspan_env)
    assert done.returncode == 0, done.stderr
    answer = one_object(done.stdout)
    results = answer["results"]
    assert answer["parameters"]["tasks"] == sum(task.language == "sql" for task in TASKS)
    assert results["model"] == "starter"
    passed = sum(sample["outcome"] == "passed" for sample in results["samples"])
    assert results["overall"]["pass_at_1"]["count"] == passed
    assert sum(results["sql"]["outcomes"].values()) == len(results["samples"])
    assert results["overall"]["first_token_ms"]["p50"] > 0
