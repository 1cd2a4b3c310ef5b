"""What kernels are written with on this machine: the interpreter, its packages, the compilers.

Rule: asks, and remembers until the interpreter or its folders of packages change; nothing is
imported here and nothing generated is run. Must not know a kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from backends.errors import EngineMissing, MidspanError
from lsp_server.kernels.task import Language

PACKAGES = ("torch", "triton", "numpy", "numba", "llvmlite")
NEEDS = {
    Language.TRITON: ("torch", "triton", "numpy"),
    Language.C: ("torch", "numpy"),
    Language.NUMBA: ("torch", "numpy", "numba"),
    Language.CUDA: ("torch", "numpy"),
}
COMPILERS = {Language.C: "cc", Language.CUDA: "nvcc"}
_EXTRAS = {"numba": "midspan[kernels,numba]"}

_PROBE = """
import importlib.metadata, importlib.util, json, sys
found, folders = {}, {sys.prefix, sys.base_prefix, sys.exec_prefix}
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        continue
    folders.add(spec.origin.rsplit("/", 2)[0])
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = "unknown"
found["python"] = ".".join(map(str, sys.version_info[:3]))
print(json.dumps({"versions": found, "folders": sorted(folders), "searched": sys.path}))
"""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """An interpreter that can run kernels: its path, what to let it read, what is installed."""

    python: str
    folders: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]

    def missing(self, language: Language) -> tuple[str, ...]:
        """Name the packages that a kernel in `language` needs and that are not there."""
        installed = dict(self.versions)
        return tuple(name for name in NEEDS[language] if name not in installed)

    def check(self, language: Language) -> None:
        """Refuse with what to install when something is missing.

        Raises:
            EngineMissing: with the command.
        """
        absent = self.missing(language)
        if absent:
            extra = next((_EXTRAS[name] for name in absent if name in _EXTRAS), "midspan[kernels]")
            raise EngineMissing(
                f"{self.python} has no {' or '.join(absent)}, which {language} kernels need: "
                f'install them there with `python -m pip install "{extra}"`.'
            )


_known: dict[str, tuple[dict[str, int], Toolchain]] = {}  # by path, with what it depends on


async def find(python: str = "") -> Toolchain:
    """Ask an interpreter (this one, when none is named) what it has.

    Raises:
        MidspanError: it cannot be run.
    """
    path = _path(python or sys.executable)
    if path in _known:
        seen, chain = _known[path]
        if seen == _changes(seen):
            return chain
    chain, searched = await _ask(path)
    _known[path] = (_changes([path, *searched]), chain)
    return chain


def _path(python: str) -> str:
    path = shutil.which(python)
    if path is None:
        raise MidspanError(f"There is no Python at {python}.")
    return os.path.abspath(path)


def _changes(paths: Iterable[str]) -> dict[str, int]:
    """When each was changed last, in ns: a package that is installed changes its folder."""
    return {path: os.stat(path).st_mtime_ns if os.path.exists(path) else 0 for path in paths}


async def _ask(path: str) -> tuple[Toolchain, list[str]]:
    """What an interpreter has, and the folders in which it looks for it."""
    process = await asyncio.create_subprocess_exec(
        *(path, "-I", "-c", _PROBE, *PACKAGES),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        answer = json.loads(output)
    except (TimeoutError, ValueError) as error:
        raise MidspanError(f"{path} does not answer as a Python should.") from error
    finally:
        if process.returncode is None:
            process.kill()
    versions = tuple(sorted(answer["versions"].items()))
    return Toolchain(path, tuple(answer["folders"]), versions), answer["searched"]


async def compiler_version(language: Language) -> str | None:
    """First line that tells the version of the language's compiler; None where there is none."""
    path = shutil.which(COMPILERS[language])
    if path is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *(path, "--version"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    lines = output.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in lines if any(c.isdigit() for c in line)), "unknown")
