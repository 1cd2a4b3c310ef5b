"""Which template a model gets: its vocabulary's control tokens and an allow and deny list decide.

Rule: tokens first, names second. A name alone never picks a format (a substring of it gave
qwen2.5-coder Llama's tokens elsewhere), and tokens alone don't prove that they were trained. Names
are compared word by word. Must not know engines: the caller brings the control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from fim.catalogue import DENIED, FAMILIES, Context, Order, OwnPath, Place, Template

__all__ = [
    "DENIED",
    "FAMILIES",
    "Context",
    "NoFim",
    "Order",
    "OwnPath",
    "Place",
    "Template",
    "api_stops",
    "called",
    "detect",
    "normalise",
]

ADVICE = "Choose a model that is trained for it, for example Qwen2.5-Coder"

# SentencePiece and byte-level vocabularies write a leading space as these; some families'
# control tokens carry one ("▁<PRE>").
_SPACES = ("", "\u2581", "\u0120", " ")


@dataclass(frozen=True, slots=True)
class NoFim:
    """The model can't fill in the middle; `reason` is a sentence for the user."""

    reason: str


def detect(control_tokens: Mapping[str, int], *, architecture: str, name: str) -> Template | NoFim:
    """Return the template of a model, its tokens spelt as in `control_tokens` (text → id).

    `architecture` is GGUF's `general.architecture` or transformers' `model_type`, `name` the
    model's own name from its metadata. Context tokens that the vocabulary lacks are left out.
    """
    words = normalise(name)
    for denied in DENIED:
        if denied.names.search(words):
            return NoFim(f"{denied.reason}. {ADVICE}.")
    spelt = [
        found for row in FAMILIES if (found := _in_vocabulary(row, control_tokens)) is not None
    ]
    if not spelt:
        return NoFim(
            f"The vocabulary of {_shown(name)} has no fill-in-the-middle tokens: it is a chat or "
            f"plain text model. {ADVICE}."
        )
    kind = re.sub(r"[^a-z0-9]", "", architecture.lower())
    same_architecture = [row for row in spelt if kind in row.architectures]
    for row in same_architecture:
        if row.names is None or row.names.search(words):
            return row
    if same_architecture:
        return NoFim(
            f"The vocabulary of {_shown(name)} has the tokens of {same_architecture[0].family}, "
            "but chat and base models share that vocabulary untrained, and the model's name is "
            f"not one of those known to be trained on them. {ADVICE}."
        )
    return NoFim(
        f"The vocabulary of {_shown(name)} has the tokens of {spelt[0].family}, but its "
        f"architecture “{architecture}” is none that this family has, so they may be "
        f"untrained. {ADVICE}."
    )


def called(name: str, path: str | PurePath) -> str:
    """Return what `detect` should take a model's name to be: its own, and its file's.

    Many conversions leave `general.name` empty or call it "Model"; the file's name then tells.

    >>> called("", "/models/qwen2.5-coder-1.5b-q8_0.gguf")
    'qwen2.5-coder-1.5b-q8_0'
    """
    return f"{name} {PurePath(path).stem}".strip()


def api_stops(template: Template, limit: int = 4) -> tuple[str, ...]:
    """Return the stop strings to send to an API that takes at most `limit` of them.

    The rest of `template.stop_tokens` is for the caller to cut at.
    """
    return template.stop_tokens[: max(0, limit)]


def normalise(name: str) -> str:
    """Return `name` as lower-case words joined by "-": the form the lists' patterns match.

    >>> normalise("Qwen2.5 Coder_7B (Instruct)")
    'qwen2.5-coder-7b-instruct'
    """
    return "-".join(re.findall(r"[a-z0-9.]+", name.lower()))


def _shown(name: str) -> str:
    return f"“{name}”" if name else "this model"


def _in_vocabulary(row: Template, control_tokens: Mapping[str, int]) -> Template | None:
    """Return `row` with its tokens as the vocabulary spells them, None where one is missing."""

    def spelling(token: str) -> str | None:
        return next((s + token for s in _SPACES if s + token in control_tokens), None)

    def optional(token: str) -> str:
        return (spelling(token) or "") if token else ""

    prefix, suffix = spelling(row.prefix), spelling(row.suffix)
    middle = spelling(row.middle) if row.middle else ""
    if prefix is None or suffix is None or middle is None:
        return None
    context = row.context
    if context is not None and context.file:
        file = optional(context.file)
        context = (
            replace(context, file=file, repository=optional(context.repository)) if file else None
        )
    return replace(
        row,
        prefix=prefix,
        suffix=suffix,
        middle=middle,
        context=context,
        # An end token that the vocabulary lacks as a control token (chat's <|im_end|>) stays
        # listed by its plain name: text APIs still want it.
        end_tokens=tuple(spelling(token) or token for token in row.end_tokens),
    )
