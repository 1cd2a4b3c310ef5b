"""Sampling from a mood: arousal and valence become temperature and top_p.

Rule: a pure function over numbers, standard library only. For chat alone; inline completion is
greedy, and must not know this.
"""

from __future__ import annotations

import math
from dataclasses import replace

from backends.backend import Sampling
from backends.errors import BadRequest

MAX_TEMPERATURE = 2.0  # what every engine takes
MIN_TOP_P = 0.01  # 0 would leave no token at all


def modulate(arousal: float, valence: float, base: Sampling | None = None) -> Sampling:
    """Return `base` with temperature 0.7 − 0.2 · arousal and top_p 0.9 + 0.1 · valence.

    Both are clamped to what engines take: temperature 0 (greedy) to 2, top_p 0.01 to 1. 0 is a
    mood like any other: (0, 0) gives 0.7 and 0.9. Raises BadRequest for what is no finite number.
    """
    if not (math.isfinite(arousal) and math.isfinite(valence)):
        raise BadRequest("arousal and valence must be finite numbers")
    return replace(
        base or Sampling(),
        temperature=min(MAX_TEMPERATURE, max(0.0, 0.7 - 0.2 * arousal)),
        top_p=min(1.0, max(MIN_TOP_P, 0.9 + 0.1 * valence)),
    )
