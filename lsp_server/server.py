"""Where the language server starts: `run` is `midspan lsp`.

Rule: file descriptors first, then imports: pygls, lsprotocol and every feature are imported only
after stdin and stdout are safe.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lsp_server import stdio

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

LOG_LEVELS = ("debug", "info", "warning", "error")


def create_server() -> MidspanServer:
    """Make a language server with every feature registered; nothing is started."""
    from lsp_server.features import (
        code_actions,
        commands,
        completion,
        config_diagnostics,
        configuration,
        copilot,
        copilot_legacy,
        document_digests,
        inline_completion,
        kernels,
        startup,
    )
    from lsp_server.language_server import MidspanServer

    server = MidspanServer()
    features = (
        configuration,
        config_diagnostics,
        startup,
        inline_completion,
        completion,
        code_actions,
        commands,
        kernels,
        copilot,
        copilot_legacy,
        document_digests,
    )
    for feature in features:
        feature.register(server)
    return server


def run(argv: Sequence[str]) -> int:
    """Serve one editor over stdio until it goes; return the exit code.

    0 after `shutdown` and `exit`, 1 if the client ended otherwise, 2 for unknown arguments.
    `--stdio` is accepted and means nothing, since many clients add it. `--set lsp.KEY=VALUE`
    sets what is then no editor's to change. `$MIDSPAN_LOG` sets the level of the log on stderr:
    debug, info, warning (default) or error.
    """
    assigned, unknown = _arguments(argv)
    if unknown:
        sys.stderr.write(f"midspan lsp: unknown argument {unknown[0]!r}\n")
        return 2
    reading, writing = stdio.claim()
    _log_to_stderr(os.environ.get("MIDSPAN_LOG", "warning").lower())

    gc.disable()  # nothing that importing makes is garbage: looking for it takes 40 ms
    from lsp_server.quick_import import import_lsprotocol

    import_lsprotocol()
    from backends import config_layers

    server = create_server()
    server.configuration.above = tuple(config_layers.assignments(assigned))
    gc.freeze()
    gc.enable()
    loop = asyncio.new_event_loop()
    try:
        code = loop.run_until_complete(server.serve(reading, writing))
    except KeyboardInterrupt:
        code = 1
    if any(not thread.daemon for thread in threading.enumerate()[1:]):
        # A thread may be starting a manager: that takes up to 45 s, and the editor is gone.
        os._exit(code)
    return code


def _arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the assignments of `--set`, and what is not known."""
    assigned, unknown = [], []
    rest = iter(argv)
    for argument in rest:
        if argument == "--set":
            assigned.append(next(rest, ""))
        elif argument.startswith("--set="):
            assigned.append(argument.removeprefix("--set="))
        elif argument != "--stdio":
            unknown.append(argument)
    return assigned, unknown


class _StderrHandler(logging.Handler):
    """Writes from a thread: an editor that does not read our stderr must not stop the server."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = stdio.Writer(2, lambda reason: None, max_unsent=1_000_000)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(f"{self.format(record)}\n".encode("utf-8", "replace"))

    def close(self) -> None:
        self._writer.close(timeout=0.5)
        super().close()


def _log_to_stderr(level: str) -> None:
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper() if level in LOG_LEVELS else "WARNING")
    # pygls logs whole messages at INFO and parameters in its errors; `protocol` logs instead.
    logging.getLogger("pygls").setLevel(logging.CRITICAL)
