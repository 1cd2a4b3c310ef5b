"""From a request to what goes out: an anchored prompt as token ids or text, or prefix and suffix.

Anchors are kept per document as for local models, so that each key only appends to a prompt whose
beginning the engine has cached. Rule: no text of a document ever becomes a control token: as ids,
it is tokenised with specials off and apart from their spellings; as text, what spells one is not
shown. Must not know HTTP; `Tokenizer` is asked for tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from backends.backend import ContextChunk, InfillRequest
from backends.decoding.boundaries import MAX_DROPPED, split
from backends.errors import BadRequest
from backends.remote.family import CONTROL, as_text, spellings, without_control
from backends.remote.profiles import Healing
from fim.build import build
from fim.catalogue import Template
from fim.prompt import Control, Piece, apart
from fim.window import TYPED_SHARE, Anchor, Budget, Placement, place

MAX_DOCUMENTS = 64
ANCHORS_PER_DOCUMENT = 3
DENSITY = 3.0  # characters per token, where nobody counts them
SAFE = 0.6  # of the context is used then: text may be denser than thought
REACH = 65536  # characters on each side of the cursor, of which windows show a part
MAX_WORD = 24  # characters left off the end of a text for the model to write again


class Tokenizer(Protocol):
    """The remote model's tokenizer."""

    bos: list[int]  # what begins every prompt
    control: dict[str, int]  # control tokens, by their text

    async def pieces(self, text: str) -> list[tuple[int, bytes]]:
        """Return the tokens of plain text, with their bytes; specials are off."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What the engine is asked to continue; `suffix` where it has the template itself.

    The answer begins with `pending`, the end of the text before the cursor, `dropped` tokens;
    `whole` is the prompt with nothing left off.
    """

    prompt: str | list[int]
    suffix: str | None = None
    pending: str = ""
    dropped: int = 0
    truncated: bool = False
    whole: str = ""
    window: int = 0  # tokens of the document that it was cut to


@dataclass(frozen=True, slots=True)
class _Known:
    """An anchor, the window it was cut to, and the tokens of all that comes before the tail."""

    anchor: Anchor
    extra: tuple[ContextChunk, ...]
    window: int
    head: list[int] = field(default_factory=list)


