from __future__ import annotations

import re
import tomllib

import pytest

from backends import config, config_legacy
from lsp_server import repository, user_config
from tests import docs_config

TEXT = docs_config.PAGE.read_text(encoding="utf-8")


def test_docs_config_shows_the_settings_as_they_are() -> None:
    assert docs_config.render(TEXT) == TEXT, "run python -m tests.docs_config"


@pytest.mark.parametrize("part", ["manager", "editor", "kernels", "repository", "kernelagent"])
def test_docs_config_has_every_generated_part(part: str) -> None:
    assert f"<!-- generated: {part} -->" in TEXT


def test_docs_config_examples_have_nothing_wrong() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        repositorys = "ignore" in tomllib.loads(example)
        check = repository.check_text if repositorys else user_config.check_text
        assert check(example, "example.toml") == ()


def test_docs_config_names_every_kernelagent_variable() -> None:
    for backend in config_legacy.BACKENDS.values():
        assert f"`{backend.prefix}…`" in TEXT
    assert f"`{config_legacy.SELECT}`" in TEXT


def test_docs_config_names_every_table() -> None:
    for name in (*config.SHAPE.tables, "models.NAME"):
        assert f"### `[{name}]`" in TEXT
