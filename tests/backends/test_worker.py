"""The worker process, by its frames."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends import frames, starter
from backends.backend import (
    ChatRequest,
    Chunk,
    FinishReason,
    InfillRequest,
    Message,
    Role,
    Sampling,
    Tool,
)
from backends.config import ModelSettings

pytestmark = pytest.mark.engine
jsonschema = pytest.importorskip("jsonschema")  # comes with the engines


class Pipe:
    """A worker and its pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backends.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, message: frames.ToWorker) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(frames.encode(message))
        self.process.stdin.flush()

    def receive(self) -> frames.FromWorker:
        assert self.process.stdout is not None
        body = frames.read_frame(self.process.stdout)
        assert body is not None, "the worker ended"
        return frames.decode_from_worker(body)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    opened.process.kill()
    opened.process.wait()


def load(path: str = "") -> frames.Load:
    return frames.Load(engine="llama-cpp", path=path or str(starter.path()), name="starter")


def test_worker_loads_completes_and_ends_with_its_input(pipe: Pipe) -> None:
    pipe.send(load())
    loaded = pipe.receive()
    assert isinstance(loaded, frames.Loaded)
    assert loaded.capabilities.fim
    pipe.send(frames.Infill(1, InfillRequest("def f(x):\n    ret", "\n", "d", max_tokens=8)))
    pieces = []
    while not pieces or pieces[-1].chunk.finish_reason is None:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece)
        pieces.append(piece)
    assert {piece.id for piece in pieces} == {1}
    assert "".join(piece.chunk.text for piece in pieces)
    pipe.send(frames.Ping(7))
    pong = pipe.receive()
    assert isinstance(pong, frames.Pong)
    assert (pong.id, pong.active) == (7, 0)
    assert pipe.process.stdin is not None
    pipe.process.stdin.close()
    assert pipe.process.wait(timeout=20) == 0


def test_worker_sends_one_piece_where_nobody_reads_along(pipe: Pipe) -> None:
    pipe.send(load())
    pipe.receive()
    request = InfillRequest("def f(x):\n    ret", "\n", max_tokens=8)
    pipe.send(frames.Infill(1, request))
    streamed: list[Chunk] = []
    while not streamed or streamed[-1].finish_reason is None:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece)
        streamed.append(piece.chunk)
    assert len(streamed) > 1
    pipe.send(frames.Infill(2, replace(request, whole=True)))
    pipe.send(frames.Infill(3, replace(request, whole=True, max_tokens=0)))
    whole, nothing = pipe.receive(), pipe.receive()
    assert isinstance(whole, frames.Piece)
    assert isinstance(nothing, frames.Piece)
    assert whole.id == 2
    assert whole.chunk.text == "".join(chunk.text for chunk in streamed)
    assert whole.chunk.token_ids == tuple(t for chunk in streamed for t in chunk.token_ids)
    assert whole.chunk.usage == streamed[-1].usage
    assert (nothing.id, nothing.chunk.text) == (3, "")


def test_worker_refuses_a_file_that_is_no_model(pipe: Pipe) -> None:
    pipe.send(load(__file__))
    failed = pipe.receive()
    assert isinstance(failed, frames.Failed)
    assert failed.kind == "load_failed"
    assert pipe.process.wait(timeout=20) == 1


def test_worker_whose_manager_died_before_it_began_loads_nothing(pipe: Pipe) -> None:
    assert pipe.process.stdin is not None
    pipe.process.stdin.write(frames.encode(load()))
    pipe.process.stdin.close()  # while its interpreter starts
    assert pipe.process.stdout is not None
    assert pipe.process.stdout.read() == b""
    assert pipe.process.wait(timeout=20) == 1


def test_worker_ends_on_a_broken_frame(pipe: Pipe) -> None:
    assert pipe.process.stdin is not None
    pipe.process.stdin.write(frames.HEADER.pack(frames.MAX_FRAME + 1))
    pipe.process.stdin.close()
    assert pipe.process.wait(timeout=20) == 1


