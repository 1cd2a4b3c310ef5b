"""Import `lsprotocol.types` in two thirds of its time: an editor waits for this process.

Rule: called once, by the process that is the language server, before pygls is imported; without
it everything works the same, later.
"""

from __future__ import annotations

import functools
import sys


def import_lsprotocol() -> None:
    """Import it without a `__repr__` and an `__eq__` for each of its 550 classes.

    attrs compiles those one by one, which is 120 of 280 ms; neither we nor pygls compare or print
    messages (and a message that cannot be printed cannot end up in a log).
    """
    if "lsprotocol.types" in sys.modules:
        return
    import attrs

    define = attrs.define
    attrs.define = functools.partial(define, repr=False, eq=False)
    try:
        import lsprotocol.types  # noqa: F401
    finally:
        attrs.define = define
