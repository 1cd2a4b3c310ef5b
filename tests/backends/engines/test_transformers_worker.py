"""The transformers engine in a worker process: from frame to frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import frames
from backends.backend import Chunk, FinishReason, InfillRequest, Usage
from backends.config import ModelSettings
from benchmarks import same_weights
from tests.backends.test_worker import Pipe

TEXT = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n\n\n" * 12
REQUEST = InfillRequest(TEXT + "def name(path):\n    ret", "\n\nprint(1)\n", "d", max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return same_weights.write(tmp_path_factory.mktemp("same")).transformers


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    opened.process.kill()
    opened.process.wait()


def load(pipe: Pipe, folder: Path, **settings: object) -> frames.FromWorker:
    chosen = ModelSettings(dtype="float32", **settings)  # type: ignore[arg-type]
    pipe.send(frames.Load(engine="transformers", path=str(folder), name="starter", settings=chosen))
    return pipe.receive()


def answer(pipe: Pipe, id: int) -> tuple[str, Chunk]:
    text = ""
    while True:
        piece = pipe.receive()
        assert isinstance(piece, frames.Piece), piece
        assert piece.id == id
        text += piece.chunk.text
        if piece.chunk.finish_reason is not None:
            return text, piece.chunk


def usage(chunk: Chunk) -> Usage:
    assert chunk.usage is not None
    return chunk.usage


def evaluated(pipe: Pipe) -> int:
    pipe.send(frames.Ping(0))
    pong = pipe.receive()
    assert isinstance(pong, frames.Pong)
    return pong.evaluated_tokens


def handed_over(pipe: Pipe) -> list[frames.Snapshot]:
    assert pipe.process.stdout is not None
    found = []
    while (body := frames.read_frame(pipe.process.stdout)) is not None:
        message = frames.decode_from_worker(body)
        assert isinstance(message, frames.Snapshot)
        found.append(message)
    return found


def test_infill_counts_what_it_evaluates_and_hands_its_cells_over(pipe: Pipe, folder: Path) -> None:
    loaded = load(pipe, folder)
    assert isinstance(loaded, frames.Loaded), loaded
    assert loaded.capabilities.fim
    assert "transformers" in loaded.description
    pipe.send(frames.Infill(1, REQUEST))
    cold_text, cold = answer(pipe, 1)
    assert cold_text
    assert usage(cold).cached_tokens == 0
    assert 0 < usage(cold).prompt_tokens <= evaluated(pipe)
    pipe.send(frames.Infill(2, REQUEST))
    warm_text, warm = answer(pipe, 2)
    assert warm_text == cold_text
    assert usage(warm).prompt_tokens == usage(cold).prompt_tokens
    assert usage(warm).cached_tokens >= usage(warm).prompt_tokens - 4
    pipe.send(frames.Unload(64 << 20))
    snapshots = handed_over(pipe)
    assert snapshots
    assert pipe.process.wait(timeout=60) == 0
    again = Pipe()
    try:
        assert isinstance(load(again, folder), frames.Loaded)
        for snapshot in snapshots:
            again.send(snapshot)
        again.send(frames.Infill(3, REQUEST))
        text, restored = answer(again, 3)
        assert text == cold_text
        assert usage(restored).cached_tokens > usage(cold).prompt_tokens // 2
    finally:
        again.process.kill()
        again.process.wait()


def test_a_cancelled_request_ends_and_the_next_one_works(pipe: Pipe, folder: Path) -> None:
    assert isinstance(load(pipe, folder), frames.Loaded)
    pipe.send(frames.Infill(1, InfillRequest(TEXT * 2, "\n", "d", max_tokens=2000)))
    pipe.send(frames.Cancel(1))
    assert answer(pipe, 1)[1].finish_reason is FinishReason.CANCELLED
    pipe.send(frames.Infill(2, REQUEST))
    text, chunk = answer(pipe, 2)
    assert text
    assert chunk.finish_reason is not FinishReason.CANCELLED


def test_a_setting_that_can_t_be_had_fails_the_load_with_its_name(pipe: Pipe, folder: Path) -> None:
    failed = load(pipe, folder, attention="flash_attention_2", device="cpu")
    assert isinstance(failed, frames.Failed)
    assert failed.kind == "unsupported"
    assert "flash_attention_2" in failed.message
    assert pipe.process.wait(timeout=60) == 1
