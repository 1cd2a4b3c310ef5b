"""What a verification may use, and with which Python. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from lsp_server.kernels.sandbox import Bounds

TARGETS = ("sm_80", "sm_90", "gfx942")


@dataclass(frozen=True, slots=True)
class Limits:
    """`python` is the interpreter with torch in it, this one when empty. `seed` fixes the hidden
    inputs, for tests and to repeat a failure; None draws one. `call_s` bounds one call, in seconds.
    """

    python: str = ""
    seed: int | None = None
    call_s: float = 20
    targets: tuple[str, ...] = TARGETS
    reference: Bounds = field(default_factory=lambda: Bounds(wall_s=900, cpu_s=300))
    candidate: Bounds = field(default_factory=lambda: Bounds(wall_s=90, cpu_s=90))
    compiler: Bounds = field(default_factory=lambda: Bounds(wall_s=90, cpu_s=90, processes=True))
