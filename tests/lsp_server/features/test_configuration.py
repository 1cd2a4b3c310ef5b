from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends import errors
from backends.config_layers import assignments
from backends.config_schema import similar, specs
from lsp_server.server import _arguments
from lsp_server.settings import Settings
from tests.lsp_server.session import NO_ANSWER, Session

PULLS = {
    "workspace": {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}}
}


def answers(session: Session, settings: object) -> None:
    session.client_answers["workspace/configuration"] = lambda params: [settings]


async def test_settings_are_pulled_and_win_over_initialization_options(session: Session):
    answers(session, {"maxTokens": 7})
    await session.start(PULLS, {"midspan": {"maxTokens": 5, "maxTokensLine": 3}})
    await session.status(kind="Normal")
    asked = await session.until(lambda m: m["method"] == "workspace/configuration")
    assert asked["params"]["items"] == [{"section": "midspan"}]
    assert (session.server.settings.max_tokens, session.server.settings.max_tokens_line) == (7, 3)
    registered = await session.until(lambda m: m["method"] == "client/registerCapability")
    (registration,) = registered["params"]["registrations"]
    assert registration["method"] == "workspace/didChangeConfiguration"


async def test_pushed_settings_are_taken(session: Session):
    await session.start()
    session.open("x = \n")
    session.notify(
        "workspace/didChangeConfiguration", {"settings": {"midspan": {"enabled": False}}}
    )
    assert await session.items(session.ghost(0, 4)) == []


async def test_change_without_settings_is_pulled(session: Session):
    answers(session, {"maxTokens": 7})
    await session.start(PULLS)
    await session.status(kind="Normal")
    answers(session, {"maxTokens": 8})
    session.notify("workspace/didChangeConfiguration", {"settings": None})
    async with asyncio.timeout(20):
        while session.server.settings.max_tokens != 8:
            await asyncio.sleep(0.01)


async def test_wrong_and_unknown_settings_are_told_once_and_pop_up_nothing(session: Session):
    await session.start(options={"colour": "red", "maxTokens": "many"})
    await session.status(kind="Normal")
    session.notify("workspace/didChangeConfiguration", {"settings": {"midspan": {"colour": 1}}})
    await session.command("midspan.status")
    told = [m["params"]["message"] for m in session.messages if m["method"] == "window/logMessage"]
    assert sorted(told) == [
        "midspan: editor settings: 'maxTokens' must be a whole number from 1 to 4096, not 'many'",
        f"midspan: editor settings: unknown key 'colour'{similar('colour', specs(Settings))}",
    ]
    assert not [m for m in session.messages if m["method"] == "window/showMessage"]


async def test_client_that_does_not_answer_configuration_gets_suggestions(session: Session):
    session.client_answers["workspace/configuration"] = lambda params: NO_ANSWER
    await session.start({"workspace": {"configuration": True}})
    session.open("x = \n")
    assert len(await session.items(session.ghost(0, 4))) == 1


async def test_copilots_own_options_are_no_unknown_settings(session: Session):
    await session.start(options={"editorInfo": {}, "editorPluginInfo": {}})
    await session.status(kind="Normal")
    assert not [m for m in session.messages if m["method"] == "window/logMessage"]


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("MIDSPAN_CONFIG", str(file))
    return file


async def test_layers_of_a_window_win_in_order(
    session: Session, config_file: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each setting is set by all layers up to one; that one wins."""
    names = ("deadline_ms", "debounce_ms", "max_tokens", "max_tokens_line", "max_tokens_action")
    names = (*names, "deadline_action_ms")
    config_file.write_text("[lsp]\n" + "".join(f"{name} = 101\n" for name in names[1:]))
    for name in names[2:]:
        monkeypatch.setenv(f"MIDSPAN_LSP_{name.upper()}", "102")
    answers(session, {"maxTokensAction": 104, "deadlineActionMs": 104})
    session.server.configuration.above = tuple(assignments(["lsp.deadline_action_ms=105"]))
    await session.start(PULLS, {"maxTokensLine": 103, "maxTokensAction": 103})
    await session.status(kind="Normal")
    settings = session.server.settings
    assert [getattr(settings, name) for name in names] == [2000, 101, 102, 103, 104, 105]
    explained = (await session.command("midspan.status"))["result"]["settings"]
    assert explained == {
        "lsp.debounce_ms": {"value": 101, "from": f"{config_file}:2"},
        "lsp.max_tokens": {"value": 102, "from": "MIDSPAN_LSP_MAX_TOKENS"},
        "lsp.max_tokens_line": {"value": 103, "from": "editor settings"},
        "lsp.max_tokens_action": {"value": 104, "from": "editor settings"},
        "lsp.deadline_action_ms": {"value": 105, "from": "--set lsp.deadline_action_ms"},
    }


async def test_file_can_switch_off_before_a_manager_is_started(session: Session, config_file: Path):
    config_file.write_text("[lsp]\nenabled = false\n")
    await session.start()
    await session.status(kind="Inactive", message="suggestions are switched off")
    assert session.manager.warmed == 0


async def test_problems_of_the_file_are_one_message(session: Session, config_file: Path):
    config_file.write_text("[lsp]\nenabld = 1\n[manager]\nprot = 1\nport = 'x'\n")
    await session.start()
    await session.status(kind="Normal")
    (shown,) = [m["params"] for m in session.messages if m["method"] == "window/showMessage"]
    assert shown["type"] == 2
    assert shown["message"] == (
        f"midspan: {config_file}:2:1: unknown key 'enabld'; did you mean 'enabled'? "
        "(2 more; `midspan config check` lists them)"
    )
    logged = [
        m["params"]["message"] for m in session.messages if m["method"] == "window/logMessage"
    ]
    assert len(logged) == 3


async def test_file_that_cannot_be_read_is_said_and_nothing_else(
    session: Session, config_file: Path
):
    config_file.mkdir()
    await session.start()
    await session.status(kind="Normal")
    session.open("x = \n")
    assert len(await session.items(session.ghost(0, 4))) == 1
    (shown,) = [m["params"] for m in session.messages if m["method"] == "window/showMessage"]
    assert "cannot be read: Is a directory" in shown["message"]


async def test_model_of_the_settings_is_selected_at_the_start_and_on_change(session: Session):
    select = "/api/models/select"
    await session.start(options={"model": "mine"})
    await session.status(kind="Normal")
    assert session.manager.posted == [(select, {"name": "mine"})]
    for name in ("other", "other", ""):
        session.notify(
            "workspace/didChangeConfiguration", {"settings": {"midspan": {"model": name}}}
        )
    await session.status(kind="Normal")
    await session.command("midspan.status")
    assert session.manager.posted == [(select, {"name": "mine"}), (select, {"name": "other"})]


async def test_model_that_is_not_there_is_said_and_the_next_key_is_served(session: Session):
    session.manager.error = errors.UnknownModel("No model is called 'none'.")
    await session.start(options={"model": "none"})
    await session.status(kind="Error", message="No model is called 'none'.")
    session.manager.error = None
    session.open("x = \n")
    assert len(await session.items(session.ghost(0, 4))) == 1


def test_arguments_of_the_server_are_assignments_or_unknown():
    assert _arguments(["--stdio", "--set", "lsp.x=1", "--set=lsp.y=2", "--port"]) == (
        ["lsp.x=1", "lsp.y=2"],
        ["--port"],
    )
