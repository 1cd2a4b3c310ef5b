"""Which files of a repository make up the model to fetch.

Rule: pure. One model is one GGUF, all parts of a split one, or a folder of safetensors with its
configuration and tokenizer. What the user named is taken; else the best quantisation for the
machine (`quantisation.advise`), where the files are quantisations of one model; where they are
several models, the user must say which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backends import gguf_parts, model_folder, quantisation
from backends.cache_spec import ModelCacheSpec
from backends.downloads.hub import Listing, RemoteFile
from backends.errors import BadRequest, Conflict, Unsupported
from backends.quantisation import Candidate

# Not models by themselves: what sees for them, and what a quantisation was weighted by.
_BESIDE: Final = re.compile(r"(^|[-_.])(mmproj|imatrix|mtp)([-_.]|$)", re.IGNORECASE)
_MADE_HOW: Final = re.compile(r"(?:^|(?<=[-_.]))(ud|i1|imat)(?:[-_.]|$)", re.IGNORECASE)
_FOLDER_WEIGHTS: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
FOLDER_WISH: Final = "safetensors"
_WHOLE_BITS: Final = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5}  # the same everywhere
MOST_NAMED: Final = 12  # files that a message lists


class Kind(StrEnum):
    """What a model is made of."""

    GGUF = "gguf"
    FOLDER = "folder"  # safetensors, for transformers or MLX


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asks for; empty where it is left open."""

    file: str = ""
    quantisation: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides which quantisation suits. Bytes; `context` in tokens."""

    free_bytes: int
    quick_bytes: int
    context: int
    parameters: int = 0  # of the model; 0: unknown
    spec: ModelCacheSpec | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of one model, the first of `files` being the one that is loaded of a GGUF."""

    kind: Kind
    files: tuple[RemoteFile, ...]
    quantisation: str
    reason: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class _Variant:
    """A GGUF of a repository, with all its parts."""

    called: str
    files: tuple[RemoteFile, ...]
    complete: bool
    is_split: bool

    @property
    def label(self) -> str:
        return quantisation.from_name(self.called)

    @property
    def stem(self) -> str:
        """The name without what the quantisation adds to it: that of the model."""
        name = self.called.rpartition("/")[2].lower()
        name = name.replace(self.label.lower(), "") if self.label else name
        name = _MADE_HOW.sub("", re.sub("fp(16|32)", "", name))
        return re.sub(r"[-_.]+", "-", name).strip("-")

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def choose(listing: Listing, wish: Wish, machine: Machine) -> Chosen:
    """Return the files to fetch. Raises BadRequest, Conflict, Unsupported."""
    variants = _variants(listing.files)
    if wish.quantisation.lower() == FOLDER_WISH or not variants:
        return _folder(listing, wish)
    if wish.file:
        return _named(variants, wish.file, listing)
    if wish.quantisation:
        return _quantised(variants, wish.quantisation, listing)
    return _advised(variants, machine, listing)


def _variants(files: Iterable[RemoteFile]) -> list[_Variant]:
    parts: dict[str, list[tuple[int, int, RemoteFile]]] = {}
    for file in files:
        if not file.path.endswith(".gguf") or _BESIDE.search(file.path.rpartition("/")[2]):
            continue
        called = file.path.removesuffix(".gguf")
        split = gguf_parts.PART.fullmatch(called)
        row = (int(split[2]), int(split[3]), file) if split else (0, 0, file)
        parts.setdefault(split[1] if split else called, []).append(row)
    return [_variant(called, rows) for called, rows in sorted(parts.items())]


def _variant(called: str, rows: list[tuple[int, int, RemoteFile]]) -> _Variant:
    whole = [row[2] for row in rows if row[1] == 0]
    if whole:  # some repositories hold the same weights whole and split
        return _Variant(called, (whole[0],), complete=True, is_split=False)
    rows.sort(key=lambda row: row[0])
    complete = [row[0] for row in rows] == list(range(1, rows[0][1] + 1))
    return _Variant(called, tuple(row[2] for row in rows), complete, is_split=True)


