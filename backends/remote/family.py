"""Which template a remote model gets, and which texts its tokenizer may take for control tokens.

Rule: pure. An engine elsewhere does not show its vocabulary, so the name must tell, or the user
does; a name that could be several families gives none. Must not know engines.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from backends.errors import BadRequest
from fim.catalogue import DENIED, FAMILIES, Template
from fim.templates import ADVICE, NoFim, normalise

# What a name must say to be of a family, searched in this order: unlike `Template.names`, which is
# asked once the vocabulary has left few families to choose from.
_NAMED = tuple(
    (family, re.compile(rf"(?:^|-)(?:{pattern})(?:-|$)"))
    for family, pattern in (
        ("codeqwen1.5", r"codeqwen[0-9.]*"),
        ("deepseek-coder", r"deepseek(?:-[a-z0-9.]+)*?-coder|deepseek-?coder"),
        ("falcon-h1-tiny-coder", r"falcon-h1(?:-[a-z0-9.]+)*?-coder"),
        ("seed-coder", r"seed-coder"),
        ("starcoder2", r"starcoder2"),
        ("starcoder", r"starcoder(?:base|plus)?|refact"),
        ("santacoder", r"santacoder"),
        ("stable-code", r"stable-?code"),
        ("mellum", r"mellum[0-9.]*"),
        ("granite-4", r"granite-4(?:\.[0-9]+)?"),
        ("granite-code", r"granite(?:-[a-z0-9.]+)*?-code|granite-3\.3"),
        ("codellama", r"code-?llama"),
        ("codegemma", r"code-?gemma"),
        ("codestral", r"codestral"),
        ("aixcoder", r"aixcoder"),
        ("glm-4.5", r"glm-4\.[5-7]"),
        ("qwen2.5-coder", r"qwen[0-9.]*(?:-[a-z0-9.]+)*?-coder|qwen[0-9.]*coder|midspan-starter"),
    )
)
_BY_FAMILY = {row.family: row for row in FAMILIES}

# Suffix and middle are written with a space before them where a prompt is text.
_SPACED = frozenset({"codellama"})

# What tokenizers of any family take for one token, even inside a document.
_GENERAL = (
    r"<\|[^|<>\s]{1,40}\|>",
    r"<｜[^｜<>\s]{1,40}｜>",
    r"<\[[^\]<>\s]{1,40}\]>",
    r"<(?:fim|file|repo|jupyter|issue|pr|commit|gh|reponame|filename)[_\-]?[a-z_]{0,20}>",
    r"<unused[0-9]+>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT)\]",
    r"</?(?:tool_call|tool_response|think|start_of_turn|end_of_turn|s|bos|eos|unk|pad|mask)>",
)
_SPELT = sorted({token for row in FAMILIES for token in row.stop_tokens if token}, key=len)
# All of them begin with one of two characters, which makes long texts quick to search.
CONTROL = re.compile(rf"(?=[<\[])(?:{'|'.join([*map(re.escape, reversed(_SPELT)), *_GENERAL])})")


def by_name(name: str) -> Template | NoFim:
    """Return the template of the model that an engine calls `name`."""
    words = normalise(name)
    for denied in DENIED:
        if denied.names.search(words):
            return NoFim(f"{denied.reason}. {ADVICE}.")
    for family, pattern in _NAMED:
        if pattern.search(words):
            return _BY_FAMILY[family]
    return NoFim(
        f"midspan does not know how “{name}” was trained to fill in the middle. If it was, set "
        "its family in the configuration."
    )


def chosen(family: str) -> Template:
    """Return the template of a family that the user named. Raises BadRequest."""
    if (row := _BY_FAMILY.get(family)) is None:
        raise BadRequest(f"There is no family {family!r}; there are {', '.join(_BY_FAMILY)}.")
    return row


def within(template: Template, vocabulary: Collection[str]) -> Template | NoFim:
    """Return `template` with the context tokens that `vocabulary` has, NoFim if it lacks others."""
    if lacking := [token for token in template.fim_tokens if token not in vocabulary]:
        return NoFim(
            f"The model's vocabulary lacks {', '.join(lacking)} of the family {template.family}."
        )
    context = template.context
    if context is not None and context.file and context.file not in vocabulary:
        return replace(template, context=None)
    if context is not None and context.repository not in vocabulary:
        return replace(template, context=replace(context, repository=""))
    return template


def as_text(template: Template) -> Template:
    """Return `template` with its tokens as they are written in a prompt that is text."""
    if template.family not in _SPACED:
        return template
    return replace(template, suffix=f" {template.suffix}", middle=f" {template.middle}")


def spellings(text: str) -> set[str]:
    """Return the parts of `text` that a tokenizer might take for control tokens."""
    return {match[0] for match in CONTROL.finditer(text)}


def without_control(prefix: str, suffix: str, reach: int) -> tuple[str, str]:
    """Return as much of the text around the cursor as can go out as text.

    A spelling of a control token ends what is shown, on its side of the cursor. Only the `reach`
    characters on each side are looked at: no more of them may be shown.
    """
    start = max(0, len(prefix) - reach)
    begin = max((match.end() for match in CONTROL.finditer(prefix, start)), default=0)
    found = CONTROL.search(suffix, 0, reach)
    return prefix[begin:], suffix[: found.start()] if found else suffix