def test_a_defect_in_the_scheduler_ends_the_worker() -> None:
    """It must not live on as a process that answers pings and nothing else."""
    code = (
        "import threading\n"
        "from backends.worker import _run_or_die\n"
        "class Broken:\n"
        "    def run(self): raise RuntimeError('defect')\n"
        "thread = threading.Thread(target=_run_or_die, args=(Broken(),))\n"
        "thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "defect" in done.stderr


@pytest.mark.parametrize(("budget_ms", "least", "most"), [(0.001, 50, 700), (1e6, 900, 2048)])
def test_worker_sizes_cold_prompts_by_the_time_they_may_take(
    pipe: Pipe, tiny_model: Path, budget_ms: float, least: int, most: int
) -> None:
    message = load(str(tiny_model))
    message.cold_prefill_ms = budget_ms
    pipe.send(message)
    assert isinstance(pipe.receive(), frames.Loaded)
    pipe.send(frames.Infill(1, InfillRequest("x = [1, 2]\n" * 2000, "\n", max_tokens=1)))
    while True:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece)
        if piece.chunk.usage is not None:
            break
    assert least < piece.chunk.usage.prompt_tokens < most


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIT = {
    "type": "object",
    "properties": {
        "name": {"enum": ["add", "sub"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "count", "flags"],
    "additionalProperties": False,
}


def chat(pipe: Pipe, id: int, request: ChatRequest) -> list[Chunk]:
    pipe.send(frames.Chat(id, request))
    chunks: list[Chunk] = []
    while not chunks or chunks[-1].finish_reason is None:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece), piece
        assert piece.id == id
        chunks.append(piece.chunk)
    return chunks


@pytest.fixture
def chatting(pipe: Pipe, tmp_path: Path) -> Pipe:
    template = tmp_path / "chatml.jinja"
    template.write_text(CHATML, encoding="utf-8")
    message = load()
    message.settings = ModelSettings(chat_template=str(template))
    pipe.send(message)
    loaded = pipe.receive()
    assert isinstance(loaded, frames.Loaded)
    assert loaded.capabilities.chat
    assert loaded.capabilities.tools
    assert not loaded.capabilities.no_chat_reason
    return pipe


def test_worker_chats_and_caches_the_turns(chatting: Pipe) -> None:
    first = ChatRequest((Message(Role.USER, "def add(a, b):"),), session="s", max_tokens=24)
    chunks = chat(chatting, 1, first)
    text, usage = "".join(chunk.text for chunk in chunks), chunks[-1].usage
    assert usage is not None
    answer, question = Message(Role.ASSISTANT, text), Message(Role.USER, "and sub?")
    turn = replace(first, messages=(*first.messages, answer, question))
    second = chat(chatting, 2, turn)[-1].usage
    assert second is not None
    assert second.cached_tokens >= usage.prompt_tokens
    assert second.cached_tokens < second.prompt_tokens


def test_worker_holds_the_starter_to_a_schema(chatting: Pipe) -> None:
    """Six million parameters know no JSON; with the grammar they can't get it wrong."""
    for n, temperature in enumerate((0.0, 1.5)):
        sampling = Sampling(temperature, seed=3)
        request = ChatRequest(
            (Message(Role.USER, "x"),), schema=FIT, sampling=sampling, max_tokens=90
        )
        answer = "".join(chunk.text for chunk in chat(chatting, n + 1, request))
        jsonschema.validate(json.loads(answer), FIT)


def test_worker_makes_the_starter_call_a_named_tool(chatting: Pipe) -> None:
    tools = (Tool("set_flags", "Set them.", FIT), Tool("other", "", {}))
    request = ChatRequest(
        (Message(Role.USER, "x"),), tools=tools, tool_choice="set_flags", max_tokens=120
    )
    last = chat(chatting, 1, request)[-1]
    assert last.finish_reason is FinishReason.TOOL_CALLS
    (call,) = last.tool_calls
    assert call.name == "set_flags"
    jsonschema.validate(json.loads(call.arguments), FIT)


def test_worker_without_a_chat_template_says_so_and_still_completes(pipe: Pipe) -> None:
    pipe.send(load())
    loaded = pipe.receive()
    assert isinstance(loaded, frames.Loaded)
    assert not loaded.capabilities.chat
    assert "chat_template" in loaded.capabilities.no_chat_reason
    pipe.send(frames.Chat(1, ChatRequest((Message(Role.USER, "hi"),))))
    failed = pipe.receive()
    assert isinstance(failed, frames.Failed)
    assert (failed.id, failed.kind) == (1, "unsupported")


@pytest.mark.parametrize("source", [None, "{{ broken", "{{ raise_exception('no') }}"])
def test_worker_loads_with_a_chat_template_that_is_of_no_use(
    pipe: Pipe, tmp_path: Path, source: str | None
) -> None:
    template = tmp_path / "template.jinja"
    if source is not None:
        template.write_text(source, encoding="utf-8")
    message = load()
    message.settings = ModelSettings(chat_template=str(template))
    pipe.send(message)
    loaded = pipe.receive()
    assert isinstance(loaded, frames.Loaded)
    assert loaded.capabilities.fim
    assert not loaded.capabilities.chat
    assert "chat template" in loaded.capabilities.no_chat_reason
