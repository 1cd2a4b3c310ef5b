from __future__ import annotations

import pytest

from lsp_server.settings import Multiline, Settings, resolve, section


def test_resolve_nothing_gives_the_defaults():
    assert resolve() == (Settings(), ())
    assert resolve(None, {}) == (Settings(), ())


def test_resolve_later_layers_win():
    settings, problems = resolve({"max_tokens": 10, "enabled": False}, {"maxTokens": 20})
    assert (settings.max_tokens, settings.enabled, problems) == (20, False, ())


@pytest.mark.parametrize(
    ("key", "raw", "words"),
    [
        ("enabled", 1, "true or false"),
        ("enabled", "yes", "true or false"),
        ("maxTokens", "96", "from 1 to 4096"),
        ("maxTokens", 0, "from 1 to 4096"),
        ("maxTokens", True, "from 1 to 4096"),
        ("debounce_ms", -1, "from 0 to 5000"),
        ("multiline", "sometimes", '"auto", "always", "never"'),
        ("multiline", [], "one of"),
        ("disabledLanguages", "python", "a list of strings"),
        ("disabledLanguages", [1], "a list of strings"),
        ("colour", "red", "unknown key 'colour'"),
        ("maxToken", 1, "did you mean 'max_tokens'?"),
    ],
)
def test_resolve_keeps_the_default_and_says_what_is_wrong(key, raw, words):
    try:
        settings, problems = resolve({key: raw})
    except TypeError as exc:
        pytest.fail(f"raised {exc}")
    assert settings == Settings()
    assert len(problems) == 1
    assert words in problems[0].message
    assert key in problems[0].message
    assert problems[0].source == "editor settings"


def test_resolve_reads_every_kind():
    settings, problems = resolve(
        {"multiline": "never", "disabledLanguages": ["markdown"], "deadlineMs": 500, "popup": None}
    )
    assert problems == ()
    assert settings.multiline is Multiline.NEVER
    assert settings.disabled_languages == ("markdown",)
    assert settings.deadline_ms == 500


@pytest.mark.parametrize(
    ("raw", "expected", "why"),
    [
        ({"midspan": {"enabled": False}}, {"enabled": False}, "as VS Code pushes them"),
        ({"enabled": False}, {"enabled": False}, "bare, as initializationOptions are often"),
        (None, {}, "Neovim without settings"),
        ([], {}, "not an object"),
        ({"midspan": None}, {}, "a section that is not set"),
    ],
)
def test_section_finds_ours(raw, expected, why):
    assert section(raw) == expected, why
