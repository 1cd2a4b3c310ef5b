"""The manager's settings: one typed field each, with its default, limits and documentation.

    settings, problems = config.load()                     # as the manager reads them
    settings, problems = config.load(overrides={"manager": {"port": 8012}})    # in code

Rule: layers in order, a later one wins: defaults < the user's file < environment (the names of
KernelAgent, then `MIDSPAN_*`) < what the caller passes (`overrides`, and the command line's
`--set`). A wrong key or value is a `Problem` that says where, and the value below stays. The
language server's own table is left to it. Must not know what the settings do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backends import config_environment, config_files, config_layers, config_legacy
from backends.config_layers import Resolved, Shape
from backends.config_schema import Given, Key, Layer, Origin, Problem, by_place
from backends.config_schema import setting as _setting

__all__ = [
    "MODEL_NAME",
    "NO_MODEL_NAME",
    "SHAPE",
    "ChatSettings",
    "CompletionSettings",
    "DownloadSettings",
    "ManagerSettings",
    "ModelSettings",
    "Problem",
    "Settings",
    "load",
    "made",
    "resolve",
    "resolve_text",
]

# Tables of config.toml that belong to the language server.
FOREIGN_TABLES = frozenset({"lsp", "kernels"})


def _key_variable(doc: str) -> Any:
    """Return the field that names the environment variable with a key."""
    return _setting(
        "",
        doc,
        pattern=r"[A-Za-z_][A-Za-z0-9_]*",
        words="the name of an environment variable, not the key itself",
        secret=True,
    )


def _key_in_keyring() -> Any:
    """Return the field that names a key in the system's keyring."""
    return _setting(
        "",
        "SERVICE/USER of it in the system's keyring.",
        pattern=r"[^/]+/.+",
        words="SERVICE/USER, not the key itself",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """`[manager]`."""

    idle_minutes: float = _setting(
        20.0,
        "Minutes without a client before the manager ends itself.",
        unit="minutes",
        low=0.001,
        high=100_000,
    )
    port: int = _setting(
        0, "Port to listen on; 0 for any. Another is taken if it is in use.", low=0, high=65535
    )
    memory_mb: int = _setting(
        0,
        "MiB that all loaded models may take together; 0 for 60 % of what is free at the start.",
        unit="MiB",
        low=0,
    )
    snapshot_mb: int = _setting(
        256,
        "MiB for what unloaded models had evaluated of open documents; 0 to keep nothing.",
        unit="MiB",
        low=0,
    )
    disk_snapshot_mb: int = _setting(
        256,
        "MiB of disk for the same, to be used after a restart; 0 to write nothing.",
        unit="MiB",
        low=0,
    )


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """`[completion]`."""

    model: str = _setting("", "Name of the model that completes; empty for the starter model.")
    cold_prefill_ms: float = _setting(
        1000.0,
        "Milliseconds that a prompt with nothing cached may take, which decides how much of the "
        "document is shown at first.",
        unit="ms",
        low=1,
        high=600_000,
    )


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """`[chat]`."""

    model: str = _setting("", "Name of the model that chats; empty for the one that completes.")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`[models.NAME]`. What the model's engine has no such thing for is refused by name."""

    path: str = _setting("", "The model's GGUF file, or its folder of safetensors.", path="file")
    engine: str = _setting("", "Engine to run it with; empty for the one that fits its files.")
    context_length: int = _setting(
        0, "Tokens of context; 0 for the model's own.", unit="tokens", low=0
    )
    threads: int = _setting(
        0, "Threads to compute with; 0 for the machine's cores.", low=0, high=512
    )
    batch: int = _setting(
        0,
        "Tokens of one forward pass at most; 0 for the engine's own choice.",
        unit="tokens",
        low=0,
        high=8192,
    )
    gpu_layers: int = _setting(
        0,
        "Layers to keep on the GPU: -1 for all, 0 for as many as fit, none with device cpu.",
        low=-1,
    )
    low_vram: bool = _setting(False, "Keep the KV cache in the machine's memory, not the GPU's.")
    mmap: bool = _setting(True, "Map the file instead of reading it.")
    mlock: bool = _setting(False, "Keep the weights from being swapped out.")
    kv_type: str = _setting(
        "",
        "Type of the KV cells: f16, f32, q8_0 or q4_0; empty for f16.",
        choices=("f16", "f32", "q8_0", "q4_0"),
    )
    verbose: bool = _setting(False, "Let the runtime write its own log, at level debug.")
    device: str = _setting(
        "",
        "cpu, cuda, rocm or metal, also with a number (cuda:1); empty for the best there is.",
        pattern=r"(cpu|cuda|rocm|hip|metal|mps)(:\d+)?",
        words="cpu, cuda, rocm or metal (mps), perhaps with a number as in cuda:1",
    )
    device_map: str = _setting("", "How layers are spread over devices (transformers): auto, …")
    dtype: str = _setting(
        "",
        "float32, bfloat16 or float16; empty for the device's best.",
        choices=("float32", "bfloat16", "float16"),
    )
    attention: str = _setting(
        "",
        "sdpa, eager or flash_attention_2; empty for the best there is.",
        choices=("sdpa", "eager", "flash_attention_2"),
    )
    compile: bool = _setting(False, "Compile the model (torch.compile).")
    quantize: str = _setting(
        "", "Load the weights in 8bit or 4bit; empty for as they are.", choices=("8bit", "4bit")
    )
    endpoint: str = _setting(
        "",
        "Base URL of the engine that serves this model elsewhere.",
        pattern=r"https?://\S+",
        words="an http:// or https:// URL",
        secret=True,
    )
    profile: str = _setting(
        "",
        "What the endpoint is, as llama-server, llama-server-infill, …; empty to find out.",
        choices=(
            "llama-server",
            "llama-server-infill",
            "vllm",
            "sglang",
            "ollama",
            "lm-studio",
            "mlx-lm",
            "openai",
            "openai-suffix",
            "deepseek",
            "mistral",
            "openai-compatible",
        ),
    )
    remote_model: str = _setting("", "The model's name there; empty for NAME.")
    family: str = _setting("", "Its fill-in-the-middle family, where it cannot be found out.")
    api_key_env: str = _key_variable("Environment variable that holds the endpoint's key.")
    api_key_file: str = _setting(
        "", "File that holds it, readable by its owner alone.", path="file"
    )
    api_key_keyring: str = _key_in_keyring()
    proxy: str = _setting(
        "",
        "Proxy for the endpoint; empty for none.",
        pattern=r"(https?|socks5h?)://\S+",
        words="an http://, https:// or socks5:// URL",
        secret=True,
    )
    ca_file: str = _setting(
        "", "PEM file of the authorities to trust for the endpoint.", path="file"
    )
    timeout_s: float = _setting(
        20.0, "Seconds until the endpoint's first token.", unit="s", low=0.05, high=3600
    )
    retries: int = _setting(
        2, "How often a request is repeated after a 5xx or no connection.", low=0, high=20
    )
    reasoning_effort: str = _setting(
        "", "low, medium or high, for chat and kernels only.", choices=("low", "medium", "high")
    )
    chat_template: str = _setting("", "Jinja file to use in place of the model's own.", path="file")
    binary: str = _setting(
        "", "llama-server to start for this model; empty for the wheel's.", path="program"
    )


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """`[downloads]`. Nothing is contacted before a download is asked for."""

    endpoint: str = _setting(
        "https://huggingface.co",
        "Hub that models come from; also HF_ENDPOINT. Its key goes to it and nowhere else.",
        pattern=r"https?://\S+",
        words="an https:// URL",
        secret=True,
    )
    mirrors: tuple[str, ...] = _setting(
        (), "Hubs to ask when that one fails, in this order; they never get the key."
    )
    folder: str = _setting("", "Folder for models; empty for the models folder.", path="folder")
    api_key_env: str = _key_variable(
        "Environment variable that holds the hub's key; empty for HF_TOKEN."
    )
    api_key_file: str = _setting(
        "", "File that holds it, readable by its owner alone.", path="file"
    )
    api_key_keyring: str = _key_in_keyring()
    proxy: str = _setting(
        "",
        "Proxy for downloads; empty for none.",
        pattern=r"http://\S+",
        words="an http:// URL",
        secret=True,
    )
    ca_file: str = _setting("", "PEM file of the authorities to trust for downloads.", path="file")
    timeout_s: float = _setting(
        30.0,
        "Seconds without a byte before a connection is given up.",
        unit="s",
        low=0.05,
        high=600,
    )
    retries: int = _setting(
        4, "How often a place is asked again before it is given up.", low=0, high=100
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the manager's settings."""

    manager: ManagerSettings = field(default_factory=ManagerSettings)
    completion: CompletionSettings = field(default_factory=CompletionSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    downloads: DownloadSettings = field(default_factory=DownloadSettings)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)


SHAPE = Shape(
    tables={
        "manager": ManagerSettings,
        "completion": CompletionSettings,
        "chat": ChatSettings,
        "downloads": DownloadSettings,
    },
    named={"models": ModelSettings},
    foreign=FOREIGN_TABLES,
)
# What may name a model, wherever the name comes from (`backends.catalogue.check_name`).
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}")
NO_MODEL_NAME = "cannot name a model: letters, digits and . _ : + - are allowed, 100 at most"
# A model with none of these cannot be loaded from anywhere.
_SOURCES = ("path", "endpoint", "profile", "engine")
_SAID = "it was said already what is wrong"


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    assignments: Iterable[str] = (),
) -> tuple[Settings, list[Problem]]:
    """Return the settings and what was wrong with them. Never raises for what a user wrote.

    `path` is the user's file (default: where it is looked for), `environment` the process's by
    default. `overrides` are nested tables as the file has them, KernelAgent's layout included;
    `assignments` are texts like `manager.port=8012`.
    """
    found = resolve(path, environment, overrides=overrides, assignments=assignments)
    return made(found), list(found.problems)


