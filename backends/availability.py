"""Whether each backend can be used here, and what to do where it cannot.

Rule: "importable" says that a runtime is installed and no more; "loadable" that it was used, in a
process of its own, since native libraries crash and hang. A key is looked for and never shown.
Nothing is asked of an endpoint. Must not know how a backend is shown or chosen.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from backends import catalogue, engines
from backends.availability_probe import REMOTE
from backends.catalogue import Model
from backends.config import ModelSettings
from backends.engines import Engine
from backends.errors import MidspanError
from backends.hardware import CommandResult

logger = logging.getLogger(__name__)

PROBE_TIMEOUT: Final = 120.0  # seconds; a cold disk and a large library included
KEYRING_TIMEOUT: Final = 10.0  # seconds; it may wait for somebody to unlock it
AT_ONCE: Final = 2  # probes; each keeps a core busy

# What must be importable beside an engine's runtime.
_NEEDS: Final = {
    "llama-cpp": ("numpy",),
    "llama-server": ("openai", "httpx2"),
    "transformers": ("torch", "safetensors", "numpy"),
    "mlx": ("mlx", "numpy"),
    REMOTE: ("openai", "httpx2"),
}
_WITH_SAFE_MODE: Final = frozenset({"llama-cpp"})
_CRASHES: Final = "crashes"
REMOTE_ADVICE: Final = 'pip install "midspan[remote]" to use engines elsewhere'


@dataclass(frozen=True, slots=True)
class Extra:
    """A part of midspan that is no backend, installed as `midspan[name]`."""

    name: str
    purpose: str
    modules: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether all that it brings is there; nothing is imported."""
        return all(map(_is_there, self.modules))

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f'pip install "midspan[{self.name}]"'


EXTRAS: Final = (
    Extra("quantize", "8-bit weights with transformers on a CPU", ("torchao",)),
    Extra("keyring", "endpoints' keys from the system's keyring", ("keyring",)),
    Extra("kernels", "checking generated kernels", ("torch", "triton", "numpy")),
    Extra("numba", "kernels in Numba", ("numba",)),
)


@dataclass(frozen=True, slots=True)
class Availability:
    """What is known of one backend; None: it needs none, or nobody looked."""

    backend: str
    importable: bool
    file: bool | None = None  # the model's file is there and whole
    key: bool | None = None  # the endpoint's key is where the settings say
    loadable: bool | None = None  # it was loaded and computed something
    reason: str = ""  # what is wrong and what to do; empty where all is well
    version: str = ""
    detail: str = ""  # what it can do, as it said itself
    model: str = ""  # the model that was asked about

    @property
    def ok(self) -> bool:
        """Whether it can be used, as far as anybody looked."""
        return self.importable and False not in (self.file, self.key, self.loadable)


# A probe takes an engine's name and whether it is to run in safe mode.
Probe = Callable[[str, bool], CommandResult]


def check_all(
    *, probe: Probe | None = None, safe_modes: frozenset[str] = frozenset()
) -> list[Availability]:
    """Return the state of every engine and of remote ones; uses each once. Takes seconds.

    `safe_modes`: engines that crashed here without it.
    """
    names = [*engines.ENGINES, REMOTE]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda name: check(name, probe=probe, safe=name in safe_modes), names))


def check(name: str, *, probe: Probe | None = None, safe: bool = False) -> Availability:
    """Return the state of the engine `name`, or of "remote", with no model in mind.

    One that crashes is tried again in `safe` mode, as the manager does.
    """
    found = installed(name)
    if not found.importable:
        return found
    result = (probe or run_probe)(name, safe)
    if result.problem.startswith(_CRASHES) and name in _WITH_SAFE_MODE and not safe:
        safe = True
        result = (probe or run_probe)(name, safe)
    return _loaded(found, result, safe=safe)


def installed(name: str, *, own_program: bool = False) -> Availability:
    """Return whether what `name` needs is installed, importing nothing.

    `own_program`: the user has a program of their own in place of the engine's runtime.
    """
    engine = None if name == REMOTE else engines.ENGINES[name]
    runtime = () if engine is None or own_program else (engine.runtime,)
    lacking = [module for module in (*runtime, *_NEEDS.get(name, ())) if not _is_there(module)]
    if not lacking:
        return Availability(name, importable=True)
    if engine is None:
        advice = REMOTE_ADVICE
    elif engine.runtime in lacking:
        return Availability(name, importable=False, reason=f"{engines.missing(engine)}.")
    else:
        advice = f"{_install(engine)} brings it"
    verb = "is" if len(lacking) == 1 else "are"
    reason = f"{' and '.join(lacking)} {verb} not installed: {advice}."
    return Availability(name, importable=False, reason=reason)


