"""Which models there are, and what can be said of each without loading it.

Rule: names and paths from outside pass `check_name` and `check_path`, and nothing else decides
what a model is called. Sources, first wins: the configuration, what the user added, what was
downloaded, the models folder, the starter model. A model is a GGUF file with all its parts, a
folder of safetensors, or an endpoint, which the configuration alone can name. Must not know
workers or HTTP.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from backends import engines, gguf_parts, model_folder, paths, quantisation, starter
from backends.config import MODEL_NAME, NO_MODEL_NAME, ModelSettings, Settings
from backends.downloads import record
from backends.engines import Engine
from backends.errors import (
    BadRequest,
    Conflict,
    EngineMissing,
    MidspanError,
    ModelFileError,
    UnknownModel,
    Unsupported,
)
from backends.frames import Load
from backends.gguf_header import GGUFHeader
from backends.model_folder import FolderHeader
from backends.remembered import Remembered
from backends.remote.profiles import PROFILES
from fim import templates

STARTER = "starter"
SAMPLES = 16
SAMPLE_BYTES = 4096
FOLDER_FILES = ("config.json", "tokenizer.json", "*.safetensors")
FOUND_HOLDS = 20.0  # seconds: what was installed meanwhile is seen soon
NO_CHAT_TEMPLATE = "It has no chat template."


Header = GGUFHeader | FolderHeader


class Source(StrEnum):
    """Where a model comes from."""

    CONFIG = "config"  # [models.NAME] in config.toml
    ADDED = "added"  # by the user, through the manager
    DOWNLOADED = "downloaded"  # from a hub, with a record of what it is
    FOLDER = "folder"  # found in the models folder
    STARTER = "starter"  # in the package


@dataclass(frozen=True, slots=True)
class Model:
    """A model the manager could load. `path` means nothing where it is served elsewhere."""

    name: str
    path: Path
    source: Source
    settings: ModelSettings

    @property
    def is_remote(self) -> bool:
        """Whether an engine elsewhere serves it: at its endpoint, or at its profile's only one."""
        return bool(self.settings.endpoint or (self.settings.profile and not self.settings.path))

    @property
    def place(self) -> str:
        """Where it is, for people; of an endpoint neither credentials nor query."""
        if not self.is_remote:
            return str(self.path)
        profile = PROFILES.get(self.settings.profile)
        url = urlsplit(self.settings.endpoint or (profile.endpoint if profile else ""))
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model before it is loaded; of an endpoint's, what it can do is not.

    `problem` says why it cannot be used, if it cannot.
    """

    size_bytes: int = 0
    engine: str = ""  # of an endpoint: what the configuration says that it is
    endpoint: str = ""
    architecture: str = ""
    family: str = ""
    context_length: int = 0
    quantisation: str = ""  # how the weights are stored: "Q4_K_M", "bfloat16", …
    warning: str = ""  # what is odd about the file, which can be used nevertheless
    fim: bool | None = None
    no_fim_reason: str = ""
    chat: bool | None = None
    no_chat_reason: str = ""
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
        """Check a file or folder and keep it as a model, called after it unless `name` says else.

        Raises ModelFileError, BadRequest for the name, Conflict where it is taken.
        """
        file = check_path(path)
        chosen = check_name(name if name is not None else _name_of(file))
        taken = self.models().get(chosen)
        if taken is not None and taken.path != file:
            raise Conflict(f"{chosen!r} is already the name of {taken.place}; give another name.")
        if taken is None:
            self._remembered.add_model(chosen, file)
        return self.get(chosen)

    def remove(self, name: str) -> None:
        """Forget a model the user added; its file stays. Raises UnknownModel, Conflict."""
        model = self.get(name)
        if model.source is Source.DOWNLOADED:
            raise Conflict(f"{name!r} was downloaded: delete it (midspan models delete {name}).")
        if model.source is not Source.ADDED:
            raise Conflict(f"{name!r} was not added: it comes from the {model.source}.")
        self._remembered.remove_model(name)

    @property
    def downloads_folder(self) -> Path:
        """Where downloaded models are, each in a folder of its own."""
        return Path(self._settings.downloads.folder or paths.models_dir())

    def _all(self) -> Iterator[Model]:
        for name, settings in self._settings.models.items():
            path = Path(settings.path).expanduser()
            yield Model(name, path, Source.CONFIG, settings)
        for name, added in self._remembered.models.items():
            yield Model(name, Path(added), Source.ADDED, ModelSettings())
        for folder, kept in record.found(self.downloads_folder):
            path = record.model_path(folder, kept)
            yield Model(_name_of(folder), path, Source.DOWNLOADED, ModelSettings())
        for path in _in_folder(paths.models_dir()):
            yield Model(_name_of(path), path, Source.FOLDER, ModelSettings())
        yield Model(STARTER, starter.path(), Source.STARTER, ModelSettings())


def _in_folder(folder: Path) -> Iterator[Path]:
    """Yield the models that somebody put into the models folder.

    What cannot be looked at is passed over: the other models must go on serving.
    """
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as exc:
        paths.warn_once(f"The models in {folder} are not seen: {exc.strerror}.")
        return
    for path in entries:
        try:
            is_model = _is_model(path)
        except OSError as exc:
            paths.warn_once(f"{path} is no model: {exc.strerror}.")
        else:
            if is_model:
                yield path


def _is_model(path: Path) -> bool:
    if (path / record.NAME).is_file():
        return False
    whole = path.suffix == ".gguf" and not gguf_parts.is_later_part(path)
    return whole or (path / model_folder.CONFIG).is_file()


def check_name(name: str) -> str:
    """Return `name` if it may name a model. Raises BadRequest."""
    if not MODEL_NAME.fullmatch(name):
        raise BadRequest(f"{name!r} {NO_MODEL_NAME}.")
    return name


def check_path(path: str) -> Path:
    """Return the real path of a model's file or folder that can be trusted to native code.

    Raises ModelFileError.
    """
    if urlsplit(path).scheme in ("http", "https"):
        raise ModelFileError(
            f"{path} is an endpoint: only the configuration file can name one, as "
            "[models.NAME] endpoint = …"
        )
    if "\0" in path or not Path(path).expanduser().is_absolute():
        raise ModelFileError(f"{path!r} is not an absolute path.")
    found = Path(path).expanduser().resolve()
    if not found.exists():
        raise ModelFileError(f"{path} cannot be read: No such file or directory.")
    _engines_for(found)
    read_header(found)
    return found


def engine_for(model: Model) -> Engine:
    """Return the engine that runs `model`: the one its settings name, or the first installed.

    Raises ModelFileError, and Unsupported where the settings name one that can't.
    """
    fitting = _engines_for(model.path)
    if chosen := model.settings.engine:
        if chosen not in engines.ENGINES:
            known = ", ".join(engines.ENGINES)
            raise Unsupported(f"No engine is called {chosen!r}; there are {known}.")
        if all(engine.name != chosen for engine in fitting):
            able = " or ".join(engine.name for engine in fitting)
            raise Unsupported(f"{chosen} does not run {model.path}; {able} does.")
        return engines.ENGINES[chosen]
    ready = (engine for engine in fitting if is_ready(engine, model.settings))
    return next(ready, fitting[0])


def is_ready(engine: Engine, settings: ModelSettings) -> bool:
    """Return whether `engine` is there: a server where its program is given, others installed."""
    if settings.binary:
        return engine.is_server
    return is_installed(engine)


def missing(model: Model) -> str:
    """Return what to install for `model`, whose engine is not there."""
    chosen = engine_for(model)
    others = [] if model.settings.engine else _engines_for(model.path)
    extras = [f'"midspan[{engine.extra}]"' for engine in others if engine != chosen]
    return " or ".join([engines.missing(chosen), *extras])


def _engines_for(path: Path) -> list[Engine]:
    kind = _kind(path)
    fitting = [engine for engine in engines.ENGINES.values() if kind in engine.suffixes]
    if not fitting:
        known = sorted({s for engine in engines.ENGINES.values() for s in engine.suffixes})
        raise ModelFileError(
            f"{path} has no engine: files and folders of these kinds are supported: "
            f"{' '.join(known)}."
        )
    return fitting


def _kind(path: Path) -> str:
    """Return the kind of a model's file or folder, as `Engine.suffixes` has it."""
    if path.is_dir():
        header = read_header(path)
        assert isinstance(header, FolderHeader)
        return header.format
    return path.suffix.lower()


