"""Where an endpoint's key comes from: the environment, a private file, or the system's keyring.

Rule: a key is never part of a log line, an error or a `repr`. A source that is named but holds
none is an error, never the same as no key. Must not know HTTP.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backends.errors import BadRequest, EngineMissing

MAX_KEY = 8192  # characters
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or "" for none; it can be shown without being told."""

    value: str = field(default="", repr=False)

    def header(self) -> dict[str, str]:
        """Return the header that carries it."""
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}

    def struck_from(self, text: str) -> str:
        """Return `text` without the key, in case a server repeats it."""
        return text.replace(self.value, "***") if self.value else text


class Sources(Protocol):
    """Settings that say where a key is: a model's, or those of downloads."""

    @property
    def api_key_env(self) -> str:
        """Environment variable that holds it."""
        ...

    @property
    def api_key_file(self) -> str:
        """File that holds it."""
        ...

    @property
    def api_key_keyring(self) -> str:
        """SERVICE/USER in the system's keyring."""
        ...


def find(settings: Sources, default_env: str, environment: Mapping[str, str]) -> Key:
    """Return the key that the settings name, else the one in `default_env` if that is set.

    May ask the keyring, which blocks. Raises BadRequest or EngineMissing.
    """
    named = [
        read(name, environment)
        for name, read in (
            (settings.api_key_env, _from_environment),
            (settings.api_key_file, _from_file),
            (settings.api_key_keyring, _from_keyring),
        )
        if name
    ]
    if len(named) > 1:
        raise BadRequest("A model takes its key from one of api_key_env, _file and _keyring.")
    value = named[0] if named else environment.get(default_env, "") if default_env else ""
    return checked(value)


def checked(value: str) -> Key:
    """Return `value` as a key that fits a header. Raises BadRequest, which does not show it."""
    value = value.strip()
    if value and (len(value) > MAX_KEY or not _PRINTABLE.fullmatch(value)):
        raise BadRequest("The endpoint's key holds characters that no key has; look at its source.")
    return Key(value)


def _from_environment(name: str, environment: Mapping[str, str]) -> str:
    if not (value := environment.get(name, "")):
        raise BadRequest(
            f"api_key_env names {name}, which is not set where midspan serve was started."
        )
    return value


def _from_file(name: str, environment: Mapping[str, str]) -> str:
    path = Path(name).expanduser()
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.getuid():
                raise BadRequest(f"The key in {path} can be read by others: chmod 600 it.")
            value = (file.read(MAX_KEY + 1) or b"").decode().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest(f"The key in {path} cannot be read: {_reason(exc)}.") from None
    if not value:
        raise BadRequest(f"{path} holds no key.")
    return value


def _without_waiting(path: str, flags: int) -> int:
    """Open what may be a pipe: one that nobody writes to holds no key."""
    return os.open(path, flags | os.O_NONBLOCK)


def _from_keyring(name: str, environment: Mapping[str, str]) -> str:
    service, slash, user = name.partition("/")
    if not (service and slash and user):
        raise BadRequest(f"api_key_keyring is {name!r}, not SERVICE/USER.")
    try:
        import keyring
        import keyring.errors
    except ImportError as exc:
        raise EngineMissing(
            "The keyring is not installed: pip install 'midspan[keyring]', or use api_key_file."
        ) from exc
    try:
        value: str | None = keyring.get_password(service, user)
    except keyring.errors.KeyringError as exc:
        raise BadRequest(
            f"The system's keyring did not give {name}: {type(exc).__name__}."
        ) from None
    if not value:
        raise BadRequest(f"The keyring holds nothing for {name}.")
    return value


def _reason(exc: OSError | UnicodeDecodeError) -> str:
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else "it is not text"
