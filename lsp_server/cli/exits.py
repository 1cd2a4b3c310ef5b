"""The exit codes of `midspan`, one table. They are stable: scripts depend on them.

Must not know any command.
"""

from __future__ import annotations

from enum import IntEnum

from backends import errors


class Exit(IntEnum):
    """What a command's exit code says; `docs/cli.md` shows the same table."""

    OK = 0  # done
    FAILURE = 1  # something failed that no other code names
    USAGE = 2  # an argument is wrong: unknown command, no such file, position outside the file
    NO_SUGGESTION = 3  # it worked, and the model has nothing to suggest there
    UNAVAILABLE = 4  # the manager, the engine or the model cannot be had
    INTERRUPTED = 130  # Ctrl-C, as shells number it


# The first row whose class matches counts.
_ROWS: tuple[tuple[type[errors.MidspanError], Exit], ...] = (
    (errors.BadRequest, Exit.USAGE),
    (errors.UnknownModel, Exit.USAGE),
    (errors.Conflict, Exit.FAILURE),
    (errors.NoFim, Exit.UNAVAILABLE),
    (errors.Unsupported, Exit.UNAVAILABLE),
    (errors.ModelFileError, Exit.UNAVAILABLE),
    (errors.EngineMissing, Exit.UNAVAILABLE),
    (errors.ManagerUnavailable, Exit.UNAVAILABLE),
    (errors.BackendError, Exit.UNAVAILABLE),
    (errors.MidspanError, Exit.FAILURE),
)


def exit_code(error: errors.MidspanError) -> Exit:
    """Return the exit code that `error` ends a command with."""
    return next(code for kind, code in _ROWS if isinstance(error, kind))
