"""The editor's settings for midspan, one frozen value; each default stands at its field.

Rule: `resolve` is pure and always gives complete settings; what is wrong or unknown keeps the
default and comes back as a sentence for the user. Knows no pygls, and nothing of how the settings
came here (initializationOptions, workspace/configuration, didChangeConfiguration).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

SECTION = "midspan"
_NOT_OURS = frozenset({"editorInfo", "editorPluginInfo"})  # beside ours in Copilot's dialect


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
    """What a user can set in the editor. Names may also be written in camelCase."""

    enabled: bool = True  # suggest at all
    disabled_languages: tuple[str, ...] = ()  # language ids; nothing is suggested in them
    max_tokens: int = 96  # longest suggestion of several lines
    max_tokens_line: int = 48  # longest suggestion of one line
    max_tokens_action: int = 256  # longest text that a code action fills in
    prefetch: bool = True  # prepare, while the user rests, what may be asked for next
    debounce_ms: int = 0  # how long typing rests before an automatic suggestion is asked for
    multiline: Multiline = Multiline.AUTO
    popup: Popup = Popup.AUTO
    deadline_ms: int = 2000  # for an automatic suggestion, once the model has the request
    deadline_action_ms: int = 60_000  # for what was asked for by hand
    autostart: bool = True  # start the backend manager if it is not running


_LIMITS: Mapping[str, tuple[int, int]] = {
    "max_tokens": (1, 4096),
    "max_tokens_line": (1, 1024),
    "max_tokens_action": (1, 8192),
    "debounce_ms": (0, 5000),
    "deadline_ms": (50, 600_000),
    "deadline_action_ms": (50, 600_000),
}
_DEFAULTS = Settings()
_NAMES = frozenset(f.name for f in fields(Settings))


class _WrongError(ValueError):
    """The value does not fit; the message says what would."""


def resolve(*layers: Mapping[str, object] | None) -> tuple[Settings, tuple[str, ...]]:
    """Make settings from layers of raw objects, later ones winning; and what was wrong in them."""
    values: dict[str, object] = {}
    problems: list[str] = []
    for layer in layers:
        for key, raw in (layer or {}).items():
            name = _snake(key)
            if name not in _NAMES:
                problems.append(f"unknown setting {SECTION}.{key}")
            elif raw is not None:  # how several clients write "not set"
                try:
                    values[name] = _value(name, raw)
                except _WrongError as exc:
                    problems.append(f"{SECTION}.{key} must be {exc}")
    return Settings(**values), tuple(problems)  # type: ignore[arg-type]


def section(raw: object) -> Mapping[str, object]:
    """Our part of `raw`: its member "midspan", or, where there is none, the whole of it."""
    if not isinstance(raw, Mapping):
        return {}
    if SECTION in raw:
        inner = raw[SECTION]
        return inner if isinstance(inner, Mapping) else {}
    return {key: value for key, value in raw.items() if key not in _NOT_OURS}


def _value(name: str, raw: object) -> object:
    default = getattr(_DEFAULTS, name)
    if isinstance(default, bool):
        if not isinstance(raw, bool):
            raise _WrongError("true or false")
        return raw
    if isinstance(default, StrEnum):
        members = type(default)
        if not isinstance(raw, str) or raw not in members._value2member_map_:
            raise _WrongError("one of " + ", ".join(f'"{member}"' for member in members))
        return members(raw)
    if isinstance(default, int):
        low, high = _LIMITS[name]
        if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
            raise _WrongError(f"a whole number from {low} to {high}")
        return raw
    if not isinstance(raw, list) or not all(isinstance(entry, str) for entry in raw):
        raise _WrongError("a list of strings")
    return tuple(raw)


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found.group().lower(), key)
