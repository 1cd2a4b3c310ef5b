"""`midspan chat [PROMPT]`: one question, or a conversation on the terminal.

Rule: what a model says reaches a terminal without control characters, and a pipe as it is. Talks to
the manager as any client of its HTTP API does; must not know models.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import secrets
import sys
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from backends.client import ManagerClient
from backends.errors import BadRequest, MidspanError
from lsp_server.cli.exits import Exit
from lsp_server.cli.files import language_id, open_document, read_text
from lsp_server.cli.output import json_option, print_json, progress

PATH = "/v1/chat/completions"
WHOLE_TIMEOUT_S = 3600.0  # for an answer that comes at once, model loading included
GREETING = "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Object = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """What came of one question."""

    text: str = ""
    reasoning: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: Object = field(default_factory=dict)

    def add(self, body: Object) -> tuple[str, str]:
        """Take a body of the API, whole or an event; return its reasoning and its text."""
        self.model = body["model"]
        self.usage = body.get("usage") or self.usage
        reasoning = text = ""
        for choice in body["choices"]:
            said = choice.get("delta") or choice.get("message") or {}
            reasoning, text = said.get("reasoning_content") or "", said.get("content") or ""
            self.finish_reason = choice["finish_reason"] or self.finish_reason
        self.reasoning += reasoning
        self.text += text
        return reasoning, text

    def as_json(self) -> Object:
        """Return what `--json` prints."""
        usage = self.usage
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": usage["prompt_tokens"],
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "completion_tokens": usage["completion_tokens"],
            },
        }


class Screen:
    """Stdout: text as it comes; on a terminal also the reasoning, dimmed."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._thinking = False
        self._last = "\n"  # what the line was last written with

    def show(self, reasoning: str, text: str) -> None:
        """Write a piece of an answer."""
        if reasoning and self._terminal:
            self._thinking = True
            click.secho(printable(reasoning), dim=True, nl=False)
            self._last = reasoning
        if text:
            gap = "\n\n" if self._thinking else ""
            self._thinking = False
            click.echo(gap + (printable(text) if self._terminal else text), nl=False)
            self._last = text

    def end(self) -> None:
        """End the line of an answer, whole or not."""
        if not self._last.endswith("\n"):
            click.echo()
        self._thinking, self._last = False, "\n"


def printable(text: str) -> str:
    """Return `text` without what could drive a terminal; line ends and tabs stay."""
    return _CONTROL.sub("", text)


@dataclass(slots=True)
class Conversation:
    """What was said so far, and how to go on."""

    settings: Mapping[str, object]  # fields of every request
    system: str = ""
    attached: str = ""  # goes before the first question
    stream: bool = True
    messages: list[Object] = field(default_factory=list)
    answered: bool = False
    user: str = field(default_factory=lambda: f"midspan-chat-{secrets.token_hex(8)}")

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()

    async def ask(self, question: str, screen: Screen | None) -> Answer:
        """Ask, show the answer as it comes, and remember both. A failed turn leaves no trace."""
        content = question if self.messages else self.attached + question
        turn = {"role": "user", "content": content}
        answer = await self._answer([*self.messages, turn], screen)
        self.answered = True
        self.messages += [turn, {"role": "assistant", "content": answer.text}]
        return answer

    async def _answer(self, messages: list[Object], screen: Screen | None) -> Answer:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {**self.settings, "messages": system + messages, "user": self.user}
        answer = Answer()
        client = ManagerClient(client_name="midspan-chat")
        try:
            async with aclosing(self._bodies(client, body)) as bodies:
                async for part in bodies:
                    reasoning, text = answer.add(part)
                    if screen is not None:
                        screen.show(reasoning, text)
        finally:
            await client.close()
        return answer

    async def _bodies(self, client: ManagerClient, body: Object) -> Any:
        if not self.stream:
            yield await client.post(PATH, body, timeout=WHOLE_TIMEOUT_S)
            return
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with aclosing(client.stream(PATH, body)) as events:
            async for event in events:
                yield event


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", help="The model that answers; default: the one set for chat.")
@click.option("--system", default="", help="What the model is told before the conversation.")
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A file to show the model with the first question; can be repeated.",
)
@click.option("--max-tokens", type=click.IntRange(1, 131072), help="The longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 for the likeliest words.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option("--arousal", type=float, help="Higher is calmer: temperature 0.7 − 0.2 × AROUSAL.")
@click.option("--valence", type=float, help="Higher is wider: top_p 0.9 + 0.1 × VALENCE.")
@click.option(
    "--steer",
    "steers",
    metavar="NAME=COEFFICIENT",
    multiple=True,
    help="Add a steering vector, as NAME=COEFFICIENT; can be repeated.",
)
@click.option(
    "--schema", type=click.Path(path_type=Path), help="A JSON schema that the answer must fit."
)
@click.option("--no-stream", is_flag=True, help="Show the answer when it is complete.")
@json_option
def chat(
    prompt: str | None,
    model: str | None,
    system: str,
    files: tuple[Path, ...],
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    arousal: float | None,
    valence: float | None,
    steers: tuple[str, ...],
    schema: Path | None,
    no_stream: bool,
    as_json: bool,
) -> int:
    """Ask the model PROMPT, or what comes on stdin; with neither, talk on the terminal.

    Exit code 3 says that the answer is empty.
    """
    mood = {"arousal": arousal, "valence": valence}
    settings = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "modulation": {name: value for name, value in mood.items() if value is not None} or None,
        "steering": [parse_steer(steer) for steer in steers] or None,
        "response_format": None if schema is None else response_format(schema),
    }
    conversation = Conversation(
        settings={name: value for name, value in settings.items() if value is not None},
        system=system,
        attached="".join(map(attachment, files)),
        stream=not (no_stream or as_json),
    )
    if prompt is None and sys.stdin.isatty():
        if as_json:
            raise BadRequest("--json needs a PROMPT, or one on stdin.")
        return _converse(conversation)
    question = sys.stdin.read() if prompt is None else prompt
    if not question.strip():
        raise BadRequest("There is no question: give a PROMPT, or one on stdin.")
    return _ask_once(conversation, question, as_json=as_json)


