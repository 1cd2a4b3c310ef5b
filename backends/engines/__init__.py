"""One adapter per inference runtime; each is the only file that imports its runtime."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.errors import EngineMissing
from backends.frames import Load

if TYPE_CHECKING:  # it imports numpy, which the core is installed without
    from backends.decoding.token_model import TokenModel


@dataclass(frozen=True, slots=True)
class Engine:
    """A row of the registry. `module` has `load(Load) -> TokenModel` and imports `runtime`.

    One that `is_server` is no adapter but a program that the manager starts and speaks HTTP to.
    """

    name: str
    module: str
    runtime: str  # the import name of what it runs on
    distribution: str  # its name on the package index
    extra: str  # the extra of midspan that installs it
    suffixes: tuple[str, ...]  # the model files it runs
    environment: tuple[tuple[str, str], ...] = ()  # set before its runtime is imported
    is_server: bool = False


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="llama-cpp",
            module="backends.engines.llama_cpp",
            runtime="llama_cpp",
            distribution="llama-cpp-python",
            extra="llama-cpp",
            suffixes=(".gguf",),
            # Threads that spin while they wait starve each other as soon as a compiler or an
            # editor wants the cores: a 1 ms step then takes 100 to 400. Sleeping costs under 1 ms.
            environment=(("OMP_WAIT_POLICY", "passive"),),
        ),
        Engine(
            name="llama-server",
            module="backends.llama_server",
            runtime="xllamacpp",
            distribution="xllamacpp",
            extra="llama-server",
            suffixes=(".gguf",),
            environment=(("OMP_WAIT_POLICY", "passive"),),
            is_server=True,
        ),
    )
}


def load(request: Load) -> TokenModel:
    """Load a model. Raises EngineMissing, ModelFileError or LoadFailed."""
    engine = ENGINES[request.engine]
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
    return (
        f"{engine.distribution} is not installed: "
        f'pip install "midspan[{engine.extra}]" to run {"/".join(engine.suffixes)} models'
    )