def check_model(model: Model, environment: Mapping[str, str] = os.environ) -> Availability:
    """Return whether what serves `model` is there, with its file or key. Loads nothing."""
    if model.is_remote:
        found = replace(installed(REMOTE), model=model.name)
        return _with_key(found, model.settings, environment)
    name, problem = "", ""
    try:
        name = catalogue.engine_for(model).name
        catalogue.read_header(model.path)
    except MidspanError as exc:
        problem = str(exc)
    binary = model.settings.binary
    found = (
        installed(name, own_program=bool(binary)) if name else Availability("none", importable=True)
    )
    problems = [problem, found.reason]
    if binary and name and engines.ENGINES[name].is_server:
        problems.append(_program_problem(Path(binary).expanduser()))
    return replace(
        found,
        model=model.name,
        file=not problem,
        importable=found.importable and not "".join(problems[2:]),
        reason=" ".join(filter(None, problems)),
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # half of it is there
        return False


def _install(engine: Engine) -> str:
    package = f'"midspan[{engine.extra}]"' if engine.extra else engine.distribution
    return f"pip install {package}"


def _program_problem(path: Path) -> str:
    if not path.is_file():
        return f"binary = {path}: there is no such file."
    return "" if os.access(path, os.X_OK) else f"binary = {path}: it cannot be run (chmod +x it)."


def _with_key(
    found: Availability, settings: ModelSettings, environment: Mapping[str, str]
) -> Availability:
    """Add whether the key is where the settings say. The key itself goes no further."""
    from backends.remote import keys
    from backends.remote.profiles import PROFILES

    row = PROFILES.get(settings.profile)
    # A key in a well-known variable is for that one provider alone.
    theirs = row is not None and settings.endpoint.rstrip("/") in ("", row.endpoint.rstrip("/"))
    default = row.key_env if row is not None and theirs else ""
    pool = ThreadPoolExecutor(1)
    try:
        looking = pool.submit(keys.find, settings, default, environment)
        has_key = bool(looking.result(KEYRING_TIMEOUT).value)
        problem = ""
    except FutureTimeout:
        has_key, problem = False, "The system's keyring does not answer: unlock it."
    except MidspanError as exc:
        has_key, problem = False, str(exc)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    named = settings.api_key_env or settings.api_key_file or settings.api_key_keyring
    if not named and row is not None and row.hosted and not has_key:
        problem = f"{row.title} wants a key: set {default or 'api_key_env'}, or api_key_file."
    key = has_key if named or problem or has_key else None
    return replace(found, key=key, reason=" ".join(filter(None, (found.reason, problem))))


# -- using it once ------------------------------------------------------------------------------


def run_probe(name: str, safe: bool = False, timeout: float = PROBE_TIMEOUT) -> CommandResult:
    """Use the runtime of `name` in a process of its own; return its JSON, or what became of it."""
    command = [sys.executable, "-P", "-m", "backends.availability_probe", name]
    return run_command([*command, "safe"] if safe else command, timeout)


def run_command(command: Sequence[str], timeout: float) -> CommandResult:
    """Return what a probing process wrote, or how it ended."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return CommandResult(problem=f"does not answer within {timeout:g} s")
    except OSError as exc:
        return CommandResult(problem=f"cannot be started: {exc.strerror}")
    if done.returncode < 0:
        return CommandResult(problem=f"{_CRASHES} ({_signal(-done.returncode)})")
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return CommandResult(problem=f"fails: {last[-1] if last else done.returncode}")
    return CommandResult(done.stdout.decode("utf-8", "replace"))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _loaded(found: Availability, result: CommandResult, *, safe: bool) -> Availability:
    """Make of a probe's result whether the engine can be used."""
    name = found.backend
    if result.problem.startswith(_CRASHES):
        also = ", in safe mode too" if safe else ""
        reason = f"{name} {result.problem} here{also}. {_reinstall(name)}"
        return replace(found, loadable=False, reason=reason)
    if result.problem:
        return replace(found, loadable=False, reason=f"{name} {result.problem} when it is used.")
    try:
        answer = json.loads(result.output)
        error = str(answer.get("error", ""))
    except (ValueError, AttributeError):
        return replace(found, loadable=False, reason=f"{name} says what cannot be read.")
    if error:
        advice = _reinstall(name)
        return replace(found, loadable=False, reason=f"{name} is broken: {error}. {advice}")
    mode = ", in safe mode" if safe else ""
    return replace(
        found,
        loadable=True,
        version=str(answer.get("version", "")),
        detail=str(answer.get("detail", "")) + mode,
    )


def _reinstall(name: str) -> str:
    if name == REMOTE:
        return 'Reinstall it: pip install --force-reinstall "midspan[remote]".'
    engine = engines.ENGINES[name]
    return f"Reinstall it: pip install --force-reinstall --no-cache-dir {engine.distribution}."
