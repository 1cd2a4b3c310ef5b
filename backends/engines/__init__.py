"""One adapter per inference runtime; each is the only file that imports its runtime.

Rule: a runtime is a row, and rows are looked up, never imported, until a worker loads a model.
Rows of other packages come through the entry points of the group `midspan.engines`, read when a
name is not ours or all are asked for; what is wrong with one is a line in `problems()`, and the
others work. See docs/adding-a-backend.md.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from backends.errors import Conflict, EngineMissing
from backends.frames import Load

if TYPE_CHECKING:  # it imports numpy, which the core is installed without
    from backends.decoding.token_model import TokenModel

logger = logging.getLogger(__name__)

GROUP = "midspan.engines"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")


@dataclass(frozen=True, slots=True)
class Engine:
    """A row of the registry. `module` has `load(Load) -> TokenModel` and imports `runtime`.

    One that `is_server` is no adapter but a program (`python -m module`) that the manager starts
    and speaks HTTP to.
    """

    name: str
    module: str
    runtime: str  # the import name of what it runs on
    distribution: str  # its name on the package index
    extra: str  # the extra of midspan that installs it; empty: the distribution does by itself
    suffixes: tuple[str, ...]  # the model files it runs (".gguf"), or formats of folders
    environment: tuple[tuple[str, str], ...] = ()  # set before its runtime is imported
    is_server: bool = False


# Threads that spin while they wait starve each other as soon as a compiler or an editor wants the
# cores: a 1 ms step then takes 100 to 400. Sleeping costs under 1 ms.
_SLEEPING_THREADS = ("OMP_WAIT_POLICY", "passive")
# ggml would have a debugger attach to a worker that aborts: seconds until the manager hears of it,
# and what is printed may hold text of documents.
_NO_BACKTRACE = ("GGML_NO_BACKTRACE", "1")
# No model is fetched by a runtime, and nothing is told to anybody.
_OFFLINE = (
    ("HF_HUB_OFFLINE", "1"),
    ("TRANSFORMERS_OFFLINE", "1"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
)

_OWN = (
    Engine(
        name="llama-cpp",
        module="backends.engines.llama_cpp",
        runtime="llama_cpp",
        distribution="llama-cpp-python",
        extra="llama-cpp",
        suffixes=(".gguf",),
        environment=(_SLEEPING_THREADS, _NO_BACKTRACE),
    ),
    Engine(
        name="llama-server",
        module="backends.engines.llama_server",
        runtime="xllamacpp",
        distribution="xllamacpp",
        extra="llama-server",
        suffixes=(".gguf",),
        environment=(_SLEEPING_THREADS, _NO_BACKTRACE),
        is_server=True,
    ),
    Engine(
        name="transformers",
        module="backends.engines.transformers",
        runtime="transformers",
        distribution="transformers",
        extra="transformers",
        suffixes=("safetensors",),
        environment=(_SLEEPING_THREADS, *_OFFLINE),
    ),
    Engine(
        name="mlx",
        module="backends.engines.mlx",
        runtime="mlx_lm",
        distribution="mlx-lm",
        extra="mlx",
        suffixes=("mlx", "safetensors"),
        environment=_OFFLINE,
    ),
)


class Registry(Mapping[str, Engine]):
    """The engines by name: ours first, then those that other packages registered."""

    def __init__(self, own: tuple[Engine, ...]) -> None:
        self._engines = {engine.name: engine for engine in own}
        self._own = frozenset(self._engines)
        self._problems: list[str] | None = None  # None: the entry points were not read yet

    def __getitem__(self, name: str) -> Engine:
        if name not in self._engines:
            self._discover()
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(tuple(self._engines))

    def __len__(self) -> int:
        self._discover()
        return len(self._engines)

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with registered engines, a sentence each."""
        return tuple(self._discover())

    def add(self, engine: Engine) -> None:
        """Add a row. Raises Conflict where its name is taken, or is none."""
        if not _NAME.fullmatch(engine.name):
            raise Conflict(f"{engine.name!r} can't name an engine: use a-z, 0-9 and -.")
        known = self._engines.get(engine.name)
        if known is not None and known != engine:
            whose = "midspan's own" if engine.name in self._own else known.distribution
            raise Conflict(f"The engine name {engine.name!r} is taken by {whose}.")
        self._engines[engine.name] = engine

    def _discover(self) -> list[str]:
        """Read the entry points, once; return what is wrong with them."""
        if self._problems is None:
            self._problems = []
            for point in sorted(metadata.entry_points(group=GROUP), key=_origin):
                try:
                    self.add(_row(point))
                # Anything can be wrong in somebody else's package; ours must go on without it.
                except Exception as exc:
                    problem = f"The engine {_origin(point)} can't be used: {exc}"
                    logger.warning("%s", problem)
                    self._problems.append(problem)
        return self._problems


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.name!r} of {point.dist.name if point.dist else 'an unknown package'}"


def _row(point: metadata.EntryPoint) -> Engine:
    row = point.load()
    if not isinstance(row, Engine):
        raise TypeError(f"{point.value} is a {type(row).__name__}, not a backends.engines.Engine")
    return row


ENGINES = Registry(_OWN)


def register(engine: Engine) -> None:
    """Add an engine to this process. Raises Conflict where its name is taken.

    Workers are processes of their own: an entry point makes an engine known to all of them.
    """
    ENGINES.add(engine)


def load(request: Load) -> TokenModel:
    """Load a model. Raises EngineMissing, ModelFileError, Unsupported or LoadFailed."""
    try:
        engine = ENGINES[request.engine]
    except KeyError:
        broken = "".join(f" {problem}" for problem in ENGINES.problems())
        raise EngineMissing(f"No engine is called {request.engine!r}.{broken}") from None
    for name, value in engine.environment:
        os.environ.setdefault(name, value)
    try:
        adapter = importlib.import_module(engine.module)
    except ImportError as exc:
        raise EngineMissing(missing(engine)) from exc
    model: TokenModel = adapter.load(request)
    return model


def missing(engine: Engine) -> str:
    """Return what to tell a user who lacks this engine."""
    package = f'"midspan[{engine.extra}]"' if engine.extra else engine.distribution
    return (
        f"{engine.distribution} is not installed: "
        f"pip install {package} to run {'/'.join(engine.suffixes)} models"
    )
