"""A request on its way: waiting, begun, and its share of a forward pass.

Rule: values and one constructor of them, no loop. What kind of request it is, is decided here and
in nothing that comes after.
"""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backends.backend import (
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    SteeringUse,
    Timings,
    Usage,
)
from backends.decoding.chat_prompt import ChatPrompt
from backends.decoding.chat_writer import ChatWriter
from backends.decoding.copying import Copier, CopyWeights
from backends.decoding.generation import Generation, Request
from backends.decoding.healing import VocabularyIndex
from backends.decoding.prefix_cache import Entry, PrefixCache
from backends.decoding.prompting import Prompter, TokenPrompt
from backends.decoding.speculation import Draft
from backends.decoding.token_model import Feed, Steerable, TokenModel
from backends.decoding.writing import InfillWriter
from backends.errors import Unsupported

if TYPE_CHECKING:  # it imports jinja2, which only a model with a chat template needs
    from backends.decoding.chat import Chats, Prepared


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request without a sequence yet. `arrived`: time.perf_counter() seconds.

    That of a chat is `prepared` before it gets one.
    """

    id: int
    request: Request
    arrived: float
    prepared: Future[Prepared] | None = None

    @property
    def ready(self) -> bool:
        """Whether it may be given a sequence."""
        return self.prepared is None or self.prepared.done()

    def supersedes(self, id: int, request: Request) -> bool:
        """Tell whether this is a newer request of the same owner, and no less urgent."""
        return (
            owner(request) is not None
            and owner(request) == owner(self.request)
            and self.id > id
            and self.request.priority <= request.priority
        )


def owner(request: Request) -> Hashable:
    """Return whose cells and turns a request uses: a document, a session, or None: nobody's."""
    if isinstance(request, InfillRequest):
        return request.document
    return None if request.session is None else ("chat", request.session)


@dataclass(frozen=True, slots=True)
class Share:
    """What one generation feeds into a forward pass: tokens that are certain, then a draft."""

    generation: Generation
    tokens: list[int]
    draft: Draft

    @property
    def feed(self) -> Feed:
        """Return it as the model takes it."""
        sequence, draft = self.generation.entry.sequence, self.draft.tokens
        steering = self.generation.request.steering
        return Feed(sequence, [*self.tokens, *draft], outputs=1 + len(draft), steering=steering)


class Starter:
    """Gives waiting requests their prompt, sequence and writer."""

    def __init__(
        self,
        model: TokenModel,
        cache: PrefixCache,
        prompter: Prompter,
        copying: CopyWeights | None,
        chats: Chats | None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._prompter = prompter
        self._copying = copying
        self._chats = chats
        self._index = VocabularyIndex(model.token_bytes, model.vocab.size)
        # Whatever control token comes, it is no text of the document: the hole ends there.
        self._end_tokens = model.vocab.end_tokens | set(model.vocab.control_tokens.values())

    def start(self, waiting: Waiting) -> Generation | None:
        """Return the generation of a request, None where it must wait for a sequence.

        Raises MidspanError.
        """
        request = waiting.request
        if request.steering:
            request = replace(request, steering=self._resolved(request.steering))
            waiting = replace(waiting, request=request)
        if isinstance(request, InfillRequest):
            return self._start_infill(waiting, request)
        return self._start_chat(waiting, request)

    def counted(self, waiting: Waiting) -> Chunk | None:
        """Return the answer to a request to count its prompt, None for any other.

        Raises MidspanError.
        """
        request = waiting.request
        if not isinstance(request, ChatRequest) or not request.count_only:
            return None
        assert self._chats is not None
        assert waiting.prepared is not None
        usage = Usage(prompt_tokens=self._chats.count(request, waiting.prepared))
        return Chunk("", (), FinishReason.LENGTH, usage, Timings())

    def begin(
        self, waiting: Waiting, request: InfillRequest, prompt: TokenPrompt, entry: Entry
    ) -> Generation:
        """Return the generation of an infill on its sequence."""
        weights = self._copying
        copier = Copier(request.prefix, request.suffix, weights) if weights else None
        token_bytes, ends = self._model.token_bytes, self._end_tokens
        writer = InfillWriter(request, prompt.pending, token_bytes, self._index, ends, copier)
        length, arrived = self._model.context_length, waiting.arrived
        return Generation(waiting.id, request, prompt, entry, writer, length, arrived)

    def ended(self, generation: Generation) -> None:
        """Remember what a chat said, for its next turn."""
        prompt, writer = generation.prompt, generation.writer
        if self._chats and isinstance(prompt, ChatPrompt) and isinstance(writer, ChatWriter):
            self._chats.remember(prompt, writer)

    def _resolved(self, steering: tuple[SteeringUse, ...]) -> tuple[SteeringUse, ...]:
        model = self._model
        if not (model.can_steer and isinstance(model, Steerable)):
            raise Unsupported(f"Steering needs another engine than {model.description}.")
        return model.resolve_steering(steering)

    def _start_infill(self, waiting: Waiting, request: InfillRequest) -> Generation | None:
        prompt = self._prompter.prompt(request)
        key = prompt.key if request.document is not None else (None, waiting.id)
        entry = self._cache.acquire(key, prompt.tokens, request.document, request.steering)
        if entry is None:
            return None
        self._prompter.remember(prompt)
        return self.begin(waiting, request, prompt, entry)

    def _start_chat(self, waiting: Waiting, request: ChatRequest) -> Generation | None:
        assert self._chats is not None
        assert waiting.prepared is not None
        prompt = self._chats.prompt(request, waiting.prepared)
        key = prompt.key if request.session is not None else (None, waiting.id)
        entry = self._cache.acquire(key, prompt.tokens, steering=request.steering)
        if entry is None:
            return None
        if request.prediction:
            entry.previous = self._model.tokenize(request.prediction)
        writer = self._chats.writer(waiting.prepared.result())
        length, arrived = self._model.context_length, waiting.arrived
        return Generation(waiting.id, request, prompt, entry, writer, length, arrived)
