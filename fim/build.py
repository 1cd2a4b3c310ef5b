"""From a template and a placement to the pieces of a prompt.

Rule: control tokens come from the template, all else is text; the suffix is always there, and
windows were cut before, so nothing is ever cut from a finished prompt. Must not know tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence

from fim.catalogue import Order, OwnPath, Place, Template
from fim.prompt import Control, Piece, Prompt, Text
from fim.window import Placement

REPOSITORY = "repository"


def build(
    template: Template,
    placement: Placement,
    *,
    extra: Sequence[tuple[str, str]] = (),
    path: str | None = None,
    repository: str = REPOSITORY,
) -> Prompt:
    """Return the anchored prompt: only its tail grows while one types.

    `extra` are other files as (path, text), the most relevant last; families that were trained
    without other files are not shown them. `path` is the current file's; `repository` is the
    project's name, shown before other files by the families that have it there.
    """
    ahead, inside = _context(template, extra, path, repository)
    before = _led(template, inside + placement.anchor.before)
    suffix = placement.anchor.suffix
    pre, suf, mid = (_control(t) for t in (template.prefix, template.suffix, template.middle))
    match template.order:
        case Order.PSM:
            head = _pieces(*ahead, *pre, before, *suf, suffix, *mid)
            return Prompt(head, placement.typed)
        case Order.SPM:
            head = _pieces(*ahead, *suf, suffix, *pre, before)
            return Prompt(head, placement.typed, mid)
        case Order.SPM_MIDDLE_FIRST:
            head = _pieces(*ahead, *pre, *suf, suffix, *mid, before)
            return Prompt(head, placement.typed)


def plain(template: Template, prefix: str, suffix: str) -> Prompt:
    """Return the prompt with no anchor: the whole prefix is the tail, and healed at its end."""
    pre, suf, mid = (_control(t) for t in (template.prefix, template.suffix, template.middle))
    tail = _led(template, prefix)
    match template.order:
        case Order.PSM:
            return Prompt(pre, tail, _pieces(*suf, suffix, *mid))
        case Order.SPM:
            return Prompt(_pieces(*suf, suffix, *pre), tail, mid)
        case Order.SPM_MIDDLE_FIRST:
            return Prompt(_pieces(*pre, *suf, suffix, *mid), tail)


def _led(template: Template, prefix: str) -> str:
    """Return `prefix` behind the text that training put before every prefix that has any."""
    return template.prefix_lead + prefix if prefix else ""


def _control(token: str) -> tuple[Piece, ...]:
    return (Control(token),) if token else ()


def _pieces(*parts: Piece | str) -> tuple[Piece, ...]:
    """Return the parts as pieces; neighbouring texts become one, as they would be tokenised."""
    pieces: list[Piece] = []
    for part in parts:
        if not isinstance(part, str):
            pieces.append(part)
        elif part and pieces and isinstance(last := pieces[-1], Text):
            pieces[-1] = Text(last.text + part)
        elif part:
            pieces.append(Text(part))
    return tuple(pieces)


def _context(
    template: Template, extra: Sequence[tuple[str, str]], path: str | None, repository: str
) -> tuple[list[Piece | str], str]:
    """Return what goes before the first FIM token, and what begins the prefix's text."""
    form = template.context
    if form is None:
        return [], ""
    shown = extra if form.others else ()
    own = path if path and (shown or form.own_path is OwnPath.ALWAYS) else None
    if form.place is Place.IN_PREFIX:
        files = [f"{form.file_text}{name}\n{_ended(text, form.end)}" for name, text in shown]
        return [], "".join(files) + (f"{form.file_text}{own}\n" if own else "")
    ahead: list[Piece | str] = []
    if shown and form.repository:
        ahead += [Control(form.repository), f"{repository}{form.repository_end}"]
    for name, text in shown:
        ahead += [Control(form.file), f"{name}\n{_ended(text, form.end)}"]
    if form.place is Place.OWN_PATH_IN_PREFIX:
        return ([*ahead, Control(form.file)], f"{own}\n" if own else "") if shown else ([], "")
    if own:
        ahead += [Control(form.file), f"{own}\n"]
    return ahead, ""


def _ended(text: str, end: str) -> str:
    """Return `text` ending with `end`, which is not doubled."""
    return text if not end or text.endswith(end) else text.rstrip("\r\n") + end
