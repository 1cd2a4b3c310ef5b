"""From a conversation to the pieces of its prompt, as the model's own template has it.

What the template supports (a system message, tools, the results of calls) is found out by
rendering small conversations with it; what it does not is said in the text of other messages.
Rule: control tokens come only from the template. In what people, tools and other models said,
every character that control tokens are made of is disguised while the template is rendered, so
that no text can spell one, whatever the template does with it. Pure: no tokens, no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from backends.backend import ChatRequest, Message, Role, Tool, ToolCall
from backends.decoding.chat_template import ChatTemplate, TemplateRefused
from backends.errors import BadRequest, Unsupported
from fim.prompt import Control, Piece, Text

# Tags that models put their reasoning between.
REASONING_TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)

# A tag that templates look for in what was said, such as "</think>": left as it is.
_TAG = re.compile(r"</?[A-Za-z_][\w:-]*>")
_KEYS = frozenset(("tool_calls", "tool_call_id"))  # what templates ask messages for
_PRIVATE = range(0xF0000, 0xFFFFE)  # characters without a meaning

# For templates that have no tools of their own.
TOOLS_TEXT = """You can call functions. They are described here as JSON, one a line:
<tools>
{tools}
</tools>
To call one, answer with nothing but its name and arguments, as JSON between these tags:
<tool_call>
{{"name": "the name", "arguments": {{…}}}}
</tool_call>"""
CALL_TEXT = '<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
RESULT_TEXT = "<tool_response>\n{content}\n</tool_response>"

Dicts = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a template wants the calls in an assistant's message: it was tried."""

    parsed: bool  # arguments as an object, not as JSON text
    no_content: bool  # `content` is None beside a call, not ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as pieces. `thinking`: the template has opened the reasoning already."""

    pieces: tuple[Piece, ...]
    thinking: bool


