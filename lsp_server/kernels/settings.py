"""`[kernels]` of the user's file: how kernels are generated and checked.

Rule: only the user's scope; a repository must not choose what runs. Cheap to import.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.config_schema import setting

TABLE = "kernels"


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """`[kernels]`."""

    python: str = setting(
        "",
        "Python that has torch, and triton or numba, to check kernels with; empty for the one that "
        "runs midspan.",
        path="program",
    )
    workers: int = setting(4, "Kernels that a model writes side by side.", low=1, high=16)
    rounds: int = setting(
        3, "How often each of them is written again after it failed its checks.", low=1, high=20
    )
    time_limit_s: float = setting(
        600.0,
        "How long a kernel may take to generate, checks included.",
        unit="s",
        low=10,
        high=7200,
    )
    max_tokens: int = setting(
        2048, "Longest kernel that a model writes.", unit="tokens", low=64, high=8192
    )