def parse_steer(text: str) -> Object:
    """Parse "NAME=COEFFICIENT". Raises BadRequest."""
    name, _, number = text.rpartition("=")
    coefficient = math.nan
    with contextlib.suppress(ValueError):
        coefficient = float(number)
    if not name or not math.isfinite(coefficient):
        raise BadRequest(f"{text!r} is not NAME=COEFFICIENT, for example brevity=1.5.")
    return {"name": name, "coefficient": coefficient}


def response_format(path: Path) -> Object:
    """Return what asks for answers that fit the JSON schema in `path`. Raises BadRequest."""
    try:
        schema = json.loads(read_text(path))
    except ValueError as exc:
        raise BadRequest(f"{path} is not JSON: {exc}.") from exc
    if not isinstance(schema, dict) or not schema:
        raise BadRequest(f"{path} holds no JSON schema: it must be an object.")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def attachment(path: Path) -> str:
    """Return `path` as a part of a question. Raises BadRequest, also where it holds secrets."""
    text = open_document(path).text
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)  # nothing in the file can end the block
    return f"{path}:\n{fence}{language_id(path)}\n{text.rstrip()}\n{fence}\n\n"


def _ask_once(conversation: Conversation, question: str, *, as_json: bool) -> int:
    screen = Screen()
    try:
        answer = asyncio.run(conversation.ask(question, None if as_json else screen))
    finally:
        screen.end()
    if as_json:
        print_json(answer.as_json())
    if answer.finish_reason == "length":
        progress(_CUT)
    if not answer.text:
        progress("midspan: the model answered nothing.")
    return Exit.OK if answer.text else Exit.NO_SUGGESTION


_CUT = "midspan: the answer was cut off; --max-tokens sets how long it may be."


def _converse(conversation: Conversation) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing
    progress(GREETING)
    screen = Screen()
    with asyncio.Runner() as runner:
        while (line := _next_line()) is not None:
            if line == "/exit":
                break
            if line == "/reset":
                conversation.reset()
                progress("A new conversation.")
            elif line:
                _take_turn(runner, conversation, line, screen)
    return Exit.OK


def _next_line() -> str | None:
    """Return what the user says next, None at the end. A line that ends in a backslash goes on."""
    lines: list[str] = []
    try:
        while not lines or lines[-1].endswith("\\"):
            lines.append(input("... " if lines else ">>> "))
    except EOFError:
        click.echo()
        return None
    except KeyboardInterrupt:
        click.echo()
        return ""
    return "\n".join(line.removesuffix("\\") for line in lines).strip()


def _take_turn(
    runner: asyncio.Runner, conversation: Conversation, line: str, screen: Screen
) -> None:
    """Ask and show. The first question's failure ends the command, a later one's only its turn."""
    try:
        answer = runner.run(conversation.ask(line, screen))
    except KeyboardInterrupt:
        screen.end()
        progress("Stopped; the question is forgotten.")
    except MidspanError as error:
        if not conversation.answered:
            raise
        screen.end()
        progress(f"midspan: {error}")
    else:
        screen.end()
        if answer.finish_reason == "length":
            progress(_CUT)