def read_header(path: Path) -> Header:
    """Return the header of a file or folder that holds a whole model. Raises ModelFileError."""
    header = _read_header(path, identity(path))
    if header.tensor_count == 0:
        raise ModelFileError(f"{path} holds a vocabulary and no weights.")
    return header


def load_message(model: Model, *, safe_mode: bool) -> Load:
    """Return the message that makes a worker load `model`, after checking all that can be.

    Raises ModelFileError, EngineMissing, Unsupported.
    """
    engine = engine_for(model)
    read_header(model.path)
    if not is_ready(engine, model.settings):
        raise EngineMissing(missing(model))
    return Load(
        engine=engine.name,
        path=str(model.path),
        name=model.name,
        settings=model.settings,
        safe_mode=safe_mode,
    )


def facts(model: Model) -> Facts:
    """Return what is known of `model`; reads its header, never raises for what is in it."""
    if model.is_remote:
        return Facts(engine=model.settings.profile, endpoint=model.place)
    try:
        engine = engine_for(model)
        header = read_header(model.path)
    except MidspanError as exc:
        return Facts(problem=str(exc))
    template = template_of(header, model.path)
    no_fim = template.reason if isinstance(template, templates.NoFim) else ""
    chat = has_chat_template(header, model.settings)
    stored = quantisation.of_header(header, model.path.name)
    return Facts(
        size_bytes=header.file_bytes,
        engine=engine.name,
        architecture=header.architecture,
        family="" if isinstance(template, templates.NoFim) else template.family,
        context_length=header.context_length,
        quantisation=stored.name,
        warning=stored.warning,
        fim=not no_fim,
        no_fim_reason=no_fim,
        chat=chat,
        no_chat_reason="" if chat else NO_CHAT_TEMPLATE,
        problem="" if is_ready(engine, model.settings) else missing(model),
    )


