"""Which models there are, and what can be said of each without loading it.

Rule: names and paths from outside pass `check_name` and `check_file`, and nothing else decides
what a model is called. Sources, first wins: the configuration, what the user added, the models
folder, the starter model. Must not know workers or HTTP.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from backends import engines, gguf_header, paths, starter
from backends.config import ModelSettings, Settings
from backends.engines import Engine
from backends.errors import BadRequest, Conflict, EngineMissing, ModelFileError, UnknownModel
from backends.frames import Load
from backends.gguf_header import GGUFHeader
from backends.remembered import Remembered
from fim import templates

STARTER = "starter"
SAMPLES = 16
SAMPLE_BYTES = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}")


class Source(StrEnum):
    """Where a model comes from."""

    CONFIG = "config"  # [models.NAME] in config.toml
    ADDED = "added"  # by the user, through the manager
    FOLDER = "folder"  # found in the models folder
    STARTER = "starter"  # in the package


@dataclass(frozen=True, slots=True)
class Model:
    """A model the manager could load."""

    name: str
    path: Path
    source: Source
    settings: ModelSettings


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model's file. `problem` says why it cannot be used, if it cannot."""

    size_bytes: int = 0
    engine: str = ""
    architecture: str = ""
    family: str = ""
    context_length: int = 0
    fim: bool = False
    no_fim_reason: str = ""
    problem: str = ""


class Catalogue:
    """The models of all sources."""

    def __init__(self, settings: Settings, remembered: Remembered) -> None:
        self._settings = settings
        self._remembered = remembered

    def models(self) -> dict[str, Model]:
        """Return all models by name, as of now."""
        found: dict[str, Model] = {}
        for model in self._all():
            found.setdefault(model.name, model)
        return found

    def get(self, name: str) -> Model:
        """Return the model called `name`. Raises UnknownModel."""
        models = self.models()
        if name not in models:
            raise UnknownModel(f"No model is called {name!r}; there are {', '.join(models)}.")
        return models[name]

    def default(self) -> str:
        """Return the model that serves when nothing was selected in this run.

        The last selection, unless the configuration's wish has changed since.
        """
        wish = self._settings.completion.model
        models = self.models()
        selection = self._remembered.selection
        if selection is not None and selection.configured == wish and selection.model in models:
            return selection.model
        return wish or STARTER

    def add(self, path: str, name: str | None) -> Model:
        """Check a file and keep it as a model, called after the file unless `name` says else.

        Raises ModelFileError, BadRequest for the name, Conflict where it is taken.
        """
        file = check_file(path)
        chosen = check_name(name if name is not None else _name_of(file))
        taken = self.models().get(chosen)
        if taken is not None and taken.path != file:
            raise Conflict(f"{chosen!r} is already the name of {taken.path}; give another name.")
        if taken is None:
            self._remembered.add_model(chosen, file)
        return self.get(chosen)

    def remove(self, name: str) -> None:
        """Forget a model the user added; its file stays. Raises UnknownModel, Conflict."""
        model = self.get(name)
        if model.source is not Source.ADDED:
            raise Conflict(f"{name!r} was not added: it comes from the {model.source}.")
        self._remembered.remove_model(name)

    def _all(self) -> Iterator[Model]:
        for name, settings in self._settings.models.items():
            path = Path(settings.path).expanduser()
            yield Model(name, path, Source.CONFIG, settings)
        for name, added in self._remembered.models.items():
            yield Model(name, Path(added), Source.ADDED, ModelSettings())
        folder = paths.models_dir()
        if folder.is_dir():
            for file in sorted(folder.glob("*.gguf")):
                yield Model(_name_of(file), file, Source.FOLDER, ModelSettings())
        yield Model(STARTER, starter.path(), Source.STARTER, ModelSettings())


def check_name(name: str) -> str:
    """Return `name` if it may name a model. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot name a model: letters, digits and . _ : + - are allowed, 100 at most."
        )
    return name


def check_file(path: str) -> Path:
    """Return the real path of a model file that can be trusted to native code.

    Raises ModelFileError.
    """
    if "\0" in path or not Path(path).expanduser().is_absolute():
        raise ModelFileError(f"{path!r} is not an absolute path.")
    file = Path(path).expanduser().resolve()
    engine_for(file)
    read_header(file)
    return file


def engine_for(path: Path) -> Engine:
    """Return the engine that runs files like `path`. Raises ModelFileError."""
    for engine in engines.ENGINES.values():
        if path.suffix.lower() in engine.suffixes:
            return engine
    known = " ".join(s for engine in engines.ENGINES.values() for s in engine.suffixes)
    raise ModelFileError(f"{path} has no engine: files ending in {known} are supported.")


def read_header(path: Path) -> GGUFHeader:
    """Return the header of a file that holds a whole model. Raises ModelFileError."""
    header = _read_header(path, identity(path))
    if header.tensor_count == 0:
        raise ModelFileError(f"{path} holds a vocabulary and no weights.")
    return header


def load_message(model: Model, *, safe_mode: bool) -> Load:
    """Return the message that makes a worker load `model`, after checking all that can be.

    Raises ModelFileError, EngineMissing.
    """
    engine = engine_for(model.path)
    read_header(model.path)
    if not is_installed(engine):
        raise EngineMissing(engines.missing(engine))
    return Load(
        engine=engine.name,
        path=str(model.path),
        name=model.name,
        settings=model.settings,
        safe_mode=safe_mode,
    )


def facts(model: Model) -> Facts:
    """Return what is known of `model`; reads its header, never raises for what is in it."""
    try:
        engine = engine_for(model.path)
        header = read_header(model.path)
    except ModelFileError as exc:
        return Facts(problem=str(exc))
    template = templates.detect(
        header.control_tokens,
        architecture=header.architecture,
        name=templates.called(header.name, model.path),
    )
    fim = not isinstance(template, templates.NoFim)
    return Facts(
        size_bytes=header.file_bytes,
        engine=engine.name,
        architecture=header.architecture,
        family="" if isinstance(template, templates.NoFim) else template.family,
        context_length=header.context_length,
        fim=fim,
        no_fim_reason=template.reason if isinstance(template, templates.NoFim) else "",
        problem="" if is_installed(engine) else engines.missing(engine),
    )


@cache
def build_and_processor(engine_name: str) -> str:
    """Return what decides whether safe mode is needed: the engine's build and the processor."""
    engine = engines.ENGINES[engine_name]
    try:
        version = importlib.metadata.version(engine.distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return f"{engine.distribution} {version} on {_processor()}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def is_installed(engine: Engine) -> bool:
    """Return whether the engine's runtime can be imported, without importing it."""
    return importlib.util.find_spec(engine.runtime) is not None


def _name_of(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._:+-]+", "-", file.stem).lstrip("-._:+")[:100]


def identity(path: Path) -> tuple[int, int]:
    """Return what changes when the file does. Raises ModelFileError where there is none."""
    try:
        info = path.stat()
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    return info.st_size, info.st_mtime_ns


def sample(path: Path) -> str:
    """Return a digest of a few blocks from all over the file. Raises ModelFileError.

    Weights that were trained again differ everywhere, be the file's size and time the same.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    return digest.hexdigest()


_headers: dict[Path, tuple[tuple[int, int], GGUFHeader]] = {}


def _read_header(path: Path, version: tuple[int, int]) -> GGUFHeader:
    """Read a header once for each version of its file: large vocabularies take 70 ms."""
    known = _headers.get(path)
    if known is None or known[0] != version:
        known = _headers[path] = (version, gguf_header.read(path))
    return known[1]
