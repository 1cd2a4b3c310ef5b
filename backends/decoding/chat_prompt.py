"""From a chat request to the tokens of its prompt.

The tokens of a session's last prompt and of its answer are remembered: where the next one begins
with the same text, it begins with the very tokens that are in the cache, and only what is new is
tokenised. Rule: control tokens come from the template's pieces alone; decides nothing about the
KV cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from backends.decoding.chat_format import Rendered
from backends.decoding.prompting import tokens_of
from backends.decoding.token_model import TokenModel
from backends.errors import BadRequest
from fim.prompt import Piece, Text

MAX_SESSIONS = 64


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation ready to be evaluated, up to where the answer begins."""

    session: str | None
    pieces: tuple[Piece, ...]
    tokens: list[int]
    truncated: bool = False  # a conversation is shown whole or not at all

    @property
    def key(self) -> Hashable:
        """Return what the prompt's sequence is kept under."""
        return "chat", self.session

    @property
    def mark_at(self) -> int:
        """Return the length at which a model that can't be trimmed is to be marked."""
        return len(self.tokens) - 1


@dataclass(frozen=True, slots=True)
class _Said:
    """A prompt and its answer, as pieces and as the tokens that were evaluated."""

    pieces: tuple[Piece, ...]
    tokens: list[int]


class ChatPrompter:
    """Builds prompts for one model, remembering what was said in each session."""

    def __init__(self, model: TokenModel) -> None:
        self._model = model
        self._said: OrderedDict[str, _Said] = OrderedDict()
        longest = max(map(len, map(model.token_bytes, range(model.vocab.size))))
        self._max_bytes = model.context_length * max(1, longest)

    def prompt(self, session: str | None, rendered: Rendered) -> ChatPrompt:
        """Return the prompt. Raises BadRequest where it does not fit the context."""
        tokens = self._bounded(session, rendered.pieces)
        if len(tokens) >= self._model.context_length:
            raise self._too_long(f"{len(tokens)} tokens")
        return ChatPrompt(session, rendered.pieces, tokens)

    def count(self, session: str | None, rendered: Rendered) -> int:
        """Return how many tokens the prompt would have, also if they are too many.

        Raises BadRequest where they are beyond all measure.
        """
        return len(self._bounded(session, rendered.pieces))

    def remember(self, prompt: ChatPrompt, answer: str, tokens: Sequence[int]) -> None:
        """Note what was answered, and with which tokens; the oldest session may go."""
        if prompt.session is None:
            return
        said = _Said(_joined(prompt.pieces, answer), [*prompt.tokens, *tokens])
        self._said.pop(prompt.session, None)
        self._said[prompt.session] = said
        while len(self._said) > MAX_SESSIONS:
            self._said.popitem(last=False)

    def _bounded(self, session: str | None, pieces: Sequence[Piece]) -> list[int]:
        # Not even tokenised, if it can't fit: an endless text would hold up everybody.
        size = sum(len(piece.text) for piece in pieces if isinstance(piece, Text))
        if size > self._max_bytes:
            raise self._too_long(f"{size} characters")
        return self._tokens(session, pieces)

    def _too_long(self, length: str) -> BadRequest:
        return BadRequest(
            f"The conversation has {length}, and the model's context "
            f"{self._model.context_length} tokens: begin a new conversation, or show less of it."
        )

    def _tokens(self, session: str | None, pieces: Sequence[Piece]) -> list[int]:
        said = self._said.get(session or "")
        rest = None if said is None else _after(said.pieces, pieces)
        if said is not None and rest is not None:
            return [*said.tokens, *tokens_of(self._model, rest)]
        return self._with_bos(tokens_of(self._model, pieces))

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """Begin with one BOS, whether the template or the vocabulary asks for it, or both do."""
        bos = self._model.vocab.bos
        if bos is None:
            return tokens
        first = next((n for n, token in enumerate(tokens) if token != bos), len(tokens))
        return [bos, *tokens[first:]]


def _joined(pieces: Sequence[Piece], answer: str) -> tuple[Piece, ...]:
    """Return the pieces with `answer` at their end, in one with the text that is there."""
    if pieces and isinstance(pieces[-1], Text):
        return (*pieces[:-1], Text(pieces[-1].text + answer))
    return (*pieces, Text(answer)) if answer else tuple(pieces)


def _after(known: Sequence[Piece], pieces: Sequence[Piece]) -> list[Piece] | None:
    """Return what comes in `pieces` after all of `known`; None where they begin otherwise."""
    last = len(known) - 1
    if last < 0 or len(pieces) < len(known) or tuple(pieces[:last]) != tuple(known[:last]):
        return None
    left, right = known[last], pieces[last]
    if left == right:
        return list(pieces[last + 1 :])
    if isinstance(left, Text) and isinstance(right, Text) and right.text.startswith(left.text):
        return [Text(right.text[len(left.text) :]), *pieces[last + 1 :]]
    return None
