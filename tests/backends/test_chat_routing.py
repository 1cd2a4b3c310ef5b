"""Chat goes to its own model, beside the one that completes; neither costs the other its place."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from backends import lifecycle
from backends.backend import InfillRequest
from backends.errors import LoadFailed, UnknownModel, Unsupported
from backends.lifecycle import Models, ModelState, Purpose, Room, Slot, Wanted
from backends.manager import Manager
from tests.backends import gguf_files
from tests.backends.conftest import MakeManager

GIB = 1024**3


async def complete(manager: Manager) -> str:
    async with asyncio.timeout(30):
        _, backend = await manager.ready()
        async with aclosing(backend.infill(InfillRequest("p", "s", max_tokens=1))) as chunks:
            return "".join([chunk.text async for chunk in chunks])


async def chatting(manager: Manager, model: str | None = None) -> str:
    async with asyncio.timeout(30):
        return (await manager.ready_for_chat(model))[0]


def state_of(manager: Manager, name: str) -> ModelState:
    return manager.models.slot(name).state


async def test_chat_goes_to_the_model_that_completes_unless_told_otherwise(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a", "b")
    assert await chatting(manager) == "a"
    assert await complete(manager) == "xa"
    assert manager.models.current == "a"
    assert manager.models.slot("a").run == 1


async def test_chat_loads_its_model_beside_the_one_that_completes(
    make_manager: MakeManager,
) -> None:
    manager = await make_manager("a", "b", "c", memory_mb=1300)  # two of 600
    assert await complete(manager) == "xa"
    assert await chatting(manager, "b") == "b"
    assert await complete(manager) == "xa"
    assert (manager.serving(), manager.models.chatting) == ("a", "b")
    assert [manager.models.slot(name).run for name in "ab"] == [1, 1]
    # Another for completion takes the first one's place, not the one's that chats.
    await manager.select("c")
    assert await chatting(manager, "b") == "b"
    assert manager.models.slot("b").run == 1
    assert await complete(manager) == "xc"


async def test_two_roles_take_turns_where_both_are_too_much(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "b", memory_mb=1000)
    for _ in range(2):
        assert await complete(manager) == "xa"
        assert await chatting(manager, "b") == "b"
    assert manager.serving() == "a"


async def test_configured_chat_model_is_used(make_manager: MakeManager, private_dirs: Path) -> None:
    manager = await make_manager("a", "b")
    settings = replace(manager._settings, chat=replace(manager._settings.chat, model="b"))
    manager._settings = settings
    assert await chatting(manager) == "b"
    assert await chatting(manager, "a") == "a"


async def test_model_that_cannot_chat_is_refused_with_the_reason(
    make_manager: MakeManager, private_dirs: Path
) -> None:
    manager = await make_manager("mute", "a", "b")
    with pytest.raises(Unsupported, match="It is mute"):
        await chatting(manager)
    silent = gguf_files.values()[:-3] + gguf_files.values()[-2:]
    tensors = [gguf_files.tensor("one", (4, 8))]
    gguf_files.write(private_dirs / "a.gguf", gguf_files.gguf(silent, tensors, bytes(128)))
    with pytest.raises(Unsupported, match="no chat template"):
        await chatting(manager, "a")
    assert state_of(manager, "a") is ModelState.STOPPED  # nothing was loaded to find that out
    with pytest.raises(UnknownModel):
        await chatting(manager, "nobody")


async def test_failed_chat_model_leaves_completion_alone(make_manager: MakeManager) -> None:
    manager = await make_manager("a", "refuse")
    assert await complete(manager) == "xa"
    with pytest.raises(LoadFailed, match="out of memory"):
        await chatting(manager, "refuse")
    assert await complete(manager) == "xa"


def ready(**slots: float) -> dict[str, Slot]:
    return {
        name: Slot(ModelState.READY, run=1, size=int(size * GIB)) for name, size in slots.items()
    }


@pytest.mark.parametrize(
    ("most", "gone"),
    [(12, set()), (9, {"old"}), (5, {"old", "chat"})],
    ids=["all fit", "old one goes", "new one alone"],
)
def test_new_completing_model_takes_the_old_ones_room_first(most: int, gone: set[str]) -> None:
    models = Models(
        ready(old=4, chat=4), current="old", chatting="chat", room=Room(12 * GIB, most * GIB)
    )
    models, _ = lifecycle.step(models, lifecycle.Selected("new", False, 1.0, 4 * GIB))
    stopping = {n for n, s in models.slots.items() if s.state is ModelState.STOPPING}
    assert stopping == gone


def test_chat_does_not_change_what_completes() -> None:
    models = Models(ready(a=1), current="a")
    models, effects = lifecycle.step(models, Wanted("b", False, 1.0, GIB, Purpose.CHAT))
    assert (models.current, models.target, models.chatting) == ("a", None, "b")
    assert [type(effect) for effect in effects] == [lifecycle.Start]
    models, effects = lifecycle.step(models, lifecycle.Loaded("b", 1, 2.0, GIB))
    assert (models.current, models.standby, effects) == ("a", [], ())


def test_failure_that_may_pass_is_tried_again_after_a_while() -> None:
    models, _ = lifecycle.step(Models(), Wanted("r", False, 1.0, 0, Purpose.CHAT))
    refused = lifecycle.Refused("r", 1, "no route", "backend", 2.0, passing=True)
    models, _ = lifecycle.step(models, refused)
    soon, effects = lifecycle.step(models, Wanted("r", False, 3.0))
    assert (soon.slot("r").state, effects) == (ModelState.FAILED, ())
    later = 2.0 + lifecycle.RETRY_AFTER
    again, effects = lifecycle.step(models, Wanted("r", False, later))
    assert again.slot("r").state is ModelState.STARTING
    assert [type(effect) for effect in effects] == [lifecycle.Start]
    lasting, _ = lifecycle.step(
        Models(slots={"r": Slot(ModelState.STARTING, run=1)}), replace(refused, passing=False)
    )
    assert lifecycle.step(lasting, Wanted("r", False, later + 100))[1] == ()
