"""Calls of functions: how a model writes them, as a grammar, and read back.

The form is the model's own: its template writes a call of a known name with known arguments, and
what stands around them is the form. A template without one gets tags around JSON. Rule: pure;
knows the template's text and JSON schemas, no tokens but control tokens by their ids.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from referencing import Registry

from backends.backend import Tool, ToolCall
from backends.decoding.chat_format import (
    PROBE_IDS,
    PROBE_NAMES,
    PROBE_TOOL,
    ChatFormat,
    probe_answer,
    probe_call,
)
from backends.decoding.chat_template import TemplateRefused
from backends.decoding.constrain import JSON_STYLE
from backends.errors import BackendError, BadRequest
from fim.prompt import Control, Piece, Text

MAX_CALLS = 8  # in one answer: a small model would go on for ever
MAX_TOOLS = 128
ID_LENGTH = 9  # letters and digits: what Mistral's template takes, and all others do
_ID = f"[A-Za-z0-9]{{{ID_LENGTH}}}"
_ID_MARK = "\0"  # where an id stands in a form
_ARGUMENTS = re.compile(r'\{\s*"qzkey":\s*"qzvalue"\s*\}')
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolForm:
    """The text around names and arguments: begin NAME middle ARGUMENTS [between NAME …] end.

    An `opening` says that a call begins: the first word or control token of `begin`.
    """

    begin: str = '<tool_call>\n{"name": "'
    middle: str = '", "arguments": '
    between: str = '}\n</tool_call>\n<tool_call>\n{"name": "'
    end: str = "}\n</tool_call>"
    opening: str = "<tool_call>"


def detect(form: ChatFormat) -> ToolForm:
    """Return the form that the template writes calls in, the usual one where it has none."""
    if form.call_style is None:
        return ToolForm()
    try:
        answer = _closed(form, probe_answer())
        one = _closed(form, probe_call(form.call_style, 1))
    except TemplateRefused:
        return ToolForm()
    head, _, ending = answer.rpartition("qzanswer")
    # What comes before an answer and before a call is the same, but for a space perhaps.
    start = next((n for n, (a, b) in enumerate(zip(head, one, strict=False)) if a != b), len(head))
    if head[start:].strip():
        return ToolForm()
    parts = _parts(form, one[start:], ending)
    if parts is None:
        return ToolForm()
    begin, middle, end = parts
    return ToolForm(begin, middle, _between(form), end, _opening(form, begin))


def _closed(form: ChatFormat, messages: Sequence[dict[str, Any]]) -> str:
    return form.tried(list(messages), tools=[PROBE_TOOL], add_generation_prompt=False)


def _parts(form: ChatFormat, call: str, ending: str) -> tuple[str, str, str] | None:
    arguments = _ARGUMENTS.search(call)
    name = call.find(PROBE_NAMES[0])
    if arguments is None or not 0 <= name < arguments.start():
        return None
    rest = call[arguments.end() :]
    end = rest.removesuffix(ending) if ending else rest
    # A call's message may end otherwise than an answer; what ends the turn is no part of the call.
    cut = [rest.find(word) for word in form.ends if word in end]
    end = end if not cut else rest[: min(cut)]
    middle = call[name + len(PROBE_NAMES[0]) : arguments.start()]
    begin = call[:name]
    return tuple(_without_ids(text) for text in (begin, middle, end.rstrip()))  # type: ignore[return-value]


def _between(form: ChatFormat) -> str:
    """Return what stands between two calls, "" where there can't be two."""
    assert form.call_style is not None
    try:
        two = _closed(form, probe_call(form.call_style, 2))
    except TemplateRefused:
        return ""
    first = _ARGUMENTS.search(two)
    second = two.find(PROBE_NAMES[1], first.end()) if first else -1
    return _without_ids(two[first.end() : second]) if first and second >= 0 else ""


def _without_ids(text: str) -> str:
    return re.sub("|".join(PROBE_IDS), _ID_MARK, text)


def _opening(form: ChatFormat, begin: str) -> str:
    """Return the control token that a call begins with, else its tag, else all of `begin`."""
    pieces = form.split(begin)
    first = next((p for p in pieces if isinstance(p, Control) or p.text.strip()), None)
    if isinstance(first, Control):
        return first.token
    tag = re.match(r"\s*([<\[][^\s<>\[\]{}]+[>\]])", begin)
    return tag[1] if tag else begin.strip()


# -- the grammar ----------------------------------------------------------------------------------