def template_of(header: Header, path: Path) -> templates.Template | templates.NoFim:
    """Return how a model was trained to fill in the middle, or why it can't."""
    return templates.detect(
        header.control_tokens,
        architecture=header.architecture,
        name=templates.called(header.name, path),
    )


def has_chat_template(header: Header, settings: ModelSettings) -> bool:
    """Return whether a model says how to chat with it, or its settings do."""
    own = (
        header.chat_template
        if isinstance(header, FolderHeader)
        else header.metadata.get("tokenizer.chat_template")
    )
    return bool(settings.chat_template or own)


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


_found: dict[str, tuple[float, bool]] = {}  # by runtime: when it was looked for


def is_installed(engine: Engine) -> bool:
    """Return whether the engine's runtime can be imported, without importing it.

    Looked for again after `FOUND_HOLDS` seconds: a status asks this of every model.
    """
    now = time.monotonic()
    known = _found.get(engine.runtime)
    if known is None or now - known[0] >= FOUND_HOLDS:
        known = _found[engine.runtime] = now, importlib.util.find_spec(engine.runtime) is not None
    return known[1]


def _name_of(path: Path) -> str:
    if path.parent.name == "snapshots":  # of a Hugging Face cache: called by a commit
        own = path.parent.parent.name.rpartition("--")[2]
    else:
        own = path.stem if path.suffix == ".gguf" else path.name
    return re.sub(r"[^A-Za-z0-9._:+-]+", "-", own).lstrip("-._:+")[:100]


def identity(path: Path) -> tuple[int, int]:
    """Return what changes when the model does: bytes, and time of the last change in ns.

    Raises ModelFileError where there is none.
    """
    try:
        infos = [file.stat() for file in _files(path)]
    except OSError as exc:
        raise ModelFileError(f"{exc.filename or path} cannot be read: {exc.strerror}.") from exc
    return sum(info.st_size for info in infos), max((i.st_mtime_ns for i in infos), default=0)


def sample(path: Path) -> str:
    """Return a digest of a few blocks from all over the weights. Raises ModelFileError.

    Weights that were trained again differ everywhere, be the file's size and time the same.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        for part in _files(path):
            with part.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                for number in range(SAMPLES):
                    file.seek(size * number // SAMPLES)
                    digest.update(file.read(SAMPLE_BYTES))
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror}.") from exc
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """Return the files that a model is made of."""
    if not path.is_dir():
        return gguf_parts.files(path)
    return sorted(file for pattern in FOLDER_FILES for file in path.glob(pattern))


_headers: dict[Path, tuple[tuple[int, int], Header]] = {}


def _read_header(path: Path, version: tuple[int, int]) -> Header:
    """Read a header once for each version of its files: large vocabularies take 70 ms."""
    known = _headers.get(path)
    if known is None or known[0] != version:
        read = model_folder.read if path.is_dir() else gguf_parts.read
        known = _headers[path] = (version, read(path))
    return known[1]
