"""What can be downloaded, and what of it suits a machine.

Rule: pure. The verdict comes from bytes: weights of the best quantisation, cells of the context
that would be used, free memory; and from how much this machine reads in the time of a token. The
recommendation is the largest of the family to begin with that suits the machine and may be used
freely, and of those of one size the quickest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends import auto_config, memory, quantisation
from backends.downloads.catalogue import BITS, DOWNLOADABLE, Downloadable
from backends.downloads.choice import Machine
from backends.hardware import Hardware
from backends.quantisation import Candidate

FREE_LICENCES: Final = frozenset({"apache-2.0", "mit"})
# By published results the best at filling in the middle, size by size.
FIRST_FAMILY: Final = "qwen2.5-coder"


@dataclass(frozen=True, slots=True)
class Offer:
    """A row of the catalogue and what this machine makes of it. Bytes are estimates."""

    row: Downloadable
    quantisation: str
    size_bytes: int
    memory_bytes: int
    fits: str  # yes, tight (it fits, but slowly) or no
    why: str


def machine(hardware: Hardware, row: Downloadable | None = None) -> Machine:
    """Return what decides for the model of `row` on this machine."""
    own = int(hardware.best.free_bytes * auto_config.USED_SHARE)
    free = own + int(hardware.memory_available * memory.KEPT_SHARE)
    quick = auto_config.quick_bytes(hardware)
    if row is None:
        return Machine(free, quick, memory.MAX_CONTEXT)
    if row.active:  # a token reads its experts alone
        quick = int(quick * row.parameters / row.active)
    context = memory.context(0, row.context_length)
    if own:  # what the device's own memory does not hold is slow
        cells = row.spec.cache_bytes(context) if row.spec else 0
        quick = min(quick, max(own - cells, 0))
    return Machine(free, quick, context, int(row.parameters * 1e9), row.spec)


def offer(row: Downloadable, hardware: Hardware) -> Offer:
    """Return the verdict on one model."""
    here = machine(hardware, row)
    candidates = [
        Candidate(name, row.file_bytes(name), BITS[name], row.spec) for name in row.quantisations
    ]
    advice = quantisation.advise(
        candidates, here.free_bytes, here.context, quick_bytes=here.quick_bytes
    )
    fit = advice.fits[0] if advice.best else min(advice.fits, key=lambda one: one.needs)
    if advice.best is None:
        fits = "no"
    else:
        fits = "yes" if fit.candidate.file_bytes <= here.quick_bytes else "tight"
    return Offer(
        row=row,
        quantisation=fit.candidate.name,
        size_bytes=fit.candidate.file_bytes,
        memory_bytes=fit.needs,
        fits=fits,
        why=f"{fit.reason}: {advice.reason}",
    )


def offers(hardware: Hardware) -> list[Offer]:
    """Return the verdict on every model of the catalogue."""
    return [offer(row, hardware) for row in DOWNLOADABLE]


def recommended(found: Sequence[Offer], hardware: Hardware) -> str:
    """Return the name of the model to begin with; the smallest where none suits."""
    firsts = [
        one
        for one in found
        if one.row.family == FIRST_FAMILY
        and one.row.format == "gguf"
        and one.row.licence in FREE_LICENCES
        # A prompt needs all the experts, so a CPU evaluates it as slowly as a large model's.
        and not (one.row.active and hardware.best.name == "cpu")
    ]
    good = [one for one in firsts if one.fits == "yes"]
    # The first of equals: base models stand before those that were made to chat.
    best = max(good, key=lambda one: _size_and_speed(one.row), default=None)
    return (best or min(firsts, key=lambda one: one.size_bytes)).row.name


def _size_and_speed(row: Downloadable) -> tuple[int, float]:
    return round(math.log2(row.parameters)), -(row.active or row.parameters)


def as_json(one: Offer, downloaded: bool) -> dict[str, Any]:
    """Return an offer as the API has it."""
    row = one.row
    return {
        "name": row.name,
        "repository": row.repository,
        "family": row.family,
        "architecture": row.architecture,
        "format": row.format,
        "parameters": row.parameters,
        "active_parameters": row.active or row.parameters,
        "licence": row.licence,
        "fim": row.fim,
        "chat": row.chat,
        "context_length": row.context_length,
        "note": row.note,
        "downloaded": downloaded,
        "quantisation": one.quantisation,
        "size_bytes": one.size_bytes,
        "memory_bytes": one.memory_bytes,
        "fits": one.fits,
        "why": one.why,
    }
