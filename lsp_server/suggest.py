"""From a snapshot to a suggestion: it is known, or the manager is asked and its answer tidied.

Rule: the one way to the model for every feature. Never raises for what a model, the manager or a
post-processor does; the reason goes to the status, and what was asked for by hand can read it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backends.errors import MidspanError
from lsp_server import snapshot as snapshots
from lsp_server import status
from lsp_server.generations import Rank
from lsp_server.snapshot import Snapshot
from lsp_server.stats import Purpose
from lsp_server.suggestion_cache import State

if TYPE_CHECKING:
    from lsp_server.language_server import MidspanServer

logger = logging.getLogger(__name__)

SLOW_S = 0.2  # a suggestion that takes longer is shown to be under way
# How a text other than the likeliest is drawn.
DRAWN = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True, slots=True)
class Ask:
    """How much is wanted, and how long that may take."""

    max_tokens: int
    single_line: bool
    deadline_ms: int
    debounce_ms: int = 0
    by_hand: bool = False
    seed: int | None = None  # None is the likeliest text; else another one is drawn


@dataclass(frozen=True, slots=True)
class Answer:
    r"""What `model` gave, tidied, with `\n` line ends; where `text` is empty, `reason` says why."""

    text: str
    reason: str
    model: str
    cut: bool = False  # the time was up


def while_typing(ls: MidspanServer, snapshot: Snapshot, *, automatic: bool) -> Ask:
    """What is asked for at a cursor; `automatic` if the user did not press a key for it."""
    settings = ls.settings
    single_line = snapshots.single_line(snapshot, settings.multiline, automatic=automatic)
    return Ask(
        max_tokens=settings.max_tokens_line if single_line else settings.max_tokens,
        single_line=single_line,
        deadline_ms=settings.deadline_ms if automatic else settings.deadline_action_ms,
        debounce_ms=settings.debounce_ms if automatic else 0,
    )


async def suggest(ls: MidspanServer, snapshot: Snapshot, ask: Ask) -> str:
    """The text for the gap, with the document's line ends; "" if there is none for any reason.

    What a known suggestion says is answered at once. Else one generation per document: it gives
    way to a newer one, and to an edit. Cancelling the caller closes the connection to the
    manager, which stops the model.
    """
    ls.idle.asked(snapshot)
    text = None if ask.by_hand else _known(ls, snapshot, ask)
    if text is None:
        rank = Rank.BY_HAND if ask.by_hand else Rank.TYPING
        text = await ls.generations.run(snapshot.uri, _generate(ls, snapshot, ask), rank)
        document = ls.documents.get(snapshot.uri)
        if text is None or document is None or document.revision != snapshot.revision:
            ls.status.none(status.MOVED_ON)
            return ""
    if text and not ask.by_hand:
        ls.idle.shown(snapshot, text)
    return text.replace("\n", snapshot.line_ending)


async def fetch(ls: MidspanServer, snapshot: Snapshot, ask: Ask, *, ahead: bool = False) -> Answer:
    """Ask the manager; the suggestion is known from then on. Raises MidspanError."""
    from fim.postprocess import tidy

    epoch = ls.suggestions.epoch
    request = body(ls, snapshot, ask)
    answer = await ls.manager.infill({**request, "ahead": True} if ahead else request)
    ls.stats.evaluated(answer, _purpose(ask, ahead=ahead))
    tidied = tidy(
        str(answer.get("content") or ""),
        prefix=snapshot.before,
        suffix=snapshot.after,
        single_line=ask.single_line,
        language_id=snapshot.language_id,
    )
    model = str(answer.get("model") or "")
    if not ask.by_hand:
        state = state_of(snapshot, ask)
        ls.suggestions.keep(state, tidied.text, model=model, epoch=epoch, ahead=ahead)
    return Answer(tidied.text, tidied.reason, model, answer.get("finish_reason") == "deadline")


async def alternatives(
    ls: MidspanServer,
    snapshot: Snapshot,
    ask: Ask,
    *,
    known: Iterable[str],
    wanted: int,
    draws: int,
    give: Callable[[str], None],
) -> None:
    """Find `wanted` further texts for the gap in `draws` draws at most; `give` each as it comes.

    The texts have the document's line ends, as those `known` have. Ends quietly when the document
    moves on, a newer request comes, the time of `ask` is up, or the manager fails: the user has a
    suggestion already. The same request draws the same texts.
    """
    seen = set(known)
    ends = time.monotonic() + ask.deadline_ms / 1000

    async def draw() -> None:
        given = 0
        for seed in range(1, draws + 1):
            left_ms = round(1000 * (ends - time.monotonic()))
            document = ls.documents.get(snapshot.uri)
            moved_on = document is None or document.revision != snapshot.revision
            if given == wanted or left_ms <= 0 or moved_on:
                return
            drawn = replace(ask, seed=seed, deadline_ms=left_ms, by_hand=True)
            try:
                answer = await fetch(ls, snapshot, drawn)
            except MidspanError as exc:
                logger.debug("no further suggestion: %s", exc)
                return
            if answer.cut:  # the time was up
                return
            text = answer.text.replace("\n", snapshot.line_ending)
            if text and text not in seen:
                seen.add(text)
                given += 1
                give(text)

    rank = Rank.BY_HAND if ask.by_hand else Rank.TYPING
    await ls.generations.run(snapshot.uri, draw(), rank)


def _purpose(ask: Ask, *, ahead: bool) -> Purpose:
    if ahead:
        return Purpose.AHEAD
    return Purpose.BY_HAND if ask.by_hand else Purpose.KEY


def state_of(snapshot: Snapshot, ask: Ask) -> State:
    """Return what the suggestion cache knows an answer by."""
    return State(snapshot.uri, snapshot.before, snapshot.after, ask.single_line, ask.max_tokens)


def _known(ls: MidspanServer, snapshot: Snapshot, ask: Ask) -> str | None:
    """What a suggestion made before says here; None if there is none."""
    hit = ls.suggestions.find(state_of(snapshot, ask))
    if hit is None:
        return None
    ls.generations.cancel(snapshot.uri, Rank.TYPING)
    ls.stats.known(hit.source)
    ls.status.known()
    return hit.text


async def _generate(ls: MidspanServer, snapshot: Snapshot, ask: Ask) -> str:
    if ask.debounce_ms:
        await asyncio.sleep(ask.debounce_ms / 1000)
    try:
        with ls.status.working("Completing", delay_s=SLOW_S):
            answer = await fetch(ls, snapshot, ask)
    except MidspanError as exc:
        ls.status.failed(exc)
        return ""
    except Exception as exc:  # a bug of ours: in the log, not in the user's face
        ls.report_server_error(exc, type(exc))
        ls.status.failed(MidspanError(status.BUG))
        return ""
    ls.status.answered(answer.model)
    if not answer.text:
        ls.status.none(answer.reason or status.EMPTY)
    return answer.text


def body(ls: MidspanServer, snapshot: Snapshot, ask: Ask) -> dict[str, object]:
    """Return the manager's request for `ask`."""
    drawn = {"temperature": 0} if ask.seed is None else {**DRAWN, "seed": ask.seed}
    return {
        "input_prefix": snapshot.before,
        "input_suffix": snapshot.after,
        "n_predict": ask.max_tokens,
        "single_line": ask.single_line,
        "limit_scope": not ask.single_line,
        "deadline_ms": ask.deadline_ms,
        **drawn,
        "document": snapshot.uri,
        "path": shown_path(ls, snapshot.path),
    }


def shown_path(ls: MidspanServer, path: str) -> str:
    """The path as a model sees it: from its workspace folder on, so that no home folder shows."""
    folders = (folder.uri for folder in ls.workspace.folders.values())
    for root in (ls.workspace.root_path, *map(_path_of, folders)):
        if root and path.startswith(root.rstrip("/") + "/"):
            return path[len(root.rstrip("/")) + 1 :]
    return path.rpartition("/")[2]


def _path_of(uri: str) -> str | None:
    from pygls.uris import to_fs_path

    return to_fs_path(uri)
