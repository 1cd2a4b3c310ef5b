"""`midspan bench tasks`: does what the model fills in work? The programs are run to find out.

Each task's gap is asked for as a code action would ask, the program is put together with its check
and run in a sandbox: no network, none of the user's files, bounds on time, memory and files. It
passes if it prints, after the check, a word that it cannot know before; an exit alone is no pass.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from backends.client import ManagerClient
from backends.errors import EngineMissing
from benchmarks.report import quantile, report, share
from benchmarks.task_list import TASKS, Task
from lsp_server.kernels import sandbox

LANGUAGES = ("python", "javascript", "cpp", "sql")
MAX_TOKENS = 128
WALL_S = 30.0  # of a run, compiling included
CPU_S = 20
FILE_BYTES = 64 * 2**20
MEMORY_BYTES = 4 * 2**30
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")
_BROKEN = ("SyntaxError", "IndentationError", "sqlite3.OperationalError", "error:")


class Outcome(StrEnum):
    """What became of a program."""

    PASSED = "passed"
    WRONG = "wrong"  # it ran, and its check failed
    BROKEN = "broken"  # it is no program of its language
    ENDLESS = "endless"  # it was still running


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a task, and what became of it. All times in milliseconds."""

    task: str
    language: str
    text: str
    outcome: Outcome
    first_ms: float  # to the first token, in the worker
    whole_ms: float  # at the client
    tokens: int
    predicted_ms: float  # in the worker, without the prompt


def program(task: Task, text: str, word: str) -> str:
    """Return the whole program with `text` in its gap; it says `word` once its check is passed."""
    code = task.prefix + text + task.suffix
    if task.language == "python":
        return f"{code}\n{task.check}\nprint({word!r})\n"
    if task.language == "javascript":
        head = 'const assert = require("node:assert/strict");\n'
        return f"{head}{code}\n{task.check}\nconsole.log({word!r});\n"
    if task.language == "cpp":
        main = f'int main() {{ {task.check}\nstd::puts("{word}"); }}'
        return f"#undef NDEBUG\n#include <cstdio>\n{code}\n{main}\n"
    setup, _, query = code.partition(";\n-- ")  # the tables end where the question is asked
    return (
        "import sqlite3\n"
        'connection = sqlite3.connect(":memory:")\n'
        f"connection.executescript({setup + ';'!r})\n"
        f"assert connection.execute({'-- ' + query!r}).fetchall() == {task.check}\n"
        f"print({word!r})\n"
    )


def command(language: str) -> tuple[list[str], tuple[str, ...]]:
    """Return what reads such a program on stdin and runs it, and the folders that takes.

    Raises EngineMissing.
    """
    if language in ("python", "sql"):
        python = Path(sys.base_prefix) / "bin" / "python3"
        return [str(python), "-I", "-"], (sys.base_prefix,)
    name = {"javascript": "node", "cpp": "g++"}[language]
    found = shutil.which(name)
    if found is None:
        raise EngineMissing(f"{name} is not installed; leave {language} out, or install it.")
    if language == "javascript":
        node = _node(found)
        return [str(node), "--max-old-space-size=512", "-"], (str(node.parent.parent),)
    build = f"{found} -std=c++17 -x c++ -o /tmp/program - && exec /tmp/program"
    return ["/bin/sh", "-c", build], ()


@cache
def _node(found: str) -> Path:
    """Return the program itself: a wheel's is started by a script."""
    line = [found, "-p", "process.execPath"]
    said = subprocess.run(line, capture_output=True, text=True, timeout=WALL_S, check=True)
    return Path(said.stdout.strip()).resolve()


def available() -> list[str]:
    """Return the languages whose programs can be run here."""
    found = []
    for language in LANGUAGES:
        try:
            command(language)
        except EngineMissing:
            continue
        found.append(language)
    return found


