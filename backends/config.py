"""The manager's settings: one typed field each, with its default and one line of documentation.

Rule: layers are applied in order, defaults < configuration file < `MIDSPAN_*` environment. A wrong
key or value is a `Problem` that says where, and the default stays. The language server's own table
is left to it. Must not know what the settings do.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

# Tables of config.toml that belong to the language server.
FOREIGN_TABLES = frozenset({"lsp"})


def _setting(default: object, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """`[manager]`."""

    idle_minutes: float = _setting(20.0, "Minutes without a client before the manager ends itself.")
    port: int = _setting(0, "Port to listen on; 0 for any. Another is taken if it is in use.")
    memory_mb: int = _setting(
        0,
        "MiB that all loaded models may take together; 0 for 60 % of what is free at the start.",
    )
    snapshot_mb: int = _setting(
        256, "MiB for what unloaded models had evaluated of open documents; 0 to keep nothing."
    )
    disk_snapshot_mb: int = _setting(
        256, "MiB of disk for the same, to be used after a restart; 0 to write nothing."
    )


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """`[completion]`."""

    model: str = _setting("", "Name of the model that completes; empty for the starter model.")
    cold_prefill_ms: float = _setting(
        1000.0,
        "Milliseconds that a prompt with nothing cached may take, which decides how much of the "
        "document is shown at first.",
    )


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """`[chat]`."""

    model: str = _setting("", "Name of the model that chats; empty for the one that completes.")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`[models.NAME]`. What the model's engine has no such thing for is refused by name."""

    path: str = _setting("", "The model's GGUF file, or its folder of safetensors.")
    engine: str = _setting("", "Engine to run it with; empty for the one that fits its files.")
    context_length: int = _setting(0, "Tokens of context; 0 for the model's own.")
    threads: int = _setting(0, "Threads to compute with; 0 for the machine's cores.")
    batch: int = _setting(0, "Tokens of one forward pass at most; 0 for the engine's own choice.")
    gpu_layers: int = _setting(0, "Layers to keep on the GPU; -1 for all.")
    low_vram: bool = _setting(False, "Keep the KV cache in the machine's memory, not the GPU's.")
    mmap: bool = _setting(True, "Map the file instead of reading it.")
    mlock: bool = _setting(False, "Keep the weights from being swapped out.")
    kv_type: str = _setting("", "Type of the KV cells: f16, f32, q8_0 or q4_0; empty for f16.")
    verbose: bool = _setting(False, "Let the runtime write its own log, at level debug.")
    device: str = _setting("", "cpu, cuda, cuda:N, mps; empty for the best there is.")
    device_map: str = _setting("", "How layers are spread over devices (transformers): auto, …")
    dtype: str = _setting("", "float32, bfloat16 or float16; empty for the device's best.")
    attention: str = _setting("", "sdpa, eager or flash_attention_2; empty for the best there is.")
    compile: bool = _setting(False, "Compile the model (torch.compile).")
    quantize: str = _setting("", "Load the weights in 8bit or 4bit; empty for as they are.")
    endpoint: str = _setting("", "Base URL of the engine that serves this model elsewhere.")
    profile: str = _setting("", "What the endpoint is: vllm, llama-server, …; empty to find out.")
    remote_model: str = _setting("", "The model's name there; empty for NAME.")
    family: str = _setting("", "Its fill-in-the-middle family, where it cannot be found out.")
    api_key_env: str = _setting("", "Environment variable that holds the endpoint's key.")
    api_key_file: str = _setting("", "File that holds it, readable by its owner alone.")
    api_key_keyring: str = _setting("", "SERVICE/USER of it in the system's keyring.")
    proxy: str = _setting("", "Proxy for the endpoint; empty for none.")
    ca_file: str = _setting("", "PEM file of the authorities to trust for the endpoint.")
    timeout_s: float = _setting(20.0, "Seconds until the endpoint's first token.")
    retries: int = _setting(2, "How often a request is repeated after a 5xx or no connection.")
    reasoning_effort: str = _setting("", "low, medium or high, for chat and kernels only.")
    chat_template: str = _setting("", "Jinja file to use in place of the model's own.")
    binary: str = _setting("", "llama-server to start for this model; empty for the wheel's.")


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the manager's settings."""

    manager: ManagerSettings = field(default_factory=ManagerSettings)
    completion: CompletionSettings = field(default_factory=CompletionSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A setting that is ignored, and why."""

    message: str
    source: str  # a file or an environment variable
    line: int = 0  # 1-based; 0 where there is none

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return f"{where}: {self.message}"


_Table = TypeVar("_Table", ManagerSettings, CompletionSettings, ChatSettings, ModelSettings)


def load(
    path: Path, environment: Mapping[str, str] | None = None
) -> tuple[Settings, list[Problem]]:
    """Return the settings and what was wrong with them. Never raises for what a user wrote."""
    problems: list[Problem] = []
    settings = _from_file(path, problems)
    environment = os.environ if environment is None else environment
    return _from_environment(settings, environment, problems), problems


def _from_file(path: Path, problems: list[Problem]) -> Settings:
    settings = Settings()
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        return settings
    except tomllib.TOMLDecodeError as exc:
        found = re.search(r"at line (\d+)", str(exc))
        problems.append(Problem(str(exc), str(path), int(found[1]) if found else 0))
        return settings
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(Problem(f"cannot be read: {exc}", str(path)))
        return settings
    for name, value in document.items():
        if name in FOREIGN_TABLES:
            continue
        report = _Reporter(problems, str(path), text, (name,))
        if name not in ("manager", "completion", "chat", "models"):
            report("", f"unknown table or key {name!r}")
        elif not isinstance(value, dict):
            report("", f"{name!r} must be a table")
        elif name == "manager":
            settings = replace(settings, manager=_fill(settings.manager, value, report))
        elif name == "completion":
            settings = replace(settings, completion=_fill(settings.completion, value, report))
        elif name == "chat":
            settings = replace(settings, chat=_fill(settings.chat, value, report))
        else:
            settings = replace(settings, models=_models(value, report))
    return settings


def _models(tables: Mapping[str, object], report: _Reporter) -> dict[str, ModelSettings]:
    models = {}
    for name, table in tables.items():
        if isinstance(table, dict):
            models[name] = _fill(ModelSettings(), table, report.inside(name))
        else:
            report(name, f"models.{name} must be a table")
    return models


def _fill(table: _Table, values: Mapping[str, object], report: _Reporter) -> _Table:
    known = {f.name: type(getattr(table, f.name)) for f in fields(table)}
    good: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            report(key, f"unknown key {key!r}; known are {', '.join(sorted(known))}")
        elif not _fits(value, known[key]):
            report(key, f"{key!r} must be {_NAMES[known[key]]}, not {value!r}")
        else:
            good[key] = known[key](value)
    return replace(table, **good)


_NAMES = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


@dataclass(frozen=True, slots=True)
class _Reporter:
    """Notes problems with the line of the key they are about."""

    problems: list[Problem]
    source: str
    text: str
    table: tuple[str, ...]

    def __call__(self, key: str, message: str) -> None:
        self.problems.append(Problem(message, self.source, self._line(key)))

    def inside(self, name: str) -> _Reporter:
        return replace(self, table=(*self.table, name))

    def _line(self, key: str) -> int:
        """Find the line of `key` in this table, else that of the table; tomllib keeps none."""
        wanted = ".".join((*self.table, key) if key else self.table)
        table, table_line = "", 0
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+([^\]]+)\]", line):
                table = _plain(header[1])
                if table == wanted or (not table_line and table == ".".join(self.table)):
                    table_line = number
            elif assignment := re.match(r"\s*([^=#]+?)\s*=", line):
                name = _plain(assignment[1])
                if wanted == (f"{table}.{name}" if table else name):
                    return number
        return table_line


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))


def _from_environment(
    settings: Settings, environment: Mapping[str, str], problems: list[Problem]
) -> Settings:
    for section in ("manager", "completion", "chat"):
        table = getattr(settings, section)
        changes: dict[str, object] = {}
        for item in fields(table):
            variable = f"MIDSPAN_{section}_{item.name}".upper()
            if variable not in environment:
                continue
            kind = type(getattr(table, item.name))
            try:
                changes[item.name] = kind(environment[variable])
            except ValueError:
                problem = f"must be {_NAMES[kind]}, not {environment[variable]!r}"
                problems.append(Problem(problem, variable))
        settings = replace(settings, **{section: replace(table, **changes)})
    return settings