class Prompter:
    """Builds prompts for one remote model, remembering a few anchors for each open document."""

    def __init__(
        self,
        template: Template | None,
        context_length: int,
        healing: Healing,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Take no template where the engine has it, no tokenizer where prompts are text.

        `context_length` in tokens, 0 where it is not known.
        """
        self._template = template if tokenizer or not template else as_text(template)
        self._context_length = context_length
        self._healing = healing
        self._tokenizer = tokenizer
        self._most = 0  # tokens of the document, 0 while no limit is known
        self._known: OrderedDict[str, list[_Known]] = OrderedDict()

    def learn(self, length: int, outgoing: Outgoing) -> None:
        """Note that `outgoing` was too long for the context: less is shown from now on.

        `length` is the context's in tokens, 0 where the engine does not say.
        """
        self._known.clear()
        if length and (not self._context_length or length < self._context_length):
            self._context_length = length
        else:
            self._most = max(1, outgoing.window // 2)

    async def prompt(self, request: InfillRequest, window: int) -> Outgoing:
        """Return what to send for `request`, showing about `window` tokens of the document.

        Raises BadRequest where not even a small part fits the context.
        """
        shown = request if self._tokenizer else _presentable(request)
        window = self._fitting(min(window, self._most or window), request.max_tokens)
        if self._template is None:
            return self._sides(request, shown, window)
        known = self._of(shown)
        # A prompt sent in advance may cost a new anchor, to show more of the document.
        if known and request.max_tokens == 0 and window > known[0].window:
            known = []
        while True:
            outgoing = await self._anchored(request, shown, window, known)
            if self._fits(outgoing):
                return replace(outgoing, window=window)
            if window <= 1:
                raise BadRequest("the context chunks leave no room for the document itself")
            known, window = [], window // 2

    def _fitting(self, window: int, max_tokens: int) -> int:
        """Return `window`, smaller where the context is too small for it and the answer."""
        length = self._context_length
        if not length:
            return window
        room = length - min(max_tokens, length // 4) - MAX_DROPPED
        safe = 1.0 if self._tokenizer else SAFE
        return max(1, min(window, int(room * safe / (1 + TYPED_SHARE))))

    def _fits(self, outgoing: Outgoing) -> bool:
        length = self._context_length
        return not length or _tokens_in(outgoing) < length

    def room(self, outgoing: Outgoing, max_tokens: int) -> int:
        """Return how many of `max_tokens` an answer may have: some engines refuse to be asked for
        more than fit behind the prompt.
        """
        length = self._context_length
        if not length or isinstance(outgoing.prompt, list):
            return max_tokens
        return min(max_tokens, max(length // 4, length - int(_tokens_in(outgoing) / SAFE)))

    def _of(self, request: InfillRequest) -> list[_Known]:
        return [k for k in self._known.get(request.document or "", []) if k.extra == request.extra]

    def _sides(self, request: InfillRequest, shown: InfillRequest, window: int) -> Outgoing:
        """Return prefix and suffix, cut by the same windows so that the engine's cache helps."""
        known = self._of(shown)
        placement = place([k.anchor for k in known], shown.prefix, shown.suffix, _budget(window))
        self._remember(shown, _Known(placement.anchor, shown.extra, window))
        text = placement.anchor.before + placement.typed
        truncated = _truncated(request, placement)
        return Outgoing(text, placement.anchor.suffix, truncated=truncated, window=window)

    async def _anchored(
        self, request: InfillRequest, shown: InfillRequest, window: int, known: Sequence[_Known]
    ) -> Outgoing:
        assert self._template is not None
        anchors = [k.anchor for k in known]
        placement = place(anchors, shown.prefix, shown.suffix, _budget(window))
        extra = [(chunk.filename, chunk.text) for chunk in shown.extra]
        prompt = build(self._template, placement, extra=extra, path=shown.path)
        if placement.kept:
            entry = known[anchors.index(placement.anchor)]
        else:
            entry = _Known(placement.anchor, shown.extra, window, await self._head(prompt.head))
        self._remember(shown, entry)
        truncated = _truncated(request, placement)
        if self._tokenizer is None:
            kept, pending = self._settled(prompt.tail)
            head, close = _spelt(prompt.head), _spelt(prompt.close)
            return Outgoing(
                f"{head}{kept}{close}",
                pending=pending,
                dropped=min(len(pending), MAX_DROPPED),
                truncated=truncated,
                whole=f"{head}{prompt.tail}{close}",
            )
        tail, pending, dropped = await self._tail(prompt.tail)
        tokens = [*entry.head, *tail, *await self._tokens(prompt.close)]
        return Outgoing(tokens, None, pending, dropped, truncated)

    def _remember(self, request: InfillRequest, entry: _Known) -> None:
        if request.document is None:
            return
        known = self._known.pop(request.document, [])
        others = [other for other in known if other.anchor != entry.anchor]
        self._known[request.document] = [entry, *others][:ANCHORS_PER_DOCUMENT]
        while len(self._known) > MAX_DOCUMENTS:
            self._known.popitem(last=False)

    # Text.

    def _settled(self, tail: str) -> tuple[str, str]:
        """Split the text typed since the anchor into what is sent and what comes again."""
        if self._healing is not Healing.AGREE or not tail:
            return tail, ""
        letters = [ord(letter) for letter in tail[-MAX_WORD:]]
        kept, _ = split(letters, _letter, MAX_WORD)
        at = len(tail) - len(letters) + len(kept)
        return tail[:at], tail[at:]

    # Tokens.

    async def _head(self, pieces: Sequence[Piece]) -> list[int]:
        if self._tokenizer is None:
            return []
        return [*self._tokenizer.bos, *await self._tokens(pieces)]

    async def _tail(self, text: str) -> tuple[list[int], str, int]:
        """Return the tokens to keep of the text before the cursor, the rest's text, its count."""
        pieces = await self._text(text)
        tokens = [token for token, _ in pieces]
        if self._healing is not Healing.GRAMMAR:
            return tokens, "", 0
        spelt = dict(pieces)
        kept, pending = split(tokens, spelt.__getitem__)
        if b"\0" in pending:  # the character that llama-server's grammars can't spell
            return tokens, "", 0
        try:
            return kept, pending.decode(), len(tokens) - len(kept)
        except UnicodeDecodeError:  # a character of many tokens: it is left whole
            return tokens, "", 0

    async def _tokens(self, pieces: Sequence[Piece]) -> list[int]:
        assert self._tokenizer is not None or not pieces
        tokens: list[int] = []
        for piece in pieces:
            if isinstance(piece, Control):
                assert self._tokenizer is not None
                tokens.append(self._tokenizer.control[piece.token])
            else:
                tokens.extend(token for token, _ in await self._text(piece.text))
        return tokens

    async def _text(self, text: str) -> list[tuple[int, bytes]]:
        assert self._tokenizer is not None
        found: list[tuple[int, bytes]] = []
        for part in apart(text, spellings(text)):
            found.extend(await self._tokenizer.pieces(part))
        return found


def _tokens_in(outgoing: Outgoing) -> float:
    """Return the prompt's length in tokens, about that where nobody counts them."""
    if isinstance(outgoing.prompt, list):
        return len(outgoing.prompt)
    return (len(outgoing.prompt) + len(outgoing.suffix or "")) / DENSITY


def _letter(code: int) -> bytes:
    return chr(code).encode(errors="replace")


def _presentable(request: InfillRequest) -> InfillRequest:
    """Return the request without what a tokenizer might take for control tokens."""
    prefix, suffix = without_control(request.prefix, request.suffix, REACH)
    extra = tuple(
        chunk for chunk in request.extra if not CONTROL.search(f"{chunk.filename}\n{chunk.text}")
    )
    path = None if request.path and CONTROL.search(request.path) else request.path
    return replace(request, prefix=prefix, suffix=suffix, extra=extra, path=path)


def _spelt(pieces: Sequence[Piece]) -> str:
    return "".join(piece.token if isinstance(piece, Control) else piece.text for piece in pieces)


def _truncated(request: InfillRequest, placement: Placement) -> bool:
    shown = len(placement.anchor.before) + len(placement.typed)
    return shown < len(request.prefix) or len(placement.anchor.suffix) < len(request.suffix)


def _budget(window: int) -> Budget:
    window = min(window, int(REACH / DENSITY / 2))
    return Budget.of_window(window * DENSITY)