def grade(task: Task, text: str, bwrap: str) -> Outcome:
    """Run `task` with `text` in its gap, in the sandbox `bwrap`. Raises EngineMissing."""
    word = secrets.token_hex(16)
    run, folders = command(task.language)
    binds: list[str] = []
    for folder in dict.fromkeys((*_SYSTEM, *folders)):
        binds += ["--ro-bind-try", folder, folder]
    confined = [
        *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(FILE_BYTES), "--tmpfs", "/tmp"),  # noqa: S108
        *binds,
        *("--chdir", "/tmp", "--setenv", "PATH", "/usr/bin:/bin", "--", *run),  # noqa: S108
    ]
    try:
        done = subprocess.run(
            confined,
            input=program(task, text, word),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=WALL_S,
            check=False,
            preexec_fn=lambda: _limit(task.language),
        )
    except subprocess.TimeoutExpired:
        return Outcome.ENDLESS
    if done.stdout.strip().endswith(word):
        return Outcome.PASSED
    if done.returncode in (-24, 128 + 24):  # SIGXCPU
        return Outcome.ENDLESS
    return Outcome.BROKEN if any(sign in done.stderr for sign in _BROKEN) else Outcome.WRONG


def _limit(language: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))  # the first with SIGXCPU
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if language != "javascript":  # node reserves more than it takes, and has its own bound
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


async def ask(
    client: ManagerClient, task: Task, bwrap: str, *, model: str | None, seed: int | None
) -> tuple[Sample, str]:
    """Have one gap filled in and run it; return the sample and the model's name."""
    body: dict[str, object] = {
        "input_prefix": task.prefix,
        "input_suffix": task.suffix,
        "path": f"task.{task.language}",
        "n_predict": MAX_TOKENS,
        "limit_scope": True,
        "temperature": 0.0 if seed is None else 0.7,
    }
    body |= {} if seed is None else {"seed": seed}
    body |= {} if model is None else {"model": model}
    started = time.perf_counter()
    last = await client.infill(body)
    whole_ms, text = 1000 * (time.perf_counter() - started), last["content"]
    outcome = await asyncio.to_thread(grade, task, text, bwrap)
    usage, timings = last["usage"], last["timings"]
    sample = Sample(
        task.name,
        task.language,
        text,
        outcome,
        timings["queue_ms"] + timings["prompt_ms"],
        whole_ms,
        usage["completion_tokens"],
        timings["predicted_ms"],
    )
    return sample, last["model"]


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return pass@1, how the others failed, and the times of `samples`."""
    seconds = sum(sample.predicted_ms for sample in samples) / 1000
    tokens = sum(sample.tokens for sample in samples)
    counted = [sample.outcome for sample in samples]
    first = [sample.first_ms for sample in samples]
    return {
        "pass_at_1": share(counted.count(Outcome.PASSED), len(counted)),
        "outcomes": {outcome.value: counted.count(outcome) for outcome in Outcome},
        "first_token_ms": {
            "p50": round(quantile(first, 0.5), 1),
            "p95": round(quantile(first, 0.95), 1),
        },
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "completion_tokens": tokens,
    }


async def _samples(
    tasks: Iterable[Task], count: int, model: str | None, progress: Callable[[str], None]
) -> tuple[list[Sample], str]:
    bwrap = await sandbox.require()
    client = ManagerClient(client_name="midspan-bench")
    found, name = [], ""
    try:
        for task in tasks:
            progress(f"{task.language}: {task.name}")
            for number in range(count):
                seed = None if count == 1 else number
                sample, name = await ask(client, task, bwrap, model=model, seed=seed)
                found.append(sample)
    finally:
        await client.close()
    return found, name


def run(
    *,
    languages: Sequence[str] = (),
    samples: int = 1,
    model: str | None = None,
    details: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its JSON object.

    One sample is greedy; several are drawn at temperature 0.7 with seeds 0, 1 … `languages`: none
    for those that can be run here. Raises MidspanError where there is no sandbox or no model.
    """
    chosen = languages or available()
    tasks = [task for task in TASKS if task.language in chosen]
    found, name = asyncio.run(_samples(tasks, samples, model, progress))
    results: dict[str, Any] = {"model": name, "overall": summary(found)}
    for language in chosen:
        results[language] = summary([one for one in found if one.language == language])
    if details:
        results["samples"] = [asdict(sample) for sample in found]
    parameters = {
        "tasks": len(tasks),
        "languages": list(chosen),
        "left_out": [language for language in LANGUAGES if language not in chosen],
        "samples": samples,
        "max_tokens": MAX_TOKENS,
        "passes": "the program with the text in its gap runs and its check holds",
    }
    return report("tasks", parameters, results)