class ChatFormat:
    """A chat template and what it can do, for a vocabulary's control tokens."""

    def __init__(
        self, template: ChatTemplate, control_tokens: Iterable[str], ends: Iterable[str] = ()
    ) -> None:
        """Try the template out; `ends` are the control tokens that end an answer.

        Raises Unsupported where it can't even show a question.
        """
        self._template = template
        self.ends = tuple(ends)
        # One-character and blank entries are marked by mistake; longest first, for the pattern.
        texts = sorted((t for t in control_tokens if len(t.strip()) > 1), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._dangerous = _dangerous(texts)
        tags = {tag.strip() for tag in template.constants if _TAG.fullmatch(tag.strip())}
        self._kept = sorted(tags - set(texts), key=len, reverse=True)
        self.tags = next((t for t in REASONING_TAGS if t[1] in template.source), REASONING_TAGS[0])
        # Templates look for this tag in answers; as a control token it is disguised there.
        self._cut_at = self.tags[1] if self.tags[1] in texts else ""
        self._check()
        self.has_system = self._shows([_SYSTEM, _USER], "qzsystem")
        self.has_tools = self._shows([_USER], "qztool", tools=[_TOOL])
        # One form for all: what the text says of calls is how earlier ones are shown, too.
        self.call_style = self._call_style() if self.has_tools else None
        self.stop = self._turn_end()

    def render(self, request: ChatRequest) -> Rendered:
        """Return the prompt's pieces. Raises BadRequest where there is nothing to answer, or where
        the template refuses the conversation.
        """
        if not request.messages:
            raise BadRequest("A conversation needs at least one message.")
        tools = request.tools if request.tool_choice != "none" else ()
        said = self._dicts(_prepared(request.messages, self, tools))
        described = [_described(tool) for tool in tools] if self.has_tools else []
        texts = self._template.source, json.dumps([said, described], ensure_ascii=False)
        disguise = _Disguise(self._dangerous, self._kept, texts)
        variables: dict[str, Any] = {}
        if described:
            variables["tools"] = disguise.hide(described)
        if request.reasoning_effort:
            variables["reasoning_effort"] = request.reasoning_effort
        text = self._template.render(disguise.hide(said), **variables)
        pieces = self._split(text, disguise.reveal)
        return Rendered(pieces, self._is_thinking(pieces))

    def tried(self, messages: Dicts, **variables: Any) -> str:
        """Return the text for a conversation of probes. Raises TemplateRefused."""
        return self._template.render(messages, **variables)

    def split(self, text: str) -> tuple[Piece, ...]:
        """Split text of the template's own at its control tokens."""
        return self._split(text, str)

    def _split(self, text: str, reveal: Callable[[str], str]) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        found = list(self._controls.finditer(text)) if self._controls else []
        edges = [0, *(edge for match in found for edge in match.span()), len(text)]
        for number, (begin, end) in enumerate(pairwise(edges)):
            if number % 2:
                pieces.append(Control(text[begin:end]))
            elif begin < end:
                pieces.append(Text(reveal(text[begin:end])))
        return tuple(pieces)

    def _is_thinking(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether the prompt ends with an open reasoning tag, as text or as a token."""
        words = (p.token if isinstance(p, Control) else p.text for p in pieces[-2:])
        return "".join(words).rstrip().endswith(self.tags[0])

    def _dicts(self, messages: Sequence[Message]) -> Dicts:
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        return [self._dict(message, names) for message in messages]

    def _dict(self, message: Message, names: Mapping[str, str]) -> dict[str, Any]:
        content = message.content
        if self._cut_at and message.role is Role.ASSISTANT:
            content = content.rpartition(self._cut_at)[2]
        value: dict[str, Any] = {"role": message.role.value, "content": content}
        if message.tool_calls and self.call_style is not None:
            value["tool_calls"] = [_call(call, self.call_style) for call in message.tool_calls]
            if not message.content and self.call_style.no_content:
                value["content"] = None
        if message.role is Role.TOOL:
            value["tool_call_id"] = message.tool_call_id
            value["name"] = names.get(message.tool_call_id, "")
        return value

    # -- what the template can do ---------------------------------------------------------------

    def _check(self) -> None:
        try:
            shown = "qzuser" in self.tried([_USER])
        except TemplateRefused as exc:
            raise Unsupported(f"The chat template can't be used: {exc}") from exc
        if not shown:
            raise Unsupported("The chat template does not show the model what is asked.")

    def _shows(self, messages: Dicts, *probes: str, **variables: Any) -> bool:
        try:
            text = self.tried(messages, **variables)
        except TemplateRefused:
            return False
        return all(probe in text for probe in probes)

    def _call_style(self) -> CallStyle | None:
        """Return how to pass calls so that they and their results are shown; None: not at all."""
        for parsed in (True, False):
            for no_content in (True, False):
                style = CallStyle(parsed, no_content)
                try:
                    text = self.tried(probe_call(style, results=True), tools=[_TOOL])
                except TemplateRefused:
                    continue
                shown = all(p in text for p in ("qztool", "qzkey", "qzvalue", "qzresult"))
                # Python's own words where text belongs: the template expects the other form.
                if shown and "None" not in text and "'qzkey'" not in text and '\\"qz' not in text:
                    return style
        return None

    def _turn_end(self) -> str:
        """Return the text that ends an answer where no control token does; "" where one does."""
        answer = {"role": "assistant", "content": "qzanswer"}
        try:
            text = self.tried([_USER, answer, {"role": "user", "content": "qznext"}])
        except TemplateRefused:
            return ""
        between = text.partition("qzanswer")[2].partition("qznext")[0]
        pieces = self._split(between, str)
        first = next((p for p in pieces if isinstance(p, Control) or p.text.strip()), None)
        if not isinstance(first, Text):
            return ""
        return first.text.strip().splitlines()[0].strip()


class _Disguise:
    """Swaps the characters that control tokens are made of for some that mean nothing."""

    def __init__(self, dangerous: Iterable[str], kept: Sequence[str], texts: Sequence[str]) -> None:
        """Leave `kept` words as they are, and use no character that is in `texts`."""
        used = set().union(*texts)
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        pairs = dict(zip(sorted(dangerous), free, strict=False))
        self._to = str.maketrans(pairs)
        self._back = str.maketrans({new: old for old, new in pairs.items()})
        self._kept = re.compile("({})".format("|".join(map(re.escape, kept)))) if kept else None

    def hide(self, value: Any) -> Any:
        """Return `value` with every text in it disguised, keys included."""
        if isinstance(value, str):
            parts = self._kept.split(value) if self._kept else [value]
            return "".join(p if n % 2 else p.translate(self._to) for n, p in enumerate(parts))
        if isinstance(value, Mapping):
            return {
                key if key in _KEYS else self.hide(key): self.hide(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def reveal(self, text: str) -> str:
        return text.translate(self._back)


def _dangerous(control_tokens: Iterable[str]) -> frozenset[str]:
    """Return characters without which no control token can be spelt.

    Not quotes and backslashes: JSON must see those.
    """
    found: set[str] = set()
    for text in control_tokens:
        marks = {c for c in text if not (c.isalnum() or c.isspace() or c in "\"'\\")}
        found |= marks or {text.strip()[0]}
    return frozenset(found)


def _prepared(
    messages: Sequence[Message], form: ChatFormat, tools: Sequence[Tool]
) -> list[Message]:
    """Say in plain text what the template has no form for."""
    result = list(messages)
    if form.call_style is None:
        result = _told(result)
    extra = ""
    if tools and not form.has_tools:
        lines = "\n".join(json.dumps(_described(tool), ensure_ascii=False) for tool in tools)
        extra = TOOLS_TEXT.format(tools=lines)
    return _with_system(result, extra, own=form.has_system)


def _told(messages: Sequence[Message]) -> list[Message]:
    """Write calls and their results into the texts of assistant and user."""
    result: list[Message] = []
    for message in messages:
        if message.tool_calls:
            calls = [
                CALL_TEXT.format(name=json.dumps(c.name), arguments=c.arguments)
                for c in message.tool_calls
            ]
            text = "\n".join(filter(None, [message.content, *calls]))
            message = Message(Role.ASSISTANT, text)
        elif message.role is Role.TOOL:
            message = Message(Role.USER, RESULT_TEXT.format(content=message.content))
            if result and result[-1].role is Role.USER:  # roles must alternate
                message = replace(message, content=f"{result.pop().content}\n{message.content}")
        result.append(message)
    return result


def _with_system(messages: list[Message], extra: str, *, own: bool) -> list[Message]:
    """Add `extra` to the system message, and that to the first question if it may not be `own`."""
    system = messages[0] if messages and messages[0].role is Role.SYSTEM else None
    rest = messages[1:] if system else messages
    text = "\n\n".join(filter(None, [system.content if system else "", extra]))
    if not text or (own and not extra):
        return messages if own else rest
    if own:
        return [Message(Role.SYSTEM, text), *rest]
    if rest and rest[0].role is Role.USER:
        return [replace(rest[0], content=f"{text}\n\n{rest[0].content}"), *rest[1:]]
    return [Message(Role.USER, text), *rest]


def _call(call: ToolCall, style: CallStyle) -> dict[str, Any]:
    arguments: Any = call.arguments
    if style.parsed:
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError as exc:
            raise BadRequest(f"The arguments of the call {call.id!r} are not JSON.") from exc
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _described(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


# Probes: letters alone, so that no template changes them and no control token is in them.
_USER = {"role": "user", "content": "qzuser"}
_SYSTEM = {"role": "system", "content": "qzsystem"}
_TOOL = _described(
    Tool("qztool", "qzabout", {"type": "object", "properties": {"qzkey": {"type": "string"}}})
)
PROBE_IDS = ("qzcallid1", "qzcallid2")  # nine letters and digits: Mistral's wants that
PROBE_NAMES = ("qztool", "qzother")


def probe_call(style: CallStyle, calls: int = 1, *, results: bool = False) -> Dicts:
    """Return a conversation whose last answer is `calls` calls, with their `results` if wanted."""
    arguments: Any = {"qzkey": "qzvalue"} if style.parsed else '{"qzkey": "qzvalue"}'
    names = list(zip(PROBE_IDS, PROBE_NAMES, strict=True))[:calls]
    made = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name in names
    ]
    content = None if style.no_content else ""
    messages: Dicts = [_USER, {"role": "assistant", "content": content, "tool_calls": made}]
    if results:
        messages += [
            {"role": "tool", "content": "qzresult", "tool_call_id": id, "name": name}
            for id, name in names
        ]
    return messages


def probe_answer() -> Dicts:
    """Return a conversation whose last answer is "qzanswer"."""
    return [_USER, {"role": "assistant", "content": "qzanswer"}]


PROBE_TOOL = _TOOL
