"""Chats on one model: from requests to prompts and writers.

Rule: what may take long (rendering a template, compiling a grammar) is done on a thread of its
own, before the scheduler looks at the request; the model is only used from the scheduler's.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from backends.backend import ChatRequest
from backends.decoding.chat_format import ChatFormat, Rendered
from backends.decoding.chat_prompt import ChatPrompt, ChatPrompter
from backends.decoding.chat_template import ChatTemplate
from backends.decoding.chat_writer import AnswerPlan, ChatWriter
from backends.decoding.token_model import TokenModel
from backends.errors import BackendError, BadRequest, MidspanError, Unsupported
from fim.prompt import Control

if TYPE_CHECKING:  # they import what only tools and schemas need
    from backends.decoding.constrain import Constrainer
    from backends.decoding.tools import ToolForm

logger = logging.getLogger(__name__)

GRAMMAR_PACKAGES = ("llguidance", "jsonschema")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chat request that only waits for the model. `spoken`: control tokens of the answer."""

    rendered: Rendered
    plan: AnswerPlan
    spoken: dict[int, bytes]


class Chats:
    """The chat side of one model."""

    def __init__(self, model: TokenModel, template: ChatTemplate) -> None:
        """Try the template out. Raises Unsupported where the model can't chat with it."""
        vocab = model.vocab
        names = {token: text for text, token in vocab.control_tokens.items()}
        ends = [names[token] for token in vocab.end_tokens if token in names]
        self._model = model
        self._form = ChatFormat(template, vocab.control_tokens, ends)
        self._prompter = ChatPrompter(model)
        self._ends = vocab.end_tokens | set(vocab.control_tokens.values())
        self._words = [model.token_bytes(token) for token in range(vocab.size)]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chat")
        self.can_constrain = all(map(importlib.util.find_spec, GRAMMAR_PACKAGES))

    def prepare(self, request: ChatRequest, then: Callable[[], None]) -> Future[Prepared]:
        """Begin to prepare `request`, from any thread; `then` is called when that is done."""
        future = self._thread.submit(self._prepared, request)
        future.add_done_callback(lambda _: then())
        return future

    def prompt(self, request: ChatRequest, prepared: Future[Prepared]) -> ChatPrompt:
        """Return the prompt. Raises MidspanError: what was wrong when it was prepared, too."""
        return self._prompter.prompt(request.session, _rendered(prepared))

    def count(self, request: ChatRequest, prepared: Future[Prepared]) -> int:
        """Return how many tokens the prompt has. Raises MidspanError, as `prompt` does."""
        return self._prompter.count(request.session, _rendered(prepared))

    def writer(self, prepared: Prepared) -> ChatWriter:
        """Return the writer of the answer."""
        return ChatWriter(
            prepared.plan, self._words.__getitem__, prepared.spoken, frozenset(self._ends)
        )

    def remember(self, prompt: ChatPrompt, writer: ChatWriter) -> None:
        """Note what was answered, so that the session's next prompt begins with the same tokens."""
        self._prompter.remember(prompt, writer.answer, writer.tokens[: writer.whole])

    def close(self) -> None:
        """End the thread; what it is preparing is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- on the thread ------------------------------------------------------------------------

    def _prepared(self, request: ChatRequest) -> Prepared:
        rendered = self._form.render(request)
        stops = (*filter(None, request.stop),)
        plan = AnswerPlan(
            sampling=request.sampling,
            stops=(*stops, self._form.stop) if self._form.stop else stops,
            own_stops=len(stops),
            tags=self._form.tags,
            thinking=rendered.thinking,
        )
        plan, said = self._constrained(request, plan)
        return Prepared(rendered, plan, self._spoken("".join((*self._form.tags, said))))

    def _constrained(self, request: ChatRequest, plan: AnswerPlan) -> tuple[AnswerPlan, str]:
        """Return the plan with its grammar, and the text that a call may be made of."""
        calls = bool(request.tools) and request.tool_choice != "none"
        if request.tool_choice not in ("auto", "none") and not request.tools:
            raise BadRequest("tool_choice asks for a call, but there are no tools.")
        if not calls and request.schema is None:
            return plan, ""
        if not self.can_constrain:
            raise Unsupported(
                "Tools and schemas need llguidance and jsonschema: "
                "pip install llguidance jsonschema"
            )
        if calls and request.schema is not None:
            raise BadRequest("An answer can be held to a schema or be calls of tools, not both.")
        if request.schema is not None:
            return replace(plan, constraint=self._constrainer.schema(request.schema)), ""
        from backends.decoding import tools

        offered = request.tools
        if request.tool_choice not in ("auto", "required"):
            offered = tuple(tool for tool in offered if tool.name == request.tool_choice)
            if not offered:
                raise BadRequest(f"tool_choice names {request.tool_choice!r}, which is no tool.")
        tools.check(offered)
        form, auto = self._tool_form, request.tool_choice == "auto"
        lark = tools.grammar(
            form,
            offered,
            self._form.split,
            self._model.vocab.control_tokens,
            opened=auto,
            many=request.tool_choice in ("auto", "required"),
        )
        constrained = replace(
            plan,
            constraint=self._constrainer.lark(lark),
            opening=form.opening if auto else "",
            reader=tools.CallReader(form, offered),
        )
        return constrained, "".join((form.begin, form.middle, form.between, form.end))

    def _spoken(self, text: str) -> dict[int, bytes]:
        """Return the control tokens in `text`: where a model says them, its answer goes on."""
        ids = self._model.vocab.control_tokens
        pieces = self._form.split(text)
        return {ids[p.token]: p.token.encode() for p in pieces if isinstance(p, Control)}

    @cached_property
    def _constrainer(self) -> Constrainer:
        from backends.decoding.constrain import Constrainer

        return Constrainer(self._model, self._words)

    @cached_property
    def _tool_form(self) -> ToolForm:
        from backends.decoding.tools import detect

        return detect(self._form)


def _rendered(prepared: Future[Prepared]) -> Rendered:
    try:
        return prepared.result().rendered
    except MidspanError:
        raise
    except Exception as exc:
        logger.exception("a chat could not be prepared")
        raise BackendError(f"The conversation could not be prepared: {exc}") from exc