def grammar(
    form: ToolForm,
    tools: Sequence[Tool],
    split: Any,
    control_tokens: Mapping[str, int],
    *,
    opened: bool,
    many: bool,
) -> str:
    """Return the grammar, in Lark's notation, of calls of `tools`.

    `opened`: the opening has been generated already. `many`: more than one call may come.
    `split(text)` parts text at control tokens. Raises BadRequest for a tool that can't be one.
    """

    def literal(text: str) -> str:
        parts = []
        for bit in re.split(f"({_ID_MARK})", text):
            if bit == _ID_MARK:
                parts.append(f"/{_ID}/")
            else:
                parts += [_terminal(piece, control_tokens) for piece in split(bit)]
        return " ".join(parts) or '""'

    begin = form.begin
    if opened:
        begin = begin.partition(form.opening)[2].lstrip()
    start = ("SPACE " if opened else "") + literal(begin)
    repeated = f"(between call){{0,{MAX_CALLS - 1}}}" if many and form.between else ""
    rules = [
        f"start: {start} call {repeated} {literal(form.end)}",
        "call: " + " | ".join(f"call{number}" for number in range(len(tools))),
    ]
    if opened:
        rules.append("SPACE: /[ \\n]{0,2}/")
    if repeated:
        rules.append(f"between: {literal(form.between)}")
    for number, tool in enumerate(tools):
        schema = {**schema_of(tool), "x-guidance": JSON_STYLE}
        name = literal(f"{tool.name}{form.middle}")
        rules.append(f"call{number}: {name} arguments{number}")
        rules.append(f"arguments{number}: %json {json.dumps(schema)}")
    return "\n".join(rules) + "\n"


def _terminal(piece: Piece, control_tokens: Mapping[str, int]) -> str:
    if isinstance(piece, Text):
        return json.dumps(piece.text, ensure_ascii=False)
    return f"<[{control_tokens[piece.token]}]>"


def check(tools: Sequence[Tool]) -> None:
    """Raise BadRequest where one of `tools` has no usable name or parameters."""
    if len(tools) > MAX_TOOLS:
        raise BadRequest(f"There are {len(tools)} tools; at most {MAX_TOOLS} can be given.")
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise BadRequest(
                f"{tool.name!r} can't be the name of a tool: "
                "1 to 64 letters, digits, underscores, dots and hyphens."
            )
        try:
            validator(schema_of(tool)).check_schema(schema_of(tool))
        except jsonschema.SchemaError as exc:
            raise BadRequest(
                f"The parameters of the tool {tool.name} are no JSON schema: {exc.message}"
            ) from exc


def schema_of(tool: Tool) -> dict[str, Any]:
    """Return the schema of the tool's arguments: those of an object."""
    return {"type": "object", **tool.parameters}


def validator(schema: Mapping[str, Any]) -> Any:
    """Return a validator that never fetches a schema from anywhere."""
    return jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(
        schema, registry=Registry()
    )


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallReader:
    """Reads calls back from what was generated under the grammar."""

    form: ToolForm
    tools: tuple[Tool, ...]
    _decoder: json.JSONDecoder = field(default_factory=json.JSONDecoder)

    def calls(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls in `text` that are whole. Raises BackendError if one fits no tool."""
        return tuple(self._checked(name, arguments) for name, arguments in self._found(text))

    def _found(self, text: str) -> Iterator[tuple[str, Any]]:
        pattern, at = _pattern(self.form.begin), 0
        while match := pattern.match(text, at):
            name, middle, _ = text[match.end() :].partition(self.form.middle)
            at = match.end() + len(name) + len(middle)
            try:
                arguments, at = self._decoder.raw_decode(text, at)
            except ValueError:
                return  # it was cut off: not a half call
            yield name, arguments
            pattern = _pattern(self.form.between or self.form.begin)

    def _checked(self, name: str, arguments: Any) -> ToolCall:
        tool = next((tool for tool in self.tools if tool.name == name), None)
        if tool is None:
            raise BackendError(f"The model called {name!r}, which is none of the tools.")
        wrong = jsonschema.exceptions.best_match(validator(schema_of(tool)).iter_errors(arguments))
        if wrong is not None:
            raise BackendError(f"The model's call of {name} does not fit: {wrong.message}")
        return ToolCall(new_id(), name, json.dumps(arguments, ensure_ascii=False))


def _pattern(text: str) -> re.Pattern[str]:
    """Match `text` with any id where one stands; white space is as the model wrote it."""
    bits = [re.escape(bit) for bit in re.split(r"\s+", text)]
    return re.compile(r"\s*".join(bits).replace(re.escape(_ID_MARK), _ID))


def new_id() -> str:
    """Return a new id for a call."""
    letters = string.ascii_letters + string.digits
    return "".join(secrets.choice(letters) for _ in range(ID_LENGTH))
