"""The envelope of every benchmark's JSON, and the statistics they share.

Must not know any benchmark.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("midspan", "llama-cpp-python", "pygls", "lsprotocol", "numpy")


def report(name: str, parameters: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return the benchmark's one JSON object."""
    return {
        "name": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "parameters": parameters,
        "results": results,
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on: CPU, cores, system and versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),  # of the moment the report is written
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def quantile(values: Sequence[float], q: float) -> float:
    """Return the `q` quantile (0 to 1) by linear interpolation; `values` must not be empty."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share, 95 % by default; (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share(successes: int, n: int) -> dict[str, Any]:
    """Return a share in percent with its interval, as reports print it."""
    low, high = wilson(successes, n)
    return {
        "count": successes,
        "of": n,
        "percent": round(100 * successes / n, 2) if n else None,
        "interval_95": [round(100 * low, 2), round(100 * high, 2)],
    }
