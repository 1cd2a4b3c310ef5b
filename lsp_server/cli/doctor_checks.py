"""The checks of `midspan doctor`: what completions need, and what to do where something is wrong.

Rule: each check is one function that returns a `Check` and changes nothing; `run` turns what one
raises into a failed check. They run in the table's order, cheapest first. Must not know how
anything is repaired: it only says it.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from backends import availability, catalogue, config, engines, hardware, launcher, memory, paths
from backends.availability import Availability
from backends.availability_probe import REMOTE
from backends.catalogue import Catalogue, Source
from backends.errors import MidspanError
from backends.hardware import Hardware
from backends.remembered import Remembered
from lsp_server import user_config

MIN_PYTHON = (3, 11)
LOW_MEMORY_GIB = 1.0
INSTALL_ONE = (
    'Install one that runs models here: pip install "midspan[llama-cpp]", or, where there is no '
    'compiler, pip install "midspan[llama-server]".'
)


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


class Installation:
    """What several checks look at, each looked up once and only when it is wanted."""

    def __init__(self, *, use_engines: bool = True) -> None:
        """Take whether engines are used once, which takes seconds, or only looked for."""
        self._use_engines = use_engines

    @cached_property
    def hardware(self) -> Hardware:
        """What there is to compute with."""
        return hardware.detect()

    @cached_property
    def remembered(self) -> Remembered:
        """What earlier managers remembered."""
        return Remembered(paths.state_dir())

    @cached_property
    def configuration(self) -> tuple[config.Settings, list[config.Problem]]:
        """The settings, and what is wrong with them."""
        return config.load(paths.config_file())

    @cached_property
    def catalogue(self) -> Catalogue:
        """The models there are."""
        return Catalogue(self.configuration[0], self.remembered)

    @cached_property
    def safe_modes(self) -> dict[str, str]:
        """Engines that crashed here before, each with its build and processor."""
        machines = {name: catalogue.build_and_processor(name) for name in engines.ENGINES}
        return {
            n: machine
            for n, machine in machines.items()
            if self.remembered.needs_safe_mode(machine)
        }

    @cached_property
    def backends(self) -> list[Availability]:
        """The state of every engine, and of remote ones."""
        if self._use_engines:
            return availability.check_all(safe_modes=frozenset(self.safe_modes))
        return [availability.installed(name) for name in (*engines.ENGINES, REMOTE)]

    @cached_property
    def models(self) -> list[Availability]:
        """The state of what serves each model that the user named."""
        named = (Source.CONFIG, Source.ADDED)
        models = (m for m in self.catalogue.models().values() if m.source in named)
        return [availability.check_model(model) for model in models]

    @cached_property
    def manager(self) -> dict[str, Any]:
        """The manager's process and its models' states; starts it if need be."""
        was_running = launcher.find() is not None
        endpoint = launcher.ensure()
        return {
            "was_running": was_running,
            "pid": endpoint.pid,
            "address": f"{endpoint.host}:{endpoint.port}",
            "version": endpoint.version,
            **asyncio.run(_ask("/api/models/status")),
        }


def python(installation: Installation) -> Check:
    """Python's version."""
    detail = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Check("Python", Status.FAIL, detail, f"Install midspan with Python {wanted}.")
    return Check("Python", Status.OK, detail)


def processor(installation: Installation) -> Check:
    """Cores this process may use and the instructions that speed matters on."""
    found = installation.hardware
    features = " ".join(found.features) or "features unknown"
    detail = f"{found.processor}, {platform.machine()}, {features}; {found.cores_reason}"
    if (
        platform.machine() in ("x86_64", "AMD64")
        and found.features
        and "avx2" not in found.features
    ):
        return Check("Processor", Status.WARN, detail, "Without AVX2 completions are slow.")
    return Check("Processor", Status.OK, detail)


def device(installation: Installation) -> Check:
    """What models compute on, and why."""
    chosen, why = hardware.choose(installation.hardware, hardware.wished_device(""))
    free = f", {chosen.free_bytes / 2**30:.1f} GiB free" if chosen.free_bytes else ""
    what = f"{chosen.name} ({chosen.reason}{free})" if chosen.name != "cpu" else chosen.name
    return Check("Device", Status.OK, f"{what}: {why}" if why else what)


def memory_left(installation: Installation) -> Check:
    """Memory left, a container's limit included."""
    found = installation.hardware
    detail = f"{found.memory_available / 2**30:.1f} GiB free of {found.memory_total / 2**30:.1f}"
    limit = memory.cgroup_available()
    if limit is not None and limit <= found.memory_available:
        detail = f"{found.memory_available / 2**30:.1f} GiB free below the container's limit"
    if found.memory_available < LOW_MEMORY_GIB * 2**30:
        return Check("Memory", Status.WARN, detail, "Use a small model, or close something.")
    return Check("Memory", Status.OK, detail)


def usable_engines(installation: Installation) -> Check:
    """Which engines can be used; one that runs local models is enough."""
    usable = [one for one in installation.backends if one.ok]
    broken = [one for one in installation.backends if one.importable and not one.ok]
    detail = ", ".join(one.backend for one in usable) or "none can be used"
    advice = " ".join(one.reason for one in broken)
    if all(one.backend == REMOTE for one in usable):
        return Check("Engines", Status.FAIL, detail, advice or INSTALL_ONE)
    return Check("Engines", Status.WARN if broken else Status.OK, detail, advice)


