"""What the manager keeps between its runs: the selected model, added models, safe-mode choices.

Rule: one small JSON file, replaced in one step. A file that is missing, torn or of another shape
counts as empty, and failing to write it costs the memory, never the service. Must not know what
the entries mean.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from backends import paths

logger = logging.getLogger(__name__)


class Selection(msgspec.Struct, frozen=True):
    """The model the user chose, and what the configuration said then."""

    model: str
    configured: str  # if the configuration says something else now, that is the newer wish


class _Kept(msgspec.Struct):
    selection: Selection | None = None
    models: dict[str, str] = msgspec.field(default_factory=dict)
    safe_mode: list[str] = msgspec.field(default_factory=list)


class Remembered:
    """The contents of `manager-memory.json` in the state folder."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "manager-memory.json"
        self._kept = self._load()

    @property
    def selection(self) -> Selection | None:
        """The model selected last."""
        return self._kept.selection

    @property
    def models(self) -> dict[str, str]:
        """Models the user added: name → path."""
        return dict(self._kept.models)

    def needs_safe_mode(self, machine: str) -> bool:
        """Whether this build and processor (`machine`) crashed without safe mode before."""
        return machine in self._kept.safe_mode

    def select(self, selection: Selection) -> None:
        """Keep the user's choice of model."""
        if selection != self._kept.selection:
            self._kept.selection = selection
            self._save()

    def add_model(self, name: str, path: Path) -> None:
        """Keep a model the user added."""
        self._kept.models[name] = str(path)
        self._save()

    def remove_model(self, name: str) -> None:
        """Forget a model the user added."""
        if self._kept.models.pop(name, None) is not None:
            self._save()

    def use_safe_mode(self, machine: str) -> None:
        """Keep that this build and processor need safe mode."""
        if machine not in self._kept.safe_mode:
            self._kept.safe_mode.append(machine)
            self._save()

    def _load(self) -> _Kept:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return _Kept()
        except (OSError, msgspec.MsgspecError) as exc:
            logger.warning("%s is ignored: %s", self._path, exc)
            return _Kept()

    def _save(self) -> None:
        try:
            paths.write_private(self._path, msgspec.json.encode(self._kept))
        except OSError as exc:
            logger.warning("%s could not be written: %s", self._path, exc)
