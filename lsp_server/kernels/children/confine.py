"""Takes limits on for good, then becomes the program it was given.

Rule: runs before any generated code, inside the sandbox; a limit that cannot be set ends it. Must
not know what it becomes.
"""

from __future__ import annotations

import os
import resource
import sys


def main(arguments: list[str]) -> None:
    """`RESOURCE=VALUE … -- PROGRAM ARGUMENT …`; the names are those of the resource module."""
    cut = arguments.index("--")
    for setting in arguments[:cut]:
        name, _, value = setting.partition("=")
        limit = int(value)
        resource.setrlimit(getattr(resource, name), (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    program = arguments[cut + 1 :]
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