def extras(installation: Installation) -> Check:
    """Which optional parts are not installed; completions need none of them."""
    missing = [extra for extra in availability.EXTRAS if not extra.installed]
    if not missing:
        return Check("Extras", Status.OK, "all installed")
    advice = "; ".join(f"{extra.install} for {extra.purpose}" for extra in missing)
    names = ", ".join(extra.name for extra in missing)
    return Check("Extras", Status.OK, f"not installed: {names}", f"If wanted: {advice}.")


def folders(installation: Installation) -> Check:
    """Whether the runtime and state folders can be written."""
    runtime, state = paths.runtime_dir(), paths.state_dir()
    detail = f"{runtime} and {state}"
    if state.is_relative_to(runtime):
        advice = "What is remembered is lost at the next start: make the state folder writable."
        return Check("Folders", Status.WARN, detail, advice)
    return Check("Folders", Status.OK, detail)


def cache(installation: Installation) -> Check:
    """The folder of what models had evaluated, and how full it is."""
    taken, most = cache_bytes(), installation.configuration[0].manager.disk_snapshot_mb
    detail = f"{paths.cells_dir()}, {taken / 2**20:.0f} MiB of {most} at most"
    if most == 0:
        detail = "off: disk_snapshot_mb is 0"
    return Check("Cache", Status.OK, detail)


def cache_bytes() -> int:
    """Return the bytes that saved cells take on disk. Raises ManagerUnavailable, OSError."""
    return sum(file.stat().st_size for file in paths.cells_dir().iterdir() if file.is_file())


def configuration(installation: Installation) -> Check:
    """Whether the configuration is understood."""
    file = user_config.used()
    problems = user_config.read().problems  # the language server's table included
    if problems:
        detail = "; ".join(map(str, problems))
        return Check("Configuration", Status.WARN, detail, "Correct it; the defaults stay.")
    return Check("Configuration", Status.OK, f"{file}{'' if file.exists() else ' (none)'}")


def named_models(installation: Installation) -> Check:
    """Whether what serves the user's own models is there, with its file or key."""
    bad = [one for one in installation.models if not one.ok]
    if bad:
        advice = " ".join(f"{one.model}: {one.reason}" for one in bad)
        names = ", ".join(one.model for one in bad)
        return Check("Models", Status.WARN, f"cannot be used: {names}", advice)
    return Check(
        "Models", Status.OK, ", ".join(m.model for m in installation.models) or "none added"
    )


def safe_mode(installation: Installation) -> Check:
    """Whether an engine crashed here before and runs in safe mode since."""
    for machine in installation.safe_modes.values():
        return Check(
            "Safe mode",
            Status.OK,
            f"on: without it, {machine} crashed while a model was warmed up",
            "Nothing to do; weights are not repacked, which costs some speed. "
            "An engine built by a newer compiler may not need it.",
        )
    return Check("Safe mode", Status.OK, "off: no engine has crashed here")


def starter_model(installation: Installation) -> Check:
    """Whether the starter model is there and whole."""
    model = installation.catalogue.get(catalogue.STARTER)
    facts = catalogue.facts(model)
    if not facts.size_bytes:
        advice = "Reinstall midspan, or add a model of yours: midspan models add FILE.gguf."
        return Check("Starter model", Status.FAIL, facts.problem, advice)
    return Check("Starter model", Status.OK, f"{model.path}, {facts.size_bytes / 2**20:.0f} MiB")


def manager(installation: Installation) -> Check:
    """Whether the backend manager runs or can be started."""
    found = installation.manager
    how = "running" if found["was_running"] else "started"
    detail = f"{how}, process {found['pid']}, {found['address']}, {found['version']}"
    failed = [m for m in found["models"] if m["state"] == "failed"]
    if failed:
        advice = "; ".join(f"{m['name']}: {m['reason']}" for m in failed)
        return Check("Manager", Status.WARN, detail, advice)
    return Check("Manager", Status.OK, detail)


def completion(installation: Installation) -> Check:
    """Whether a completion comes back."""
    started = time.perf_counter()
    answer = asyncio.run(_complete())
    ms = 1000 * (time.perf_counter() - started)
    tokens = answer["usage"]["completion_tokens"]
    return Check("Completion", Status.OK, f"{answer['model']}: {tokens} tokens in {ms:.0f} ms")


async def _ask(path: str) -> dict[str, Any]:
    from backends.client import ManagerClient

    client = ManagerClient(client_name="midspan-doctor")
    try:
        return await client.get(path)
    finally:
        await client.close()


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


Row = tuple[str, Callable[[Installation], Check], str]

# (name for a check that fails unexpectedly, the check, what to do then)
CHECKS: tuple[Row, ...] = (
    ("Python", python, ""),
    ("Processor", processor, ""),
    ("Device", device, f"Correct {hardware.OVERRIDE}, or unset it."),
    ("Memory", memory_left, ""),
    ("Engines", usable_engines, ""),
    ("Extras", extras, ""),
    ("Folders", folders, "Make them writable, or set MIDSPAN_RUNTIME_DIR."),
    ("Cache", cache, "Give midspan a folder of its own, or set disk_snapshot_mb to 0."),
    ("Configuration", configuration, ""),
    ("Models", named_models, ""),
    ("Safe mode", safe_mode, ""),
    ("Starter model", starter_model, ""),
    ("Manager", manager, "Look at manager.log in the state folder, or run midspan serve."),
    ("Completion", completion, "See the checks above, and midspan models list."),
)


def run(installation: Installation, checks: tuple[Row, ...] = CHECKS) -> list[Check]:
    """Run every check; one that raises has failed."""
    results = []
    for name, check, advice in checks:
        try:
            results.append(check(installation))
        except (MidspanError, OSError) as error:
            results.append(Check(name, Status.FAIL, str(error), advice))
    return results
