"""`midspan doctor`: checks what completions need, and says what to do where something is wrong.

Rule: each check is one function that returns a `Check` and raises nothing; they run in the order
of the table, cheapest first. Must not know how anything is repaired: it only says it.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from backends import catalogue, config, engines, launcher, paths
from backends.errors import MidspanError
from backends.remembered import Remembered
from lsp_server.cli.exits import Exit
from lsp_server.cli.output import json_option, print_json

MIN_PYTHON = (3, 11)
LOW_MEMORY_GIB = 1.0
CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "amx_tile", "amx_int8", "asimddp")
CGROUPS = Path("/sys/fs/cgroup")


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"  # works, but not as well as it could
    FAIL = "fail"  # no completions until this is put right


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check; `advice` says what to do unless all is well."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def check_python() -> Check:
    """Python's version."""
    detail = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Check("Python", Status.FAIL, detail, f"Install midspan with Python {wanted}.")
    return Check("Python", Status.OK, detail)


def check_processor() -> Check:
    """Cores this process may use and the instructions that speed matters on."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    flags = _processor_flags()
    features = [name for name in CPU_FEATURES if name in flags]
    detail = f"{cores} cores, {platform.machine()}, {' '.join(features) or 'features unknown'}"
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return Check("Processor", Status.WARN, detail, "Without AVX2 completions are slow.")
    return Check("Processor", Status.OK, detail)


def _processor_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    except OSError:
        pass  # no Linux
    return set()


def check_memory() -> Check:
    """Memory left, a container's limit included."""
    import psutil

    left = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    where = ""
    if limit is not None and used is not None and limit - used < left:
        left, where = limit - used, f", of this container's {limit / 2**30:.1f}"
    detail = f"{left / 2**30:.1f} GiB free{where}"
    if left < LOW_MEMORY_GIB * 2**30:
        return Check("Memory", Status.WARN, detail, "Use a small model, or close something.")
    return Check("Memory", Status.OK, detail)


def _cgroup(name: str) -> int | None:
    try:
        return int((CGROUPS / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def check_engines() -> Check:
    """Which inference engines are installed."""
    found = [
        f"{engine.distribution} {importlib.metadata.version(engine.distribution)}"
        for engine in engines.ENGINES.values()
        if importlib.util.find_spec(engine.runtime) is not None
    ]
    if found:
        return Check("Engines", Status.OK, ", ".join(found))
    advice = " ".join(f"{engines.missing(engine)}." for engine in engines.ENGINES.values())
    return Check("Engines", Status.FAIL, "none installed", advice)


def check_safe_mode() -> Check:
    """Whether an engine crashed here before and runs in safe mode since."""
    remembered = Remembered(paths.state_dir())
    for name in engines.ENGINES:
        machine = catalogue.build_and_processor(name)
        if remembered.needs_safe_mode(machine):
            return Check(
                "Safe mode",
                Status.OK,
                f"on: without it, {machine} crashed while a model was warmed up",
                "Nothing to do; weights are not repacked, which costs some speed. "
                "An engine built by a newer compiler may not need it.",
            )
    return Check("Safe mode", Status.OK, "off: no engine has crashed here")


def check_starter() -> Check:
    """Whether the starter model is there and whole."""
    settings, _ = config.load(paths.config_file())
    model = catalogue.Catalogue(settings, Remembered(paths.state_dir())).get(catalogue.STARTER)
    facts = catalogue.facts(model)
    if not facts.size_bytes:
        advice = "Reinstall midspan, or add a model of yours: midspan models add FILE.gguf."
        return Check("Starter model", Status.FAIL, facts.problem, advice)
    return Check("Starter model", Status.OK, f"{model.path}, {facts.size_bytes / 2**20:.0f} MiB")


def check_folders() -> Check:
    """Whether the runtime and state folders can be written."""
    runtime, state = paths.runtime_dir(), paths.state_dir()
    detail = f"{runtime} and {state}"
    if state.is_relative_to(runtime):
        advice = "What is remembered is lost at the next start: make the state folder writable."
        return Check("Folders", Status.WARN, detail, advice)
    return Check("Folders", Status.OK, detail)


def check_configuration() -> Check:
    """Whether the configuration is understood."""
    file = paths.config_file()
    _, problems = config.load(file)
    if problems:
        detail = "; ".join(map(str, problems))
        return Check("Configuration", Status.WARN, detail, "Correct it; the defaults stay.")
    return Check("Configuration", Status.OK, f"{file}{'' if file.exists() else ' (none)'}")


def check_manager() -> Check:
    """Whether the backend manager runs or can be started."""
    running = launcher.find() is not None
    endpoint = launcher.ensure()
    how = "running" if running else "started"
    detail = f"{how}, process {endpoint.pid}, {endpoint.host}:{endpoint.port}, {endpoint.version}"
    return Check("Manager", Status.OK, detail)


def check_completion() -> Check:
    """Whether a completion comes back."""
    started = time.perf_counter()
    answer = asyncio.run(_complete())
    ms = 1000 * (time.perf_counter() - started)
    tokens = answer["usage"]["completion_tokens"]
    return Check("Completion", Status.OK, f"{answer['model']}: {tokens} tokens in {ms:.0f} ms")


async def _complete() -> dict[str, Any]:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-doctor")
    try:
        return await client.infill(
            {
                "input_prefix": "def add(a, b):\n    return ",
                "input_suffix": "\n",
                "n_predict": 8,
                "temperature": 0.0,
            }
        )
    finally:
        await client.close()


# (name for a check that fails unexpectedly, the check, what to do then)
CHECKS: tuple[tuple[str, Callable[[], Check], str], ...] = (
    ("Python", check_python, ""),
    ("Processor", check_processor, ""),
    ("Memory", check_memory, ""),
    ("Engines", check_engines, ""),
    ("Folders", check_folders, "Make them writable, or set MIDSPAN_RUNTIME_DIR."),
    ("Configuration", check_configuration, ""),
    ("Safe mode", check_safe_mode, ""),
    ("Starter model", check_starter, ""),
    ("Manager", check_manager, "Look at manager.log in the state folder, or run midspan serve."),
    ("Completion", check_completion, "See the checks above, and midspan models list."),
)


def run_checks(checks: tuple[tuple[str, Callable[[], Check], str], ...] = CHECKS) -> list[Check]:
    """Run every check; one that raises has failed."""
    results = []
    for name, check, advice in checks:
        try:
            results.append(check())
        except (MidspanError, OSError) as error:
            results.append(Check(name, Status.FAIL, str(error), advice))
    return results


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check everything a completion needs; exit code 1 if something must be put right."""
    results = run_checks()
    ok = all(check.status is not Status.FAIL for check in results)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in results]})
    else:
        for check in results:
            mark = click.style(f"{check.status:4}", fg=_COLOURS[check.status])
            click.echo(f"{mark}  {check.name:14} {check.detail}")
            if check.advice:
                click.echo(f"{'':20} {check.advice}")
    return Exit.OK if ok else Exit.FAILURE


_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
