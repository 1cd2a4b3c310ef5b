"""What is shown at a kernel: code lenses and diagnostics.

Rule: pure: what is known of a kernel file in, what the editor shows out. An action is offered only
where it makes sense: a kernel is put to use only when it is verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lsprotocol import types

from lsp_server.features.kernel_answers import failure_text
from lsp_server.features.kernel_documents import KernelFile
from lsp_server.kernels import files
from lsp_server.protocol import position_of

SOURCE = "midspan kernel"


def lenses(kernel: KernelFile) -> list[types.CodeLens]:
    """Return the statement and the actions, above the kernel's function."""
    start = position_of(kernel.document.place(_at_function(kernel)))
    argument = {"uri": kernel.document.uri}
    return [
        types.CodeLens(
            types.Range(start, start),
            types.Command(title, f"midspan.kernel.{name}", arguments=[argument]),
        )
        for title, name in _offers(kernel)
    ]


def _offers(kernel: KernelFile) -> Iterator[tuple[str, str]]:
    """Titles and the last parts of the commands' names."""
    yield kernel.statement, "evidence"
    if kernel.task is None:
        return
    found = kernel.evidence
    if found is None:
        yield ("Verify" if kernel.is_unchecked else "Verify again"), "verify"
        return
    if found.failure is not None:
        if found.failure.counterexample:
            yield "Show the counterexample", "counterexample"
        yield "Repair", "repair"
    elif not kernel.verified:  # what could not be checked then may be possible now
        yield "Verify again", "verify"
    if kernel.verified and kernel.can_be_called:
        yield f"Call it from {kernel.task.name}", "insert"
    yield "Try another", "resample"


def diagnostics(kernel: KernelFile) -> list[types.Diagnostic]:
    """Return what is wrong with the kernel, at the line that is to blame."""
    failure = kernel.evidence.failure if kernel.evidence else None
    if failure is None:
        return []
    document = kernel.document
    at = _at_function(kernel)
    line = document.line_of(at)
    if failure.line:
        wanted = files.line_in_file(document.text, failure.line) - 1
        line = min(wanted, document.line_count - 1)
    start, end = document.line_bounds(line)
    text = document.text[start:end]
    start += len(text) - len(text.lstrip())
    return [
        types.Diagnostic(
            range=types.Range(position_of(document.place(start)), position_of(document.place(end))),
            message=failure_text(failure),
            severity=types.DiagnosticSeverity.Error,
            source=SOURCE,
            code=failure.level.name.lower(),
        )
    ]


def _at_function(kernel: KernelFile) -> int:
    """The offset of the function that is called; of the first line where it is missing."""
    name = re.escape(kernel.marker.function)
    found = re.search(rf"^def {name}\b", kernel.document.text, re.MULTILINE)
    return found.start() if found else 0