def made(found: Resolved) -> Settings:
    """Return the settings that were found, without the models that cannot be used."""
    return Settings(
        manager=found.table("manager"),
        completion=found.table("completion"),
        chat=found.table("chat"),
        downloads=found.table("downloads"),
        models={name: found.table("models", name) for name in _usable(found)},
    )


def resolve(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    assignments: Iterable[str] = (),
) -> Resolved:
    """Return what `load` makes settings of, each value with its origin."""
    environment = os.environ if environment is None else environment
    if path is None:
        from backends import paths

        path = paths.config_file()
    passed, problems = _givens(overrides or {}, _passed)
    passed += config_layers.assignments(assignments)
    return _resolve(config_files.read_user(path), environment, passed, problems)


def resolve_text(
    text: str, source: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Resolved:
    """Return what `resolve` does, for the text of a configuration file as an editor has it."""
    return _resolve(config_files.parse(text, source), environment)


def _resolve(
    document: config_files.Document,
    environment: Mapping[str, str],
    passed: Sequence[Given] = (),
    problems: Sequence[Problem] = (),
) -> Resolved:
    folder = os.path.dirname(document.source)
    in_file, in_values = _givens(document.values, document.origin, folder)

    names = {given.key[1] for given in in_file if given.key[0] == "models" and len(given.key) > 1}
    ours, in_ours = config_environment.read(environment, SHAPE.tables, SHAPE.named, names)

    # KernelAgent's variables lie below ours, and depend on what the others select.
    chosen = {given.key: given.value for given in (*in_file, *ours, *passed)}
    selected = {
        str(chosen[key]) for key in (("completion", "model"), ("chat", "model")) if key in chosen
    }
    legacy, in_legacy = config_legacy.from_environment(environment, selected, chosen.keys())
    found = config_layers.resolve(
        [*in_file, *legacy, *config_environment.borrowed(environment), *ours, *passed],
        SHAPE,
        [*document.problems, *in_values, *in_legacy, *in_ours, *problems],
    )
    return replace(found, problems=by_place((*found.problems, *_unusable(found))))


def _givens(
    values: Mapping[str, object], origin: config_legacy.OriginOf, folder: str = ""
) -> tuple[list[Given], list[Problem]]:
    """Return the settings in nested tables, KernelAgent's layout translated."""
    givens: list[Given] = []
    problems: list[Problem] = []
    if config_legacy.is_ours(values):
        givens, problems, values = config_legacy.from_json(values, origin, folder)
    return [*givens, *config_layers.flatten(values, SHAPE, origin, folder=folder)], problems


def _passed(key: Key) -> Origin:
    return Origin(Layer.COMMAND_LINE, ".".join(key))


def _usable(found: Resolved) -> list[str]:
    return [name for name in found.names["models"] if not _model_problem(found, name)]


def _unusable(found: Resolved) -> list[Problem]:
    problems = []
    for name in found.names["models"]:
        if (message := _model_problem(found, name)) and message is not _SAID:
            at = found.names["models"][name]
            problems.append(Given(("models", name), None, at).problem(message))
    return problems


def _model_problem(found: Resolved, name: str) -> str:
    """Say why [models.NAME] cannot be used; empty if it can."""
    if not MODEL_NAME.fullmatch(name):
        return f"{name!r} {NO_MODEL_NAME}"
    keys = [("models", name, source) for source in _SOURCES]
    if any(found.values.get(key) for key in keys):
        return ""
    if found.refused.intersection(keys):
        return _SAID
    return f"the model {name!r} has no path and no endpoint"
