"""Where midspan keeps things: runtime, state, configuration and model folders.

Rule: folders are found and checked here and nowhere else; a folder that another user could have
prepared is refused. Standard library at import, since the language server imports it; must not
know what is kept in the folders.
"""

from __future__ import annotations

import logging
import os
import stat
from functools import cache
from pathlib import Path

from backends.errors import ManagerUnavailable

logger = logging.getLogger(__name__)


def runtime_dir() -> Path:
    """Return the user's private folder for the state file and locks, made with mode 0700.

    `$MIDSPAN_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/midspan`, else one per user in the temporary
    folder. Raises ManagerUnavailable where it is not ours alone.
    """
    if explicit := os.environ.get("MIDSPAN_RUNTIME_DIR"):
        return _private(Path(explicit))
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        try:
            return _private(Path(xdg, "midspan"))
        except ManagerUnavailable as exc:
            warn_once(f"{exc} The temporary folder is used instead.")
    import tempfile  # 5 ms, and only needed here

    return _private(Path(tempfile.gettempdir(), f"midspan-{os.getuid()}"))


def state_dir() -> Path:
    """Return the folder of what outlives the manager: logs, the selected and added models.

    `$MIDSPAN_STATE_DIR`, else the platform's. Where it cannot be written (a read-only home) the
    runtime folder serves, and one log line says so.
    """
    if explicit := os.environ.get("MIDSPAN_STATE_DIR"):
        wanted = Path(explicit)
    else:
        import platformdirs  # 15 ms

        wanted = Path(platformdirs.user_state_dir("midspan", appauthor=False))
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
        reason = "it is not writable"
    except OSError as exc:
        reason = exc.strerror or str(exc)
    fallback = _private(runtime_dir() / "state")
    warn_once(f"{wanted} cannot be used ({reason}); {fallback} is used instead.")
    return fallback


def cells_dir() -> Path:
    """Return the private folder of models' cells, which hold prompts as tokens; mode 0700.

    In the state folder, wherever that had to be. Raises ManagerUnavailable where it is not ours
    alone, OSError.
    """
    return _private(state_dir() / "cells", "The folder of saved cells", "MIDSPAN_STATE_DIR")


def config_file() -> Path:
    """Return the user's configuration file, which need not exist: `$MIDSPAN_CONFIG` or default."""
    if explicit := os.environ.get("MIDSPAN_CONFIG"):
        return Path(explicit)
    import platformdirs

    return Path(platformdirs.user_config_dir("midspan", appauthor=False), "config.toml")


def models_dir() -> Path:
    """Return the folder in which GGUF files are found without being added; need not exist."""
    if explicit := os.environ.get("MIDSPAN_MODELS_DIR"):
        return Path(explicit)
    import platformdirs

    return Path(platformdirs.user_data_dir("midspan", appauthor=False), "models")


def vectors_dir() -> Path:
    """Return the folder of the user's steering vectors; need not exist."""
    if explicit := os.environ.get("MIDSPAN_VECTORS_DIR"):
        return Path(explicit)
    import platformdirs

    return Path(platformdirs.user_data_dir("midspan", appauthor=False), "steering")


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step, readable by the user alone. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _private(
    path: Path, called: str = "The runtime folder", variable: str = "MIDSPAN_RUNTIME_DIR"
) -> Path:
    """Make `path` if missing and check that it is a folder of ours that no one else can enter."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as exc:
        raise ManagerUnavailable(
            f"{called} {path} cannot be used: {exc.strerror}. "
            f"Set {variable} to a folder of your own."
        ) from exc
    if not stat.S_ISDIR(info.st_mode):
        problem = "it is a link or no folder"
    elif info.st_uid != os.getuid():
        problem = "it belongs to another user"
    elif info.st_mode & 0o077:
        problem = f"its mode is {stat.S_IMODE(info.st_mode):o}, not 700"
    elif not os.access(path, os.W_OK | os.X_OK):
        problem = "it is not writable"
    else:
        return path
    raise ManagerUnavailable(
        f"{called} {path} is refused: {problem}. "
        f"Remove it, or set {variable} to a folder of your own."
    )


@cache
def warn_once(message: str) -> None:
    """Log what would else be said at every request."""
    logger.warning("%s", message)