def _named(variants: Sequence[_Variant], wish: str, listing: Listing) -> Chosen:
    wanted = wish.removesuffix(".gguf")
    split = gguf_parts.PART.fullmatch(wanted)
    wanted = split[1] if split else wanted
    found = [v for v in variants if wanted in (v.called, v.called.rpartition("/")[2])]
    if len(found) != 1:
        raise BadRequest(f"{listing.repository} has no file {wish!r}: {_listed(variants)}.")
    return _taken(found[0], "as asked for")


def _quantised(variants: Sequence[_Variant], wish: str, listing: Listing) -> Chosen:
    wanted = quantisation.from_name(wish) or wish.upper()
    found = [variant for variant in variants if variant.label == wanted]
    if not found:
        raise BadRequest(f"{listing.repository} has nothing in {wish}: {_listed(variants)}.")
    if len(found) > 1:
        raise BadRequest(
            f"{listing.repository} has several files in {wanted}: {_listed(found)}. Say which "
            "with its file name."
        )
    return _taken(found[0], "as asked for")


def _advised(variants: Sequence[_Variant], machine: Machine, listing: Listing) -> Chosen:
    if len(variants) == 1:
        return _taken(variants[0], "the only file")
    counts = Counter(variant.label for variant in variants)
    single = {v.label: v for v in variants if v.label and counts[v.label] == 1 and v.complete}
    stems = {variant.stem for variant in single.values()}
    if len(stems) != 1:
        raise BadRequest(
            f"{listing.repository} holds several models: {_listed(variants)}. Say which with its "
            "file name, or its quantisation."
        )
    parameters = machine.parameters or _parameters(single.values())
    candidates = [
        Candidate(label, v.size, 8 * v.size / parameters if parameters else 0.0, machine.spec)
        for label, v in single.items()
    ]
    advice = quantisation.advise(
        candidates, machine.free_bytes, machine.context, quick_bytes=machine.quick_bytes
    )
    if advice.best is None:
        raise Conflict(
            f"Of {listing.repository} {advice.reason} Or insist on a file, or a quantisation."
        )
    return _taken(single[advice.best.name], advice.reason)


def _parameters(variants: Iterable[_Variant]) -> int:
    """Return the weights that the files hold, where one of them tells; 0 where none does."""
    told = (int(8 * v.size / _WHOLE_BITS[v.label]) for v in variants if v.label in _WHOLE_BITS)
    return next(told, 0)


def _taken(variant: _Variant, reason: str) -> Chosen:
    if not variant.complete:
        raise Conflict(f"The hub lacks parts of {variant.called}; the model cannot be fetched.")
    return Chosen(Kind.GGUF, variant.files, variant.label, reason)


def _listed(variants: Sequence[_Variant]) -> str:
    shown = [
        f"{v.files[0].path} ({len(v.files)} parts)" if v.is_split else v.files[0].path
        for v in variants[:MOST_NAMED]
    ]
    more = f" and {len(variants) - MOST_NAMED} more" if len(variants) > MOST_NAMED else ""
    return f"it has {', '.join(shown)}{more}"


def _folder(listing: Listing, wish: Wish) -> Chosen:
    """Choose the files of a folder of safetensors: those at the top that engines read."""
    top = [file for file in listing.files if "/" not in file.path]
    weights = [file for file in top if _FOLDER_WEIGHTS.fullmatch(file.path)]
    names = {file.path for file in top}
    if wish.file or (wish.quantisation and wish.quantisation.lower() != FOLDER_WISH):
        raise BadRequest(f"{listing.repository} has no GGUF files to choose from.")
    if not weights:
        pickled = [name for name in listing.skipped if name.endswith(model_folder.PICKLES)]
        why = (
            f", only {pickled[0]}: such files can run any code when they are loaded, so they are "
            "refused. Look for a GGUF or safetensors version"
            if pickled
            else ""
        )
        raise Unsupported(f"{listing.repository} holds no GGUF and no safetensors model{why}.")
    for needed in (model_folder.CONFIG, model_folder.TOKENIZER):
        if needed not in names:
            raise Unsupported(f"{listing.repository} holds no {needed}, which the engines need.")
    texts = [file for file in top if not file.path.endswith((".safetensors", ".gguf"))]
    files = tuple(sorted((*texts, *weights), key=lambda file: file.path))
    return Chosen(Kind.FOLDER, files, "", "the repository's weights")
