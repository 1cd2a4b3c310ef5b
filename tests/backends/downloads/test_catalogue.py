"""The rows of data: as many as promised, of one form, and in agreement with what midspan does."""

from __future__ import annotations

import dataclasses
import re

import jsonschema
import pytest

from backends import quantisation
from backends.config import MODEL_NAME
from backends.downloads import names
from backends.downloads.catalogue import BITS, BY_NAME, DOWNLOADABLE, Downloadable
from fim import templates
from fim.catalogue import FAMILIES
from lsp_server import user_config
from tests import docs_models

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]+$"},
        "repository": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
        "architecture": {"type": "string", "minLength": 2},
        "family": {"enum": ["", *(row.family for row in FAMILIES)]},
        "parameters": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "active": {"type": "number", "minimum": 0},
        "context_length": {"type": "integer", "minimum": 2048, "maximum": 1 << 20},
        "licence": {"type": "string", "pattern": "^[a-z0-9.-]+$"},
        "chat": {"type": "boolean"},
        "cells": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "minItems": 3,
            "maxItems": 3,
        },
        "format": {"enum": ["gguf", "safetensors", "mlx"]},
        "quantisations": {"type": "array", "items": {"enum": list(BITS)}, "minItems": 1},
        "note": {"type": "string"},
    },
    "additionalProperties": False,
}
ROWS = pytest.mark.parametrize("row", DOWNLOADABLE, ids=lambda row: row.name)


def test_catalogue_has_what_was_promised() -> None:
    assert len(DOWNLOADABLE) >= 20
    assert len(BY_NAME) == len(DOWNLOADABLE)
    assert len({row.repository for row in DOWNLOADABLE}) == len(DOWNLOADABLE)
    assert sum(row.fim for row in DOWNLOADABLE) >= 19
    assert {row.format for row in DOWNLOADABLE} == {"gguf", "safetensors", "mlx"}


@ROWS
def test_row_has_the_form(row: Downloadable) -> None:
    values = {**dataclasses.asdict(row), "cells": list(row.cells)}
    values["quantisations"] = list(row.quantisations)
    jsonschema.validate(values, SCHEMA)
    assert MODEL_NAME.fullmatch(row.name)
    names.repository(row.repository)
    assert row.fim or row.chat
    assert row.active < row.parameters
    # Either all that is cached is known, or the note says what is not, or why it is another thing.
    assert all(row.cells) or (not any(row.cells) and row.note)


@ROWS
def test_row_agrees_with_what_would_be_detected(row: Downloadable) -> None:
    name = templates.called("", row.repository.rpartition("/")[2] + ".gguf")
    if not row.fim:
        # Some of them have a family's tokens, untrained: name and architecture must not let them.
        for family in FAMILIES:
            tokens = {token: number for number, token in enumerate(family.fim_tokens)}
            found = templates.detect(tokens, architecture=row.architecture, name=name)
            assert isinstance(found, templates.NoFim)
        return
    family = next(known for known in FAMILIES if known.family == row.family)
    tokens = {token: number for number, token in enumerate(family.fim_tokens)}
    found = templates.detect(tokens, architecture=row.architecture, name=name)
    assert isinstance(found, templates.Template), found
    assert found.family == row.family


@ROWS
def test_row_has_a_plausible_size(row: Downloadable) -> None:
    # Its name says the parameters, but for those that have a fancy one.
    said = re.search(r"-(\d+(?:\.\d+)?)b", row.name)
    if said:
        assert 0.75 <= row.parameters / float(said[1]) <= 1.35
    if row.spec:
        assert 10_000 < row.spec.token_bytes("f16") < 1_000_000
    assert all(0 < row.file_bytes(name) < 300e9 for name in row.quantisations)


def test_bits_are_those_of_known_quantisations() -> None:
    known = {name for name, _ in quantisation.FILE_TYPES.values()}
    assert set(BITS) - {"4bit", "bfloat16"} <= known


def test_docs_models_shows_the_catalogue_as_it_is() -> None:
    page = docs_models.PAGE.read_text(encoding="utf-8")
    assert docs_models.render(page) == page, "run python -m tests.docs_models"
    example = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    assert user_config.check_text(example, "example.toml") == ()
