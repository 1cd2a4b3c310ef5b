"""From a request to the tokens of its prompt, with the document's anchors.

While one types behind an anchor, the tokens before the typed text are the same list as last time,
and only the typed text is tokenised. Rule: decides nothing about the KV cache; it only gives the
prompt a `key` (document, anchor) under which its sequence is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count

from backends.backend import ContextChunk, InfillRequest
from backends.decoding import healing
from backends.decoding.token_model import TokenModel
from backends.errors import BadRequest
from fim.build import build
from fim.prompt import Control, Piece, Prompt
from fim.templates import Template
from fim.window import Anchor, Budget, Placement, place

MAX_DOCUMENTS = 64
ANCHORS_PER_DOCUMENT = 3
# A cold anchor is evaluated before the first token can come: longer than this feels broken.
COLD_PREFILL_MS = 1000.0
# In tokens. Steps, so that a jittery measurement does not move the window's edges.
WINDOWS = (256, 512, 1024, 2048, 4096)
SUFFIX_SHARE = 0.25
CHARS_PER_TOKEN = 3.0  # a first guess for code; too generous a window is cut again below


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt ready to be evaluated. `pending` are bytes to generate again (token healing)."""

    key: Hashable
    tokens: list[int]
    pending: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Anchored:
    """An anchor and the tokens of everything up to it."""

    id: int
    anchor: Anchor
    extra: tuple[ContextChunk, ...]
    tokens: list[int]


class Prompter:
    """Builds prompts for one model, remembering a few anchors for each open document."""

    def __init__(
        self, model: TokenModel, template: Template, prefill_rate: Callable[[], float]
    ) -> None:
        """Take `prefill_rate()` in tokens per second, as measured so far."""
        self._model = model
        self._template = template
        self._prefill_rate = prefill_rate
        self._anchored: OrderedDict[str, list[_Anchored]] = OrderedDict()
        self._ids = count()

    def prompt(self, request: InfillRequest) -> TokenPrompt:
        """Return the prompt for `request`. Raises BadRequest where it can't fit the context."""
        window = self._window(request)
        while True:
            anchored, placement, prompt = self._place(request, window)
            kept, pending = healing.split(
                self._model.tokenize(prompt.tail), self._model.token_bytes
            )
            tokens = [*anchored.tokens, *kept, *self._tokens(prompt.close)]
            if len(tokens) < self._model.context_length:
                break
            # The text has fewer characters to a token than guessed, or much repository context.
            if window <= 1:
                raise BadRequest("the context chunks leave no room for the document itself")
            window //= 2
        if request.document is not None:
            self._remember(request.document, anchored)
        return TokenPrompt(
            key=(request.document, anchored.id),
            tokens=tokens,
            pending=pending,
            truncated=len(placement.anchor.before) + len(placement.typed) < len(request.prefix)
            or len(placement.anchor.suffix) < len(request.suffix),
        )

    def forget(self, document: str) -> None:
        """Drop the anchors of a closed document."""
        self._anchored.pop(document, None)

    def _window(self, request: InfillRequest) -> int:
        """Return how many tokens of the document to show: what a cold prefill can afford."""
        budget_ms = request.prompt_ms if request.prompt_ms is not None else COLD_PREFILL_MS
        affordable = self._prefill_rate() * budget_ms / 1000
        window = max((size for size in WINDOWS if size <= affordable), default=WINDOWS[0])
        # Long completions end early rather than see nothing of the document.
        length = self._model.context_length
        room = length - min(request.max_tokens, length // 4) - healing.MAX_DROPPED
        return min(window, room)

    def _place(self, request: InfillRequest, window: int) -> tuple[_Anchored, Placement, Prompt]:
        known = [
            anchored
            for anchored in self._anchored.get(request.document or "", [])
            if anchored.extra == request.extra
        ]
        budget = Budget(
            before_chars=int(window * (1 - SUFFIX_SHARE) * CHARS_PER_TOKEN),
            suffix_chars=int(window * SUFFIX_SHARE * CHARS_PER_TOKEN),
        )
        placement = place(
            [anchored.anchor for anchored in known], request.prefix, request.suffix, budget
        )
        prompt = build(
            self._template,
            placement,
            extra=[(chunk.filename, chunk.text) for chunk in request.extra],
            path=request.path,
        )
        for anchored in known:
            if anchored.anchor == placement.anchor:
                return anchored, placement, prompt
        tokens = self._tokens(prompt.head)
        if self._model.vocab.bos is not None:
            tokens.insert(0, self._model.vocab.bos)
        anchored = _Anchored(next(self._ids), placement.anchor, request.extra, tokens)
        return anchored, placement, prompt

    def _remember(self, document: str, anchored: _Anchored) -> None:
        """Put `anchored` first among its document's, and the document last to be dropped."""
        others = [other for other in self._anchored.pop(document, []) if other is not anchored]
        self._anchored[document] = [anchored, *others][:ANCHORS_PER_DOCUMENT]
        while len(self._anchored) > MAX_DOCUMENTS:
            self._anchored.popitem(last=False)

    def _tokens(self, pieces: Sequence[Piece]) -> list[int]:
        """Tokenise pieces: control tokens by lookup, text with specials off."""
        tokens: list[int] = []
        for piece in pieces:
            if isinstance(piece, Control):
                tokens.append(self._model.vocab.control_tokens[piece.token])
            else:
                tokens.extend(self._model.tokenize(piece.text))
        return tokens
