from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backends import __version__, state
from backends.backend import Chunk, FinishReason, SteeringUse, Usage
from backends.errors import BackendError, BadRequest, Unsupported
from backends.state import Endpoint
from lsp_server.cli.chat import attachment, parse_steer, printable, response_format
from lsp_server.cli.exits import Exit
from tests.backends.api.conftest import END, Scripted, scripted_api
from tests.backends.conftest import TOKEN
from tests.conftest import MIDSPAN, Env, private_env

PATIENCE = 60


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def object(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Chat:
    """`midspan chat` against a scripted manager."""

    scripted: Scripted
    env: Env

    async def run(self, *arguments: str, stdin: str = "") -> Done:
        pipe = asyncio.subprocess.PIPE
        command = (*MIDSPAN, "chat", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, env=self.env, stdin=pipe, stdout=pipe, stderr=pipe
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    @contextlib.asynccontextmanager
    async def terminal(self, *arguments: str) -> AsyncIterator[Terminal]:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(*MIDSPAN, "chat", *arguments),
            env=self.env | {"TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        try:
            yield Terminal(process, ours)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(ours)


@dataclass
class Terminal:
    process: asyncio.subprocess.Process
    fd: int
    shown: str = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    async def until(self, text: str) -> str:
        """Return what was shown up to and with `text`."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError, OSError):  # the last is its end
                self.shown += os.read(self.fd, 65536).decode()
        before, _, self.shown = self.shown.partition(text)
        return before + text

    async def end(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@pytest_asyncio.fixture
async def chat(tmp_path: Path) -> AsyncIterator[Chat]:
    folder = tmp_path / "midspan"
    folder.mkdir()
    env = private_env(folder)
    runtime = Path(env["MIDSPAN_RUNTIME_DIR"])
    started = state.process_start(os.getpid())
    assert started is not None
    async with scripted_api(tmp_path) as scripted:
        here = Endpoint("127.0.0.1", scripted.port, TOKEN, os.getpid(), started, __version__, 1.0)
        state.write(here, runtime)
        try:
            yield Chat(scripted, env)
        finally:
            state.remove(os.getpid(), runtime)


async def test_chat_prints_the_answer_alone(chat: Chat) -> None:
    chat.scripted.script(Chunk("", reasoning="Hm."), Chunk("Hel"), Chunk("lo"), END)
    done = await chat.run("Hi")
    assert (done.code, done.stdout, done.stderr) == (Exit.OK, "Hello\n", "")
    [message] = chat.scripted.request.messages
    assert message.content == "Hi"


async def test_chat_asks_what_comes_on_stdin(chat: Chat) -> None:
    done = await chat.run("--no-stream", stdin="From a pipe\n")
    assert (done.code, done.stdout) == (Exit.OK, "Hello\n")
    assert chat.scripted.request.messages[0].content == "From a pipe\n"


async def test_chat_json_is_one_object(chat: Chat) -> None:
    chat.scripted.script(Chunk("", reasoning="Hm."), Chunk("4"), END)
    done = await chat.run("2 + 2?", "--json")
    assert done.stderr == ""
    assert done.object == {
        "text": "4",
        "reasoning": "Hm.",
        "model": "a",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 10, "cached_tokens": 7, "completion_tokens": 3},
    }


async def test_chat_sends_its_options(chat: Chat, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    code = tmp_path / "code.py"
    code.write_text("x = 1\n")
    done = await chat.run(
        *("What?", "--model", "a", "--system", "Be brief.", "--file", str(code)),
        *("--max-tokens", "5", "--seed", "0", "--arousal", "-1", "--valence", "0"),
        *("--steer", "brevity=1.5", "--steer", "type_hints=-2", "--schema", str(schema)),
    )
    assert done.code == Exit.OK, done.stderr
    request = chat.scripted.request
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[0].content == "Be brief."
    assert request.messages[1].content == f"{code}:\n```python\nx = 1\n```\n\nWhat?"
    assert (request.max_tokens, request.schema) == (5, {"type": "object"})
    assert request.steering == (SteeringUse("brevity", 1.5), SteeringUse("type_hints", -2.0))
    assert request.sampling.seed == 0
    assert request.sampling.temperature == pytest.approx(0.9)


async def test_chat_at_temperature_zero_is_greedy(chat: Chat) -> None:
    await chat.run("Hi", "--temperature", "0")
    assert chat.scripted.request.sampling.temperature == 0


async def test_chat_says_that_an_answer_is_empty_or_cut(chat: Chat) -> None:
    chat.scripted.script(END)
    done = await chat.run("Hi")
    assert (done.code, done.stdout) == (Exit.NO_SUGGESTION, "")
    assert "nothing" in done.stderr
    chat.scripted.script(Chunk("x"), Chunk("", finish_reason=FinishReason.LENGTH, usage=Usage()))
    done = await chat.run("Hi")
    assert (done.code, done.stdout) == (Exit.OK, "x\n")
    assert "--max-tokens" in done.stderr


async def test_chat_says_why_the_model_cannot(chat: Chat) -> None:
    chat.scripted.manager.refusal = Unsupported("a cannot chat: it has no chat template.")
    for arguments in (("Hi",), ("Hi", "--no-stream"), ("Hi", "--json")):
        done = await chat.run(*arguments)
        assert done.code == Exit.UNAVAILABLE
        assert done.stderr == "midspan: a cannot chat: it has no chat template.\n"
    assert done.object["error"]["kind"] == "unsupported"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "none", "Hi"], "none"),
        ([""], "no question"),
        ([], "no question"),
        (["Hi", "--steer", "brevity"], "NAME=COEFFICIENT"),
        (["Hi", "--schema", "/no/such.json"], "cannot be read"),
        (["Hi", "--file", "/no/such.py"], "cannot be read"),
        (["Hi", "--temperature", "3"], "temperature"),
    ],
)
async def test_chat_explains_bad_arguments(chat: Chat, arguments: list[str], said: str) -> None:
    done = await chat.run(*arguments, "--json")
    assert done.code == Exit.USAGE
    assert said in done.object["error"]["message"]
    assert done.stderr.count("\n") == 1


async def test_conversation_on_a_terminal(chat: Chat) -> None:
    chat.scripted.script(Chunk("", reasoning="Hm."), Chunk("He\x1b[2Jllo\n"), END)
    async with chat.terminal("--system", "S") as terminal:
        await terminal.until(">>> ")
        terminal.type("one\\\ntwo\n")
        shown = await terminal.until(">>> ")
        assert "\x1b[2mHm.\x1b[0m" in shown  # dimmed
        assert "He[2Jllo" in shown  # the model cannot drive the terminal
        terminal.type("more\n")
        await terminal.until(">>> ")
        said = [message.content for message in chat.scripted.request.messages]
        assert said == ["S", "one\ntwo", "He\x1b[2Jllo\n", "more"]
        terminal.type("/reset\n")
        await terminal.until(">>> ")
        terminal.type("anew\n")
        await terminal.until(">>> ")
        assert [m.content for m in chat.scripted.request.messages] == ["S", "anew"]
        terminal.type("/exit\n")
        assert await terminal.end() == Exit.OK


async def test_interrupt_stops_the_answer_and_not_the_program(chat: Chat) -> None:
    chat.scripted.script(*[Chunk("word ")] * 1000, END)
    chat.scripted.backend.token_seconds = 0.05
    async with chat.terminal() as terminal:
        await terminal.until(">>> ")
        terminal.type("Tell me\n")
        await terminal.until("word word ")
        terminal.process.send_signal(signal.SIGINT)
        assert "Traceback" not in await terminal.until(">>> ")
        async with asyncio.timeout(PATIENCE):
            while chat.scripted.backend.under_way:
                await asyncio.sleep(0.01)
        chat.scripted.script(Chunk("ok"), END)
        terminal.type("And now?\n")
        await terminal.until("ok")
        assert [m.content for m in chat.scripted.request.messages] == ["And now?"]
        await terminal.until(">>> ")
        terminal.process.send_signal(signal.SIGINT)  # at the prompt: nothing to stop
        await terminal.until(">>> ")
        terminal.type("\x04")
        assert await terminal.end() == Exit.OK


async def test_failure_ends_the_turn_but_at_the_first_the_program(chat: Chat) -> None:
    async with chat.terminal() as terminal:
        await terminal.until(">>> ")
        terminal.type("Hi\n")
        await terminal.until(">>> ")
        chat.scripted.script(BackendError("The worker is busy."))
        terminal.type("More\n")
        assert "The worker is busy." in await terminal.until(">>> ")
        terminal.type("/exit\n")
        assert await terminal.end() == Exit.OK
    async with chat.terminal() as terminal:
        await terminal.until(">>> ")
        terminal.type("Hi\n")
        await terminal.until("The worker is busy.")
        assert await terminal.end() == Exit.UNAVAILABLE


async def test_interrupt_of_one_question_cancels_it(chat: Chat) -> None:
    chat.scripted.script(*[Chunk("word ")] * 1000, END)
    chat.scripted.backend.token_seconds = 0.05
    async with chat.terminal("Tell me") as terminal:
        await terminal.until("word word ")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == Exit.INTERRUPTED
    async with asyncio.timeout(PATIENCE):
        while chat.scripted.backend.under_way:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("brevity=1.5", {"name": "brevity", "coefficient": 1.5}),
        ("a=b=-2", {"name": "a=b", "coefficient": -2.0}),
        ("x=0", {"name": "x", "coefficient": 0.0}),
    ],
)
def test_parse_steer_reads_name_and_coefficient(text: str, parsed: dict[str, Any]) -> None:
    assert parse_steer(text) == parsed


@pytest.mark.parametrize("text", ["", "x", "=1", "x=", "x=much", "x=nan", "x=inf"])
def test_parse_steer_refuses_the_rest(text: str) -> None:
    with pytest.raises(BadRequest, match="NAME=COEFFICIENT"):
        parse_steer(text)


def test_attachment_cannot_be_ended_by_what_is_in_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("````\ncode\n````\n")
    assert attachment(page) == f"{page}:\n`````markdown\n````\ncode\n````\n`````\n\n"


def test_attachment_refuses_secrets(tmp_path: Path) -> None:
    secret = tmp_path / ".env"
    secret.write_text("KEY=1\n")
    with pytest.raises(BadRequest, match="secret"):
        attachment(secret)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"'])
def test_response_format_refuses_what_is_no_schema(tmp_path: Path, text: str) -> None:
    file = tmp_path / "schema.json"
    file.write_text(text)
    with pytest.raises(BadRequest, match=r"schema\.json"):
        response_format(file)


def test_printable_keeps_text_lines_and_tabs() -> None:
    assert printable("a\tb\nc\x1b[31m\r\x9b\x07é✓") == "a\tb\nc[31mé✓"
