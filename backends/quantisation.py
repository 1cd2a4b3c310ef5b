"""How a model's weights are quantised, and which quantisation suits a machine.

Rule: the tensors decide what a GGUF is, then its header, and its name is a hint that may be wrong;
where they disagree, that is said. Advice comes from bytes: file, KV cells and free memory. Pure
functions. Must not know how files are found or fetched.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.cache_spec import ModelCacheSpec
from backends.gguf_header import GGUFHeader
from backends.model_folder import FolderHeader

# ggml's tensor types by number.
TENSOR_TYPE_NAMES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K"), 6)),
    **dict(enumerate(("Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S"), 14)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64"), 20)),
    **dict(enumerate(("F64", "IQ1_M", "BF16"), 28)),
    **dict(enumerate(("TQ1_0", "TQ2_0"), 34)),
    **dict(enumerate(("MXFP4", "NVFP4", "Q1_0", "Q2_0"), 39)),
}

# llama.cpp's file types by number: the name, and the tensor types that may hold most of the
# weights in such a file. The larger K mixes keep many tensors one or two steps finer.
FILE_TYPES: Final[dict[int, tuple[str, frozenset[str]]]] = {
    number: (name, frozenset(types.split()))
    for number, name, types in (
        (0, "F32", "F32"),
        (1, "F16", "F16"),
        (2, "Q4_0", "Q4_0"),
        (3, "Q4_1", "Q4_1"),
        (7, "Q8_0", "Q8_0"),
        (8, "Q5_0", "Q5_0"),
        (9, "Q5_1", "Q5_1"),
        (10, "Q2_K", "Q2_K Q3_K"),
        (11, "Q3_K_S", "Q3_K"),
        (12, "Q3_K_M", "Q3_K Q4_K"),
        (13, "Q3_K_L", "Q3_K Q5_K"),
        (14, "Q4_K_S", "Q4_K"),
        (15, "Q4_K_M", "Q4_K Q6_K"),
        (16, "Q5_K_S", "Q5_K"),
        (17, "Q5_K_M", "Q5_K Q6_K"),
        (18, "Q6_K", "Q6_K"),
        (19, "IQ2_XXS", "IQ2_XXS"),
        (20, "IQ2_XS", "IQ2_XS"),
        (21, "Q2_K_S", "Q2_K"),
        (22, "IQ3_XS", "IQ3_XXS IQ3_S"),
        (23, "IQ3_XXS", "IQ3_XXS"),
        (24, "IQ1_S", "IQ1_S"),
        (25, "IQ4_NL", "IQ4_NL"),
        (26, "IQ3_S", "IQ3_S"),
        (27, "IQ3_M", "IQ3_S"),
        (28, "IQ2_S", "IQ2_XS IQ2_S"),
        (29, "IQ2_M", "IQ2_S"),
        (30, "IQ4_XS", "IQ4_XS"),
        (31, "IQ1_M", "IQ1_M"),
        (32, "BF16", "BF16"),
        (36, "TQ1_0", "TQ1_0"),
        (37, "TQ2_0", "TQ2_0"),
        (38, "MXFP4_MOE", "MXFP4"),
        (39, "NVFP4", "NVFP4"),
        (40, "Q1_0", "Q1_0"),
        (41, "Q2_0", "Q2_0"),
    )
}
GUESSED: Final = 1024  # added to a file type by programs that were not told
# What tensors fall back to where their rows are no whole number of K or IQ blocks: most of a
# model whose width is no multiple of 256.
_FALLBACKS: Final = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "F16"})
_COARSE: Final = re.compile(r"(Q\d_K|IQ)")

_NAMES: Final = frozenset(name for name, _ in FILE_TYPES.values()) | {"MXFP4"}
_IN_NAME: Final = re.compile(
    r"(?<![A-Za-z0-9])("
    + "|".join(sorted(_NAMES, key=len, reverse=True))
    + r"|FP16|FP32)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_SPELLINGS: Final = {"FP16": "F16", "FP32": "F32", "MXFP4": "MXFP4_MOE"}


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a file's weights are stored."""

    name: str  # as llama.cpp calls it, e.g. "Q4_K_M"
    bits_per_weight: float  # over all tensors; 0 where it was not counted
    tensors: tuple[tuple[str, int], ...]  # (type, bytes), most first
    warning: str = ""  # the name of the file, or its header, says something else


def from_name(name: str) -> str:
    """Return the quantisation that a file's name claims, "" where it claims none."""
    found = _IN_NAME.findall(name)
    if not found:
        return ""
    claimed = str(found[-1]).upper()
    return _SPELLINGS.get(claimed, claimed)


def of_header(header: GGUFHeader | FolderHeader, name: str = "") -> Quantisation:
    """Return how the weights of a model's file or folder are stored."""
    if isinstance(header, GGUFHeader):
        return of(header, name)
    bits = header.quantization.get("bits", header.quantization.get("num_bits"))
    method = header.quantization.get("quant_method", "")
    packed = f"{bits}bit" if isinstance(bits, int) else str(method)
    return Quantisation(packed or header.dtype, 0.0, ())


