"""The language server's settings for one window; each default stands at its field.

Rule: `resolve` is pure and always gives complete settings; what is wrong or unknown keeps the
value of the layer below and comes back as a problem for the user. Knows no pygls, and nothing of
how the settings came here (`[lsp]` of the user's file, `MIDSPAN_LSP_*`, initializationOptions,
workspace/configuration, didChangeConfiguration).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backends import config_layers
from backends.config_layers import Resolved, Shape
from backends.config_schema import (
    Given,
    Layer,
    Origin,
    Problem,
    Scope,
    json_schema,
    setting,
    specs,
)
from lsp_server.kernels.settings import TABLE as KERNELS
from lsp_server.kernels.settings import KernelSettings

SECTION = "midspan"
TABLE = "lsp"  # in config.toml
EDITOR = "editor settings"
# What clients of Copilot's dialect send beside ours.
_NOT_OURS = frozenset(
    {
        "copilotIntegrationId",
        "editorConfiguration",
        "editorInfo",
        "editorPluginInfo",
        "networkProxy",
    }
)
_MANAGERS = frozenset({"manager", "completion", "chat", "downloads", "models"})


class Multiline(StrEnum):
    """When an automatic suggestion may have several lines."""

    AUTO = "auto"  # where the rest of the line is empty
    ALWAYS = "always"
    NEVER = "never"


class Popup(StrEnum):
    """When the completion popup (`textDocument/completion`) shows a suggestion."""

    AUTO = "auto"  # in clients that have no inline completion
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Settings:
    """`[lsp]`, and what a user can set in the editor. Names may also be written in camelCase."""

    enabled: bool = setting(True, "Suggest while typing.", scope=Scope.WINDOW)
    disabled_languages: tuple[str, ...] = setting(
        (), "Language ids; nothing is suggested in them.", scope=Scope.WINDOW
    )
    disabled_files: tuple[str, ...] = setting(
        (),
        "Files by the rules of .gitignore, such as *.min.js; nothing is suggested in them.",
        scope=Scope.WINDOW,
    )
    max_tokens: int = setting(
        96,
        "Longest suggestion of several lines.",
        unit="tokens",
        low=1,
        high=4096,
        scope=Scope.WINDOW,
    )
    max_tokens_line: int = setting(
        48,
        "Longest suggestion of one line.",
        unit="tokens",
        low=1,
        high=1024,
        scope=Scope.WINDOW,
    )
    max_tokens_action: int = setting(
        256,
        "Longest text that a code action fills in.",
        unit="tokens",
        low=1,
        high=8192,
        scope=Scope.WINDOW,
    )
    prefetch: bool = setting(
        True,
        "Evaluate, while you rest, what may be asked for next; off saves power.",
        scope=Scope.WINDOW,
    )
    debounce_ms: int = setting(
        0,
        "How long typing rests before an automatic suggestion is asked for.",
        unit="ms",
        low=0,
        high=5000,
        scope=Scope.WINDOW,
    )
    alternatives: int = setting(
        2,
        "Further suggestions to choose from, where one was asked for by hand.",
        low=0,
        high=9,
        scope=Scope.WINDOW,
    )
    multiline: Multiline = setting(
        Multiline.AUTO,
        "Suggest several lines: where the rest of the line is empty (auto), always or never.",
        scope=Scope.WINDOW,
    )
    popup: Popup = setting(
        Popup.AUTO,
        "Suggest in the completion popup: where the editor has no ghost text (auto), always or "
        "never.",
        scope=Scope.WINDOW,
    )
    deadline_ms: int = setting(
        2000,
        "How long an automatic suggestion may take, once the model has the request.",
        unit="ms",
        low=50,
        high=600_000,
        scope=Scope.WINDOW,
    )
    deadline_action_ms: int = setting(
        60_000,
        "How long what was asked for by hand may take.",
        unit="ms",
        low=50,
        high=600_000,
        scope=Scope.WINDOW,
    )
    model: str = setting(
        "",
        "Name of the model that completes, selected for all windows when this one starts; empty "
        "leaves the choice as it is.",
    )
    autostart: bool = setting(True, "Start the backend manager if it is not running.")
    ledger: bool = setting(
        True,
        "Count on this machine what was suggested, accepted and kept, for `midspan stats`.",
    )


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found.group().lower(), key)


def camel(name: str) -> str:
    """Return a setting's name as editors write it: `maxTokens`."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


SHAPE = Shape(tables={TABLE: Settings, KERNELS: KernelSettings}, foreign=_MANAGERS, spelled=_snake)


def resolve(
    *layers: Mapping[str, object] | None, below: Sequence[Given] = (), above: Sequence[Given] = ()
) -> tuple[Settings, tuple[Problem, ...]]:
    """Make settings from the editor's layers of raw objects, later ones winning.

    `below` is what the user's file and the environment say, `above` the command line. Returns
    also what was wrong.
    """
    found = explained(*layers, below=below, above=above)
    return found.table(TABLE), found.problems


def explained(
    *layers: Mapping[str, object] | None, below: Sequence[Given] = (), above: Sequence[Given] = ()
) -> Resolved:
    """Return what `resolve` makes settings of, each value with its origin."""
    return config_layers.resolve([*below, *_from_editor(layers), *above], SHAPE)


def _from_editor(layers: Iterable[Mapping[str, object] | None]) -> Iterable[Given]:
    for layer in layers:
        for key, raw in (layer or {}).items():
            if raw is not None:  # how several clients write "not set"
                yield Given((TABLE, key), raw, Origin(Layer.EDITOR, EDITOR))


def section(raw: object) -> Mapping[str, object]:
    """Our part of `raw`: its member "midspan", or, where there is none, the whole of it."""
    if not isinstance(raw, Mapping):
        return {}
    if SECTION in raw:
        inner = raw[SECTION]
        return inner if isinstance(inner, Mapping) else {}
    return {key: value for key, value in raw.items() if key not in _NOT_OURS}


# VS Code's scopes: "machine" keeps a setting out of a workspace's files.
_SCOPES = {Scope.USER: "machine", Scope.WINDOW: "window"}


def settings_schema() -> dict[str, object]:
    """Return the settings as an extension's package.json declares them (contributes)."""
    properties = {}
    for spec in specs(Settings).values():
        unit = f" In {spec.unit}." if spec.unit else ""
        schema = json_schema(spec)
        schema["description"] = spec.doc + unit
        properties[f"{SECTION}.{camel(spec.name)}"] = schema | {"scope": _SCOPES[spec.scope]}
    return {"title": SECTION, "properties": properties}
