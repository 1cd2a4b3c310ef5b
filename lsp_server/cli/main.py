"""Where the `midspan` command starts.

Rule: decides on `sys.argv` alone whether this is the language server, before importing anything:
an editor waits for it. Every other command is click's (`lsp_server.cli.app`).
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run `midspan` with `argv` (default: the process's) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["lsp"] and not {"-h", "--help"} & set(arguments):
        from lsp_server.server import run

        return run(arguments[1:])
    from lsp_server.cli.app import run_command

    return run_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
