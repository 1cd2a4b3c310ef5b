"""From a request to the tokens of its prompt, with the document's anchors.

While one types behind an anchor, the tokens before the typed text are the same list as last time,
and only the typed text is tokenised. Rule: decides nothing about the KV cache; it only gives the
prompt a `key` (document, anchor) under which its sequence is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from backends import errors
from backends.backend import ContextChunk, InfillRequest
from backends.decoding import healing
from backends.decoding.token_model import TokenModel
from backends.errors import BadRequest
from fim.build import build
from fim.prompt import Control, Piece, Prompt
from fim.templates import NoFim, Template
from fim.window import TYPED_SHARE, Anchor, Budget, place

MAX_DOCUMENTS = 64
ANCHORS_PER_DOCUMENT = 3
# A cold anchor is evaluated before the first token can come: longer than this feels broken.
COLD_PREFILL_MS = 1000.0
# Its larger successor is evaluated while nothing else is, and given up for any key.
IDLE_PREFILL_MS = 5000.0
# In tokens. Steps, so that a jittery measurement does not move the window's edges.
WINDOWS = (256, 512, 1024, 2048, 4096)
DENSITY_SAMPLE = 2000  # characters before the cursor, to see how many make a token


@dataclass(frozen=True, slots=True)
class Anchored:
    """An anchor and the tokens of everything up to it, control tokens and context included."""

    anchor: Anchor
    extra: tuple[ContextChunk, ...]
    window: int  # tokens of the document that it was to show
    density: float  # characters per token there
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt ready to be evaluated. `pending` are bytes to generate again (token healing)."""

    document: str | None
    anchored: Anchored
    tokens: list[int]
    pending: bytes
    truncated: bool  # the document has more text than the prompt shows
    typed_far: bool  # a new anchor will soon be needed

    @property
    def mark_at(self) -> int:
        """Return the length at which a model that can't be trimmed is to be marked.

        Not at the anchor's end: with nothing typed, the logits after its last token are needed.
        """
        return len(self.anchored.tokens) - 1

    @property
    def key(self) -> Hashable:
        """Return what the prompt's sequence is kept under: the document and the anchor's text."""
        return self.document, self.anchored.anchor, self.anchored.extra


class Prompter:
    """Builds prompts for one model, remembering a few anchors for each open document."""

    def __init__(
        self, model: TokenModel, template: Template | NoFim, prefill_rate: Callable[[], float]
    ) -> None:
        """Take `prefill_rate()` in tokens per second, as measured so far."""
        self._model = model
        self._template = template
        self._prefill_rate = prefill_rate
        self._known: OrderedDict[str, list[Anchored]] = OrderedDict()

    def prompt(self, request: InfillRequest) -> TokenPrompt:
        """Return the prompt for `request`, behind an anchor that holds or else a new one.

        Raises BadRequest where even the smallest can't fit the context, NoFim where the model has
        no template.
        """
        known = self._known.get(request.document or "", [])
        known = [anchored for anchored in known if anchored.extra == request.extra]
        window = self._window(request, request.prompt_ms or COLD_PREFILL_MS)
        return self._fitting(request, window, known)

    def prepared(self, request: InfillRequest, current: TokenPrompt) -> TokenPrompt | None:
        """Return the prompt to evaluate while nothing else is, for the keys after `current`.

        It shows more of the document than `prompt` can afford, or moves the anchor up to the
        cursor before there is too much typed text behind it. None where neither gains anything.
        """
        window = self._window(request, IDLE_PREFILL_MS)
        grows = current.truncated and window > current.anchored.window
        return self._fitting(request, window, []) if grows or current.typed_far else None

    def remember(self, prompt: TokenPrompt) -> None:
        """Put the prompt's anchor first among its document's; the oldest document may go."""
        if prompt.document is None:
            return
        known = self._known.pop(prompt.document, [])
        others = [other for other in known if other.anchor != prompt.anchored.anchor]
        self._known[prompt.document] = [prompt.anchored, *others][:ANCHORS_PER_DOCUMENT]
        while len(self._known) > MAX_DOCUMENTS:
            self._known.popitem(last=False)

    def _window(self, request: InfillRequest, prefill_ms: float) -> int:
        """Return how many tokens of the document to show: what a prefill of that time affords."""
        affordable = self._prefill_rate() * prefill_ms / 1000
        window = max((size for size in WINDOWS if size <= affordable), default=WINDOWS[0])
        # Long completions end early rather than see nothing of the document.
        length = self._model.context_length
        room = length - min(request.max_tokens, length // 4) - healing.MAX_DROPPED
        return min(window, int(room / (1 + TYPED_SHARE)))

    def _fitting(
        self, request: InfillRequest, window: int, known: Sequence[Anchored]
    ) -> TokenPrompt:
        """Return the prompt for a window of `window` tokens, or smaller if the context is."""
        while True:
            prompt = self._build(request, window, known)
            if len(prompt.tokens) < self._model.context_length:
                return prompt
            # Much was typed behind the anchor, denser text than the sample, or much context.
            if window <= 1:
                raise BadRequest("the context chunks leave no room for the document itself")
            known, window = [], window // 2

    def _build(self, request: InfillRequest, window: int, known: Sequence[Anchored]) -> TokenPrompt:
        if isinstance(self._template, NoFim):
            raise errors.NoFim(f"This model can't fill in the middle: {self._template.reason}")
        anchors = [anchored.anchor for anchored in known]
        density = self._density(request, known)
        budget = Budget.of_window(window * density)
        placement = place(anchors, request.prefix, request.suffix, budget)
        extra = [(chunk.filename, chunk.text) for chunk in request.extra]
        prompt = build(self._template, placement, extra=extra, path=request.path)
        anchored = (
            known[anchors.index(placement.anchor)]
            if placement.kept
            else Anchored(placement.anchor, request.extra, window, density, self._head(prompt))
        )
        kept, pending = healing.split(self._model.tokenize(prompt.tail), self._model.token_bytes)
        return TokenPrompt(
            document=request.document,
            anchored=anchored,
            tokens=[*anchored.tokens, *kept, *tokens_of(self._model, prompt.close)],
            pending=pending,
            truncated=len(placement.anchor.before) + len(placement.typed) < len(request.prefix)
            or len(placement.anchor.suffix) < len(request.suffix),
            typed_far=2 * len(placement.typed) > placement.anchor.budget.typed_chars,
        )

    def _density(self, request: InfillRequest, known: Sequence[Anchored]) -> float:
        """Return the characters per token around here: as before for a known document."""
        if known:
            return known[0].density
        sample = request.prefix[-DENSITY_SAMPLE:] or request.suffix[:DENSITY_SAMPLE]
        return max(1.0, len(sample)) / max(1, len(self._model.tokenize(sample)))

    def _head(self, prompt: Prompt) -> list[int]:
        bos = self._model.vocab.bos
        return [*([] if bos is None else [bos]), *tokens_of(self._model, prompt.head)]


def tokens_of(model: TokenModel, pieces: Sequence[Piece]) -> list[int]:
    """Tokenise pieces: control tokens by lookup, text with specials off. For every prompt."""
    tokens: list[int] = []
    for piece in pieces:
        if isinstance(piece, Control):
            tokens.append(model.vocab.control_tokens[piece.token])
        else:
            tokens.extend(model.tokenize(piece.text))
    return tokens
