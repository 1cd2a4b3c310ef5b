from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backends import factory, memory, starter, trial
from backends.catalogue import Model, Source
from backends.config import ModelSettings
from backends.trial import Outcome, Step

TEMPLATE = Path(__file__).parent / "decoding" / "chat_templates" / "chatml.jinja"

pytestmark = pytest.mark.usefixtures("private_dirs")


async def _steps(settings: ModelSettings) -> dict[str, Step]:
    model = Model("tried", Path(settings.path), Source.ADDED, settings)
    return {step.name: step async for step in trial.steps(model)}


@pytest.mark.engine
async def test_steps_of_a_good_model_are_measured_on_it() -> None:
    steps = await _steps(ModelSettings(path=str(starter.path()), engine="llama-cpp"))
    assert not [step for step in steps.values() if step.outcome is Outcome.FAILED]
    resident = steps["load"].figures["resident_bytes"]
    assert 0 < int(resident) <= int(steps["memory"].figures["expected_bytes"])
    assert steps["completes"].figures["text"]
    cold = int(steps["speed"].figures["evaluated_tokens"])
    assert cold > 50  # it was shown all of the file
    assert int(steps["next key"].figures["evaluated_tokens"]) < cold / 10
    assert steps["from cache"].said == "the same text"
    assert steps["chats"].outcome is Outcome.NOTE
    assert "no chat template" in steps["chats"].said


@pytest.mark.engine
async def test_steps_with_a_chat_template_have_what_was_answered() -> None:
    settings = ModelSettings(
        path=str(starter.path()), engine="llama-cpp", chat_template=str(TEMPLATE)
    )
    chats = (await _steps(settings))["chats"]
    # The starter was never taught to chat: what it says is shown, also where that is nothing.
    text = str(chats.figures["text"]).strip()
    assert (chats.outcome, chats.said) == (
        (Outcome.OK, repr(text)) if text else (Outcome.NOTE, "the answer was empty")
    )


async def test_steps_end_where_the_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(starter.path().read_bytes()[:5000])
    steps = await _steps(ModelSettings(path=str(path)))
    assert list(steps) == ["file"]
    assert steps["file"].outcome is Outcome.FAILED
    assert "truncated" in steps["file"].said


@pytest.mark.engine
async def test_steps_load_nothing_that_the_memory_is_too_small_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(memory, "available", lambda: 2**20)
    monkeypatch.setattr(factory, "make", never)
    steps = await _steps(ModelSettings(path=str(starter.path()), engine="llama-cpp"))
    assert list(steps)[-2:] == ["memory", "settings"]
    assert steps["memory"].outcome is Outcome.FAILED
    assert "1 MiB free" in steps["memory"].said


async def test_steps_of_an_endpoint_that_is_down_say_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = ModelSettings(endpoint=f"http://127.0.0.1:{port}", profile="vllm", retries=0)
    steps = await _steps(settings)
    assert list(steps) == ["load"]
    assert steps["load"].outcome is Outcome.FAILED