def of(header: GGUFHeader, file_name: str = "") -> Quantisation:
    """Return how a GGUF's weights are quantised: by its tensors, then its header, then its name."""
    tensors = sorted(header.type_bytes.items(), key=lambda row: row[1], reverse=True)
    named = tuple((TENSOR_TYPE_NAMES.get(kind, f"type {kind}"), size) for kind, size in tensors)
    bits = 8 * sum(header.type_bytes.values()) / header.parameters if header.parameters else 0.0
    most = named[0][0] if named else ""
    number = header.file_type
    said = None if number is None else FILE_TYPES.get(number % GUESSED)
    claimed = from_name(file_name)
    name, warnings = most, []
    if said is not None and (not most or _agrees(said, most)):
        name = said[0]
    elif said is not None:
        warnings.append(f"its header says {said[0]}")
    if claimed and not _claim_agrees(claimed, name, most):
        warnings.append(f"its name says {claimed}")
    warning = f"most of its weights are {most or name}, but {' and '.join(warnings)}"
    return Quantisation(name, bits, named, warning if warnings else "")


def _agrees(said: tuple[str, frozenset[str]], most: str) -> bool:
    name, types = said
    return most in types or (_COARSE.match(name) is not None and most in _FALLBACKS)


def _claim_agrees(claimed: str, name: str, most: str) -> bool:
    if claimed == name:
        return True
    # Without a word in the header the tensors say the type and not the mix: Q4_K of Q4_K_M.
    row = next((row for row in FILE_TYPES.values() if row[0] == claimed), None)
    return name == most and row is not None and most in row[1]


# -- advice ---------------------------------------------------------------------------------------

OVERHEAD: Final = 160 * 1024 * 1024  # bytes of a worker beside weights and cells
# Bits a weight below which a model is visibly worse than a smaller one with more; by common
# measurements of K-quants.
POOR_BITS: Final = 3.5
ENOUGH_BITS: Final = 8.6  # Q8_0 is 8.5: more bits are slower and change no answer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of a model that could be used."""

    name: str
    file_bytes: int
    bits_per_weight: float = 0.0  # 0: unknown
    spec: ModelCacheSpec | None = None  # what it caches; None: unknown


@dataclass(frozen=True, slots=True)
class Fit:
    """What a candidate would take of the memory there is."""

    candidate: Candidate
    needs: int  # bytes: weights, cells, and what a worker takes
    fits: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Which candidate to take, if any fits, and why; `fits` has all of them, best first."""

    best: Candidate | None
    reason: str
    fits: tuple[Fit, ...]


def advise(
    candidates: Sequence[Candidate],
    free_bytes: int,
    context: int,
    kv_type: str = "",
    *,
    quick_bytes: int = sys.maxsize,
) -> Advice:
    """Return which of several files of one model, or of several models, suits the machine.

    The finest that fits together with the cells of `context` tokens, but nothing finer than 8 bits
    while there is such a one, and nothing of more than `quick_bytes`, which this machine would be
    slow with. Where only poor or slow ones fit, that is said.
    """
    rows = sorted(
        (_fit(one, free_bytes, context, kv_type) for one in candidates),
        key=lambda fit: (not fit.fits, *_preference(fit.candidate, quick_bytes)),
    )
    best = rows[0] if rows and rows[0].fits else None
    return Advice(
        best.candidate if best else None, _why(rows, best, free_bytes, quick_bytes), tuple(rows)
    )


def _fit(candidate: Candidate, free: int, context: int, kv_type: str) -> Fit:
    cells = candidate.spec.cache_bytes(context, kv_type) if candidate.spec else 0
    needs = candidate.file_bytes + cells + OVERHEAD
    parts = f"{_size(candidate.file_bytes)} of weights"
    if cells:
        parts += f" and {_size(cells)} for {context} tokens"
    verdict = f"{_size(free)} free" if needs <= free else f"only {_size(free)} free"
    return Fit(candidate, needs, needs <= free, f"{parts}; {verdict}")


def _preference(candidate: Candidate, quick_bytes: int) -> tuple[bool, bool, int]:
    """Sort key: quick before slow; up to 8 bits the largest first, then the smallest."""
    slow = candidate.file_bytes > quick_bytes
    beyond = candidate.bits_per_weight > ENOUGH_BITS
    return slow, beyond, candidate.file_bytes if beyond or slow else -candidate.file_bytes


def _why(rows: Sequence[Fit], best: Fit | None, free: int, quick_bytes: int) -> str:
    if not rows:
        return "there is nothing to choose from"
    if best is None:
        least = min(row.needs for row in rows)
        return (
            f"none fits: the smallest needs {_size(least)} and {_size(free)} are free. Close "
            "something, lower context_length, or take a smaller model."
        )
    if best.candidate.file_bytes > quick_bytes:
        return (
            f"it fits, but this machine writes slowly with more than {_size(quick_bytes)} of "
            "weights: a smaller model suits completion better"
        )
    bits = best.candidate.bits_per_weight
    if 0 < bits < POOR_BITS:
        return (
            f"the finest that fits has {bits:.1f} bits a weight, which costs much quality: a "
            "smaller model at 4 bits or more is usually better"
        )
    if any(row.fits and row.candidate.file_bytes > quick_bytes for row in rows):
        return f"the finest that is quick here; more than {_size(quick_bytes)} of weights is not"
    return "the finest that fits" if len(rows) > 1 else "it fits"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
